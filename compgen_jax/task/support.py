"""Supports: the sets of compositions that stages train on and splits evaluate.

Membership is decided by the content of a composition (see `pools`), by its depth and by the modules
it uses. Every composition is *live*: each step's result can reach the answer, so that its depth is
not overstated.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import latent, modules
from compgen_jax.task.latent import Composition
from compgen_jax.task.modules import Module
from compgen_jax.task.pools import PoolConfig, in_pool, replicate_salt
from compgen_jax.task.vocab import TaskConfig

# Compositions drawn at a time, because many lie outside the support.
_DRAWN_ON_DEVICE = 8
_DRAWN_FOR_HOST = 4096


@dataclasses.dataclass(frozen=True)
class SupportConfig:
  """One entry of config section `supports`: see configs/default.py for what each field means."""

  depths: tuple[int, ...]
  pool: str
  compositions: int
  without_skills: tuple[str, ...]
  without_routings: tuple[str, ...]
  with_skills: tuple[str, ...]
  with_routings: tuple[str, ...]
  dry: bool


class EmptySupportError(ValueError):
  """A support holds fewer compositions than asked for."""


def is_live(composition: Composition, task: TaskConfig) -> jax.Array:
  """bool[]: each result but the last is read by the next step or, as `earlier`, the one after."""
  inventory = task.routing_inventory
  reads_previous_L = jnp.asarray([r.reads_previous for r in inventory])[composition.routing]
  reads_earlier_L = jnp.asarray([r.reads_earlier for r in inventory])[composition.routing]
  step_L = jnp.arange(composition.routing.shape[0])
  false = jnp.zeros((1,), bool)
  next_reads_L = jnp.concatenate([reads_previous_L[1:], false])
  next_but_one_reads_L = jnp.concatenate([reads_earlier_L[2:], false, false])
  next_but_one_reads_L &= step_L + 2 < composition.depth
  is_last_L = step_L >= composition.depth - 1
  return jnp.all(next_reads_L | next_but_one_reads_L | is_last_L)


def _named(inventory: Sequence[Module], names: Sequence[str]) -> np.ndarray:
  """bool[R] or bool[S]: which modules have one of these names."""
  return np.asarray([name in names for name in modules.names(inventory)])


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('salt', 'table'),
  meta_fields=('config', 'task', 'pools'),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Support:
  """A set of compositions that can be sampled and asked for membership.

  A pytree: what a replicate draws are its leaves, so that one program serves all replicates.

  `salt`: uint32[], of the content hash. `table` is None for everything that fits the config. A
  finite support has its compositions there: int32 arrays with a leading axis Z.
  """

  config: SupportConfig
  task: TaskConfig
  pools: PoolConfig
  salt: jax.Array | np.ndarray
  table: Composition | None = None

  @property
  def depth_cap(self) -> int:
    return max(self.config.depths)

  @functools.cached_property
  def allowed(self) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the routing mechanisms and of the skills that compositions may use."""
    routings = ~_named(self.task.routing_inventory, self.config.without_routings)
    skills = ~_named(self.task.skill_inventory, self.config.without_skills)
    return np.flatnonzero(routings), np.flatnonzero(skills)

  def fits_config(self, composition: Composition) -> jax.Array:
    """bool[]: the composition is what the config asks for, whether or not it is in the table."""
    config, task = self.config, self.task
    used_L = jnp.arange(composition.routing.shape[0]) < composition.depth

    def uses(inventory, index_L, names):
      return jnp.any(jnp.asarray(_named(inventory, names))[index_L] & used_L)

    fits = jnp.any(composition.depth == jnp.asarray(config.depths))
    fits &= in_pool(composition, config.pool, task, self.pools, self.salt) & is_live(
      composition, task
    )
    if config.without_routings:
      fits &= ~uses(task.routing_inventory, composition.routing, config.without_routings)
    if config.with_routings:
      fits &= uses(task.routing_inventory, composition.routing, config.with_routings)
    if config.without_skills:
      fits &= ~uses(task.skill_inventory, composition.skill, config.without_skills)
    if config.with_skills:
      fits &= uses(task.skill_inventory, composition.skill, config.with_skills)
    return fits

  def contains(self, composition: Composition) -> jax.Array:
    """bool[]: membership, by content."""
    if self.table is None:
      return self.fits_config(composition)
    cap = min(composition.routing.shape[0], self.table.routing.shape[1])
    used_L = jnp.arange(cap) < composition.depth
    same_routing_ZxL = self.table.routing[:, :cap] == composition.routing[:cap]
    same_skill_ZxL = self.table.skill[:, :cap] == composition.skill[:cap]
    same_Z = jnp.all((same_routing_ZxL & same_skill_ZxL) | ~used_L, axis=1)
    return jnp.any((self.table.depth == composition.depth) & same_Z)

  def contains_all(self, compositions: Composition) -> jax.Array:
    """bool[B]: membership of each composition (leading axis B, arrays of any number of steps)."""
    return _contains_all(self, compositions)

  def draw_candidate(self, bits_L: jax.Array, depth: jax.Array) -> Composition:
    """A composition of the given depth, uniform over the allowed modules.

    It may lie outside the support.
    """
    routings, skills = (jnp.asarray(indices) for indices in self.allowed)
    used_L = jnp.arange(self.depth_cap) < depth
    # One random word gives both modules of a step, because random bits are what drawing costs.
    pair_L = latent.below(bits_L, len(routings) * len(skills))
    routing_L = jnp.where(used_L, routings[pair_L // len(skills)], 0)
    skill_L = jnp.where(used_L, skills[pair_L % len(skills)], 0)
    return Composition(depth, routing_L.astype(jnp.int32), skill_L.astype(jnp.int32))

  def sample_composition(self, key: jax.Array) -> Composition:
    """One composition: first its depth, uniformly, then uniform among those of this depth.

    A finite support has an equal share of every depth, so there it is uniform over the table.
    """
    if self.table is not None:
      row = latent.below(jax.random.bits(key), self.table.depth.shape[0])
      return jax.tree.map(lambda x: jnp.asarray(x)[row], self.table)
    depths = jnp.asarray(self.config.depths, jnp.int32)
    pick = latent.below(jax.random.bits(jax.random.fold_in(key, 0)), len(self.config.depths))
    return self._sample_by_rejection(key, depths[pick])

  def _sample_by_rejection(self, key: jax.Array, depth: jax.Array) -> Composition:
    """One composition, uniform over those of the given depth that fit the config."""

    def draw(state):
      i, _, _ = state
      bits = jax.random.bits(jax.random.fold_in(key, i), (_DRAWN_ON_DEVICE, self.depth_cap))
      candidates = jax.vmap(self.draw_candidate, in_axes=(0, None))(bits, depth)
      fits = jax.vmap(self.fits_config)(candidates)
      first = jnp.argmax(fits)
      return i + 1, jax.tree.map(lambda x: x[first], candidates), fits[first]

    zeros = jnp.zeros((self.depth_cap,), jnp.int32)
    start = (jnp.int32(1), Composition(depth, zeros, zeros), jnp.bool_(False))
    _, composition, _ = jax.lax.while_loop(lambda state: ~state[2], draw, start)
    return composition

  def sample_at_depth(self, key: jax.Array, depth: int, n: int, cap: int) -> Composition:
    """`n` compositions of one of the support's depths, made on the host.

    They are numpy arrays of `cap` steps with a leading axis B = n.
    """
    if self.table is None:
      batches = []
      for rows in _fitting_rows(self, key, depth):
        batches.append(rows)
        if sum(map(len, batches)) >= n:
          break
      found = _from_rows(np.concatenate(batches)[:n])
    else:
      of_depth = np.flatnonzero(self.table.depth == depth)
      picks = of_depth[np.asarray(jax.random.randint(key, (n,), 0, len(of_depth)))]
      found = jax.tree.map(lambda x: x[picks], self.table)
    return with_cap(found, cap)


@jax.jit
def _contains_all(support: Support, compositions: Composition) -> jax.Array:
  cap = max(support.depth_cap, compositions.routing.shape[1])
  return jax.vmap(support.contains)(with_cap(compositions, cap))


@jax.jit
def _candidate_rows(
  support: Support, key: jax.Array, depth: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Candidates of a depth, and which of them fit the config.

  A candidate is an int32 row: depth, L routing mechanisms, L skills.
  """
  bits = jax.random.bits(key, (_DRAWN_FOR_HOST, support.depth_cap))
  candidates = jax.vmap(support.draw_candidate, in_axes=(0, None))(bits, depth)
  rows = [candidates.depth[:, None], candidates.routing, candidates.skill]
  return jnp.concatenate(rows, axis=1), jax.vmap(support.fits_config)(candidates)


def _fitting_rows(support: Support, key: jax.Array, depth: int) -> Iterator[np.ndarray]:
  """Random compositions of a depth that fit the config, as rows; batch after batch, without end."""
  for i in itertools.count():
    batch_key = jax.random.fold_in(key, i)
    rows, fits = jax.device_get(_candidate_rows(support, batch_key, jnp.int32(depth)))
    yield rows[fits]


def _from_rows(rows: np.ndarray) -> Composition:
  """Compositions (leading axis Z) of rows (depth, routing mechanisms, skills)."""
  routing, skill = np.split(rows[:, 1:], 2, axis=1)
  return Composition(rows[:, 0], routing, skill)


def with_cap(composition: Composition, cap: int) -> Composition:
  """The composition with its arrays cut, or filled up with zeros, to `cap` steps.

  There may be leading axes. The depth does not change, even if it exceeds `cap`. Numpy arrays stay
  numpy arrays.
  """

  def fit(x):
    pad = np.pad if isinstance(x, np.ndarray) else jnp.pad
    n_missing = max(0, cap - x.shape[-1])
    return pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n_missing)])[..., :cap]

  return Composition(composition.depth, fit(composition.routing), fit(composition.skill))


# Making and comparing supports --------------------------------------------------------------------


def build(
  name: str, config: SupportConfig, task: TaskConfig, pools: PoolConfig, seed: int = 0
) -> Support:
  """Makes a replicate's support and proves that it holds what the config asks for.

  Which compositions are in which pool, and which of them a finite support keeps, depends on the
  config and on the replicate's salt alone.

  Raises: EmptySupportError: no composition (or too few) of some depth fits the config.
  """
  n_depths = len(config.depths)
  whole = Support(config, task, pools, np.uint32(replicate_salt(pools.salt, seed)))
  if min(len(indices) for indices in whole.allowed) == 0:
    raise EmptySupportError(f'supports.{name}: every skill or every routing mechanism is left out')
  if 0 < config.compositions < n_depths:
    counts = f'{config.compositions} compositions for {n_depths} depths'
    raise EmptySupportError(f'supports.{name}: {counts}')
  share, remainder = divmod(config.compositions, n_depths)
  tables = []
  for i, depth in enumerate(config.depths):
    wanted = max(1, share + 1 if i < remainder else share)
    rows = _distinct_rows(whole, depth, wanted)
    if len(rows) < wanted:
      counts = f'at least {wanted} compositions of depth {depth} wanted, {len(rows)} found'
      raise EmptySupportError(f'supports.{name}: {counts} that fit it')
    tables.append(rows)
  if config.compositions == 0:
    return whole
  return dataclasses.replace(whole, table=_from_rows(np.concatenate(tables)))


def _distinct_rows(support: Support, depth: int, wanted: int) -> np.ndarray:
  """Up to `wanted` different compositions of a depth that fit the config, as rows.

  They are in the order in which they were drawn, with the salt as the seed.
  """
  found: dict[bytes, np.ndarray] = {}
  key = jax.random.fold_in(jax.random.key(support.salt), depth)
  n_batches = 16 + wanted // 16
  for rows in itertools.islice(_fitting_rows(support, key, depth), n_batches):
    for row in rows:
      found.setdefault(row.tobytes(), row)
    if len(found) >= wanted:
      break
  return np.array(list(found.values())[:wanted])


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
