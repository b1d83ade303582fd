"""What is made of supports on the host: finite ones, and samples of one depth.

A support is made and proved once, before anything is trained.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import modules
from compgen_jax.task.latent import Composition, with_cap
from compgen_jax.task.pools import PoolConfig, replicate_salt
from compgen_jax.task.sampler import Sampler
from compgen_jax.task.support import Support, SupportConfig
from compgen_jax.task.vocab import TaskConfig

_DRAWN_AT_A_TIME = 4096  # compositions, because many lie outside a support
_MOST_TABLES = 256  # after so many, no table is taken to cover what is asked for
_DRAWN_AGAIN = 1 << 20  # folded into the key of a table that is not the first
_CHOSEN_FROM = 1024  # compositions of a depth from which a balanced table is chosen


class EmptySupportError(ValueError):
  """A support holds fewer compositions than asked for."""


def build(
  name: str,
  config: SupportConfig,
  task: TaskConfig,
  pools: PoolConfig,
  seed: int = 0,
  other: Support | None = None,
) -> Support:
  """Makes a replicate's support and proves that it holds what the config asks for.

  Which compositions are in which pool, and which of them a finite support keeps, depends on the
  config and on the replicate's salt alone: of each depth the first that are drawn, so that 50 of a
  pool are among 100 of it. With `balanced`, the next composition is always the one that keeps the
  use of modules, over all depths, most even. With `covers`, a finite support is drawn again until
  it covers its modules (the first draw is the one without `covers`). With `subset`, it then holds
  the first of each depth: the same compositions as are in the support without `subset`, but fewer.

  With `overlap`, `(name, share)`, floor(share * compositions) of them are those that come first in
  `other`, the finite support of that name of the same replicate, among those that fit the config
  (whatever the pool). The rest are not in it, so that the overlap is exact.

  Raises:
    EmptySupportError: no composition (or too few) of some depth fits the config, or no table drawn
      covers its modules.
  """
  n_depths = len(config.depths)
  whole = Support(config, task, pools, np.uint32(replicate_salt(pools.salt, seed)))
  if min(len(indices) for indices in whole.allowed) == 0:
    raise EmptySupportError(f'supports.{name}: every skill or every routing mechanism is left out')
  for n in (config.compositions, config.subset):
    if 0 < n < n_depths:
      raise EmptySupportError(f'supports.{name}: {n} compositions for {n_depths} depths')
  for draw in range(_MOST_TABLES):
    rows = _table_rows(name, whole, draw, other)
    if config.compositions == 0:
      return whole
    finite = dataclasses.replace(whole, table=_from_rows(rows))
    if min(n for counts in shown_by(finite) for n in counts.values()) >= config.covers:
      return _subset(finite)
  wish = f'shows every skill and routing mechanism in {config.covers} compositions'
  legal = 'legal is more compositions, or a lower covers'
  found = f'no table of {config.compositions} {wish} ({_MOST_TABLES} drawn)'
  raise EmptySupportError(f'supports.{name}.covers={config.covers}: {found}; {legal}')


def _table_rows(name: str, support: Support, draw: int, other: Support | None) -> np.ndarray:
  """An equal share of compositions of each depth, as rows: as many as the config asks for.

  Raises:
    EmptySupportError: there are too few of some depth.
  """
  tables, n_before = [], 0
  other_name, overlap = support.config.overlap or ('', 0.0)
  for depth, share in _shares(support, support.config.compositions):
    # Depth after depth, so that the whole has its share although each depth's is rounded.
    n_taken = math.floor(overlap * (n_before + share)) - math.floor(overlap * n_before)
    n_before += share
    wanted = max(1, share) - n_taken
    shown, fitting = _rows_of(other, support, depth) if other else ([], [])
    rows = _distinct_rows(support, depth, wanted, draw, {row.tobytes() for row in shown})
    where = f'of depth {depth}'
    for n, found, what in (
      (wanted, rows, 'that fit it'),
      (n_taken, fitting, f'of {other_name} that fit it'),
    ):
      if len(found) < n:
        counts = f'at least {n} compositions {where} wanted, {len(found)} found'
        raise EmptySupportError(f'supports.{name}: {counts} {what}')
    if n_taken:
      tables.append(fitting[:n_taken])
    if support.config.balanced:
      rows = _most_even(support, rows, wanted, tables)
    if wanted:
      tables.append(rows[:wanted])
  return np.concatenate(tables)


def _rows_of(other: Support, support: Support, depth: int) -> tuple[np.ndarray, np.ndarray]:
  """A finite support's compositions of a depth, as rows of `support`; then those that fit it.

  (Whatever the pool.)
  """
  of_depth = jax.tree.map(lambda x: x[other.table.depth == depth], other.table)
  shown = with_cap(of_depth, support.depth_cap)
  fits = jax.vmap(dataclasses.replace(support.sampler, pool_2=other.sampler.pool_2).fits)(shown)
  rows = np.concatenate([shown.depth[:, None], shown.routing, shown.skill], axis=1)
  return rows, rows[np.asarray(fits)]


def _shares(support: Support, n: int) -> list[tuple[int, int]]:
  """Each depth of a support with its equal share of n compositions."""
  depths = support.config.depths
  share, remainder = divmod(n, len(depths))
  return [(depth, share + 1 if i < remainder else share) for i, depth in enumerate(depths)]


def _subset(support: Support) -> Support:
  """A finite support of which the first `subset` compositions are kept."""
  table, n = support.table, support.config.subset
  if not n:
    return support
  kept = [np.flatnonzero(table.depth == depth)[:share] for depth, share in _shares(support, n)]
  rows = np.concatenate(kept)
  return dataclasses.replace(support, table=jax.tree.map(lambda x: x[rows], table))


def shown_by(support: Support) -> tuple[dict[str, int], dict[str, int]]:
  """For each routing mechanism and each skill that a finite support may use (by name): how many
  of its compositions hold it."""
  task, counts = support.task, []
  for uses_ZxM, inventory, allowed in zip(
    _uses(support, support.table), (task.routing_inventory, task.skill_inventory), support.allowed
  ):
    names, shown_M = modules.names(inventory), np.sum(uses_ZxM > 0, axis=0)
    counts.append({names[i]: int(n) for i, n in zip(allowed, shown_M)})
  return counts[0], counts[1]


def _uses(support: Support, compositions: Composition) -> tuple[np.ndarray, np.ndarray]:
  """int[Z, R] and int[Z, S]: how many steps of each composition use each routing mechanism and
  each skill that the support may use."""
  index = compositions.routing, compositions.skill
  used_ZxLx1 = np.arange(index[0].shape[1])[:, None] < compositions.depth[:, None, None]
  routing, skill = (
    np.sum((i_ZxL[..., None] == allowed) & used_ZxLx1, axis=1)
    for i_ZxL, allowed in zip(index, support.allowed)
  )
  return routing, skill


def _most_even(
  support: Support, rows: np.ndarray, wanted: int, taken: list[np.ndarray]
) -> np.ndarray:
  """Up to `wanted` of the rows: the next is always the one after which the modules' numbers of
  uses, those of the rows already `taken` included, have the least chi-square from even use."""

  def scaled(rows):  # uses over the root of even use: routing mechanisms are fewer, used more
    return np.concatenate([n * n.shape[1] ** 0.5 for n in _uses(support, _from_rows(rows))], axis=1)

  uses_ZxM, picked = scaled(rows), []
  shown_M = sum(scaled(part).sum(axis=0) for part in taken)
  left = np.arange(len(rows))
  while len(left) and len(picked) < wanted:
    picked.append(left[np.argmin(np.sum((uses_ZxM[left] + shown_M) ** 2, axis=1))])
    shown_M, left = shown_M + uses_ZxM[picked[-1]], left[left != picked[-1]]
  return rows[picked]


def _distinct_rows(
  support: Support, depth: int, wanted: int, draw: int, excluded: set[bytes]
) -> np.ndarray:
  """Different compositions of a depth that fit the config, as rows: up to `wanted`, or all from
  which a balanced table is chosen.

  Rows of which `excluded` has the bytes are left out.

  They are in the order in which they were drawn, with the salt as the seed; `draw` counts the
  tables drawn before.
  """
  found: dict[bytes, np.ndarray] = {}
  wanted = max(wanted, _CHOSEN_FROM) if support.config.balanced else wanted
  key = jax.random.fold_in(jax.random.key(support.salt), depth)
  if draw:
    key = jax.random.fold_in(key, _DRAWN_AGAIN + draw)
  n_batches = 16 + wanted // 16
  for rows in itertools.islice(_fitting_rows(support, key, depth), n_batches):
    for row in rows:
      if row.tobytes() not in excluded:
        found.setdefault(row.tobytes(), row)
    if len(found) >= wanted:
      break
  return np.array(list(found.values()))


def shared(a: Support, b: Support) -> int:
  """How many compositions two finite supports have in common, atoms included.

  Compositions are compared by the names of their modules, so the supports may differ in inventory
  and depth cap. The count is exact.

  Raises:
    ValueError: a support is not finite (it has no table).
  """
  return len(_contents(a) & _contents(b))


def _contents(support: Support) -> set[tuple[str, ...]]:
  """Each composition of a finite support as the names of its modules, step by step."""
  table = support.table
  if table is None:
    raise ValueError('the support is not finite: it has no table of compositions')
  routing_ZxL = np.asarray(modules.names(support.task.routing_inventory))[table.routing]
  skill_ZxL = np.asarray(modules.names(support.task.skill_inventory))[table.skill]
  names = np.stack([routing_ZxL, skill_ZxL], axis=-1).reshape(len(table.depth), -1).tolist()
  return {tuple(row[: 2 * depth]) for row, depth in zip(names, table.depth)}


def sample_at_depth(support: Support, key: jax.Array, depth: int, n: int, cap: int) -> Composition:
  """`n` compositions of one of the support's depths, made on the host.

  They are numpy arrays of `cap` steps with a leading axis B = n.
  """
  if support.table is None:
    batches = []
    for rows in _fitting_rows(support, key, depth):
      batches.append(rows)
      if sum(map(len, batches)) >= n:
        break
    found = _from_rows(np.concatenate(batches)[:n])
  else:
    of_depth = np.flatnonzero(support.table.depth == depth)
    picks = of_depth[np.asarray(jax.random.randint(key, (n,), 0, len(of_depth)))]
    found = jax.tree.map(lambda x: x[picks], support.table)
  return with_cap(found, cap)


@jax.jit
def _candidate_rows(
  sampler: Sampler, key: jax.Array, depth: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Candidates of a depth, and which of them fit the config.

  A candidate is an int32 row: depth, L routing mechanisms, L skills.
  """
  bits = jax.random.bits(key, (_DRAWN_AT_A_TIME, sampler.depth_cap))
  candidates = jax.vmap(sampler.draw_candidate, in_axes=(0, None))(bits, depth)
  rows = [candidates.depth[:, None], candidates.routing, candidates.skill]
  return jnp.concatenate(rows, axis=1), jax.vmap(sampler.fits)(candidates)


def _fitting_rows(support: Support, key: jax.Array, depth: int) -> Iterator[np.ndarray]:
  """Random compositions of a depth that fit the config, as rows; batch after batch, without end."""
  sampler = _everything(support)
  for i in itertools.count():
    batch_key = jax.random.fold_in(key, i)
    rows, fits = jax.device_get(_candidate_rows(sampler, batch_key, jnp.int32(depth)))
    yield rows[fits]


def _everything(support: Support) -> Sampler:
  """The sampler of all that fits the config, of one form whatever of it the support keeps and
  however its problems are written: supports of these depths share a compiled program."""
  return dataclasses.replace(support.sampler, table=None, dry=False, prefix=0)


def _from_rows(rows: np.ndarray) -> Composition:
  """Compositions (leading axis Z) of rows (depth, routing mechanisms, skills)."""
  routing, skill = np.split(rows[:, 1:], 2, axis=1)
  return Composition(rows[:, 0], routing, skill)


def size(support: Support, depth: int) -> tuple[int, bool]:
  """How many compositions of one of its depths a support holds, and whether the number is exact.

  Exact in a finite support and at depth 1; else estimated from the share of some thousand random
  compositions that fit, to two digits.
  """
  if support.table is not None:
    return int(np.sum(support.table.depth == depth)), True
  sampler = _everything(support)
  pairs = sampler.pair_P[: sampler.n_pairs]
  if depth == 1:  # all pools hold all atoms
    marks = sampler.marks_RxS.ravel()[pairs]
    return int(np.sum(sampler.admits(marks))), True
  key = jax.random.fold_in(jax.random.key(support.salt), depth)
  fits = jax.device_get(_candidate_rows(sampler, key, jnp.int32(depth)))[1]
  return int(float(f'{len(pairs) ** depth * np.mean(fits):.1e}')), False
