"""Who may see what: supports, i.e. sets of compositions that a stage trains on or a split evaluates.

Membership is decided by the *content* of a composition: a stable hash of its modules' names puts it into one of
the disjoint pools `test`, `validation`, `sft`, `rl`. Supports of different pools can't overlap, whatever the seeds.
Depth 1 (an atom) belongs to every pool: the atoms are the inventory, and there are too few of them to split.
Every composition is *live*: each step's result can reach the answer, so that depth is not overstated.

With `prefix`, a problem is a composition of the support, its *real* part, behind 0 to `prefix` dry
steps of any modules (see `render`). The whole list, dry steps and real ones, lies in the support's
own pool as well, so that no list of another pool is ever written. A support's depths, table and
membership are those of the real parts.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import latent
from compgen_jax.task.latent import Composition
from compgen_jax.task.vocab import TaskConfig

POOLS = ('test', 'validation', 'sft', 'rl')
_HASH_RANGE = 1 << 16
_CANDIDATES = 8  # compositions drawn at a time where most lie outside the support: on device
_PROBED = 4096  # and on the host


@dataclasses.dataclass(frozen=True)
class PoolConfig:
  """Config section `pools`: which share of all compositions each pool holds, and the salt of the hash."""

  salt: int
  test: float
  validation: float
  sft: float
  rl: float


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
  prefix: int


class EmptySupportError(ValueError):
  """A support holds fewer compositions than asked for."""


# Content ----------------------------------------------------------------------------------------------------


def _mix(h: jax.Array, x: jax.Array) -> jax.Array:
  """One round of MurmurHash3 (32 bit)."""
  x = x * jnp.uint32(0xCC9E2D51)
  x = ((x << 15) | (x >> 17)) * jnp.uint32(0x1B873593)
  h = h ^ x
  return ((h << 13) | (h >> 19)) * jnp.uint32(5) + jnp.uint32(0xE6546B64)


def _name_codes(inventory) -> jax.Array:
  return jnp.asarray([zlib.crc32(entry.__name__.encode()) for entry in inventory], jnp.uint32)


def content_hash(composition: Composition, task: TaskConfig, salt: int) -> jax.Array:
  """uint32[]: a hash of the names of a composition's modules, in order.

  It depends on nothing else: not on the position of a module in its registry, the depth cap, or any seed.
  """
  routing_codes, skill_codes = (
    _name_codes(task.routing_inventory),
    _name_codes(task.skill_inventory),
  )
  h = jnp.uint32(salt)
  for i in range(composition.routing.shape[0]):
    mixed = _mix(_mix(h, routing_codes[composition.routing[i]]), skill_codes[composition.skill[i]])
    h = jnp.where(i < composition.depth, mixed, h)
  h = h ^ composition.depth.astype(jnp.uint32)
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


def pool_bounds(pools: PoolConfig) -> dict[str, tuple[int, int]]:
  """The half-open range of 16-bit hash values of each pool."""
  edges = np.cumsum([0.0] + [getattr(pools, name) for name in POOLS])
  edges = np.round(edges * _HASH_RANGE).astype(int)
  return {name: (int(a), int(b)) for name, a, b in zip(POOLS, edges[:-1], edges[1:])}


def in_pool(composition: Composition, pool: str, task: TaskConfig, pools: PoolConfig) -> jax.Array:
  """bool[]: the composition belongs to `pool` (atoms belong to all)."""
  low, high = pool_bounds(pools)[pool]
  h = (content_hash(composition, task, pools.salt) >> 16).astype(jnp.int32)
  return (composition.depth == 1) | ((low <= h) & (h < high))


def is_live(composition: Composition, task: TaskConfig) -> jax.Array:
  """bool[]: every step's result is read by the next step, or by the one after it as its earlier value."""
  reads_previous = jnp.asarray([r.reads_previous for r in task.routing_inventory])[
    composition.routing
  ]
  reads_earlier = jnp.asarray([r.reads_earlier for r in task.routing_inventory])[
    composition.routing
  ]
  step = jnp.arange(composition.routing.shape[0])
  false = jnp.zeros((1,), bool)
  next_reads = jnp.concatenate([reads_previous[1:], false])
  next_but_one_reads = jnp.concatenate([reads_earlier[2:], false, false]) & (
    step + 2 < composition.depth
  )
  return jnp.all(next_reads | next_but_one_reads | (step >= composition.depth - 1))


# Supports -----------------------------------------------------------------------------------------------------


def _mask(inventory, names) -> np.ndarray:
  return np.asarray([entry.__name__ in names for entry in inventory])


@dataclasses.dataclass(frozen=True, eq=False)
class Support:
  """A set of compositions that can be sampled and asked for membership.

  `table` is None for the whole of what the config describes, or the finite support's compositions
  (a Composition with a leading axis K of numpy arrays).
  """

  config: SupportConfig
  task: TaskConfig
  pools: PoolConfig
  table: Composition | None = None

  @property
  def depth_cap(self) -> int:
    return max(self.config.depths)

  @property
  def step_cap(self) -> int:
    """Steps of its longest problem, dry ones included."""
    return self.depth_cap + self.config.prefix

  @functools.cached_property
  def _allowed(self) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the routing mechanisms and skills that compositions may use."""
    routings = np.flatnonzero(~_mask(self.task.routing_inventory, self.config.without_routings))
    skills = np.flatnonzero(~_mask(self.task.skill_inventory, self.config.without_skills))
    return routings, skills

  def _describes(self, composition: Composition) -> jax.Array:
    """bool[]: the composition fits the config (leaving aside the table)."""
    used = jnp.arange(composition.routing.shape[0]) < composition.depth
    ok = jnp.any(composition.depth == jnp.asarray(self.config.depths))
    ok &= in_pool(composition, self.config.pool, self.task, self.pools) & is_live(
      composition, self.task
    )
    for inventory, index, banned, wanted in (
      (
        self.task.routing_inventory,
        composition.routing,
        self.config.without_routings,
        self.config.with_routings,
      ),
      (
        self.task.skill_inventory,
        composition.skill,
        self.config.without_skills,
        self.config.with_skills,
      ),
    ):
      if banned:
        ok &= ~jnp.any(jnp.asarray(_mask(inventory, banned))[index] & used)
      if wanted:
        ok &= jnp.any(jnp.asarray(_mask(inventory, wanted))[index] & used)
    return ok

  def contains(self, composition: Composition) -> jax.Array:
    """bool[]: membership, by content."""
    if self.table is None:
      return self._describes(composition)
    cap = min(composition.routing.shape[0], self.table.routing.shape[1])
    used = jnp.arange(cap) < composition.depth
    same_KxL = (self.table.routing[:, :cap] == composition.routing[:cap]) & (
      self.table.skill[:, :cap] == composition.skill[:cap]
    )
    return jnp.any((self.table.depth == composition.depth) & jnp.all(same_KxL | ~used, axis=1))

  def _draw_modules(self, bits_L: jax.Array, depth: jax.Array) -> Composition:
    """Modules drawn uniformly for a composition of the given depth, by random bits; it may lie outside the support."""
    routings, skills = map(jnp.asarray, self._allowed)
    used = jnp.arange(bits_L.shape[0]) < depth
    pair = latent.below(
      bits_L, len(routings) * len(skills)
    )  # one word a step: random bits are what drawing costs
    routing = jnp.where(used, routings[pair // len(skills)], 0)
    skill = jnp.where(used, skills[pair % len(skills)], 0)
    return Composition(depth, routing.astype(jnp.int32), skill.astype(jnp.int32))

  def sample_composition(self, key: jax.Array) -> Composition:
    """One composition: depth uniform over `depths`, then uniform over the support's compositions of that depth.

    (A finite support has an equal share of every depth, so there it is uniform over the table.)
    """
    if self.table is not None:
      row = latent.below(jax.random.bits(key), self.table.depth.shape[0])
      return jax.tree.map(lambda x: jnp.asarray(x)[row], self.table)
    pick = jax.random.bits(jax.random.fold_in(key, 0))
    return self._draw_member(
      key, jnp.asarray(self.config.depths, jnp.int32)[latent.below(pick, len(self.config.depths))]
    )

  def _draw_member(self, key: jax.Array, depth: jax.Array) -> Composition:
    """One composition of a support without a table, uniform over those of the given depth (by rejection)."""

    def draw(state):
      i, _, _ = state
      bits = jax.random.bits(jax.random.fold_in(key, i), (_CANDIDATES, self.depth_cap))
      candidates = jax.vmap(lambda b: self._draw_modules(b, depth))(bits)
      fits = jax.vmap(self._describes)(candidates)
      first = jnp.argmax(fits)
      return i + 1, jax.tree.map(lambda x: x[first], candidates), fits[first]

    none = jnp.zeros((self.depth_cap,), jnp.int32)
    start = (jnp.int32(1), Composition(depth, none, none), jnp.bool_(False))
    return jax.lax.while_loop(lambda state: ~state[2], draw, start)[1]

  def precede(self, key: jax.Array, real: Composition) -> tuple[Composition, jax.Array]:
    """The whole list of steps of a problem with this real part, of `step_cap` steps, and how many
    of them are dry.

    The number of dry steps is uniform in 0 to `prefix`, their modules are uniform over those whose
    whole list is in the support's pool (by rejection). In a support that is `dry`, all steps are
    dry.
    """
    real = with_cap(real, self.step_cap)
    if not self.config.prefix:
      return real, jnp.int32(self.step_cap if self.config.dry else 0)
    n_dry = latent.below(jax.random.bits(jax.random.fold_in(key, 0)), self.config.prefix + 1)
    is_dry = jnp.arange(self.step_cap) < n_dry

    def put_before(modules: Composition) -> Composition:
      modules = with_cap(modules, self.step_cap)
      routing = jnp.where(is_dry, modules.routing, jnp.roll(real.routing, n_dry))
      skill = jnp.where(is_dry, modules.skill, jnp.roll(real.skill, n_dry))
      return Composition(n_dry + real.depth, routing, skill)

    def draw(state):
      i, _, _ = state
      bits = jax.random.bits(jax.random.fold_in(key, i), (_CANDIDATES, self.config.prefix))
      lists = jax.vmap(lambda b: put_before(self._draw_modules(b, n_dry)))(bits)
      fits = jax.vmap(lambda c: in_pool(c, self.config.pool, self.task, self.pools))(lists)
      fits |= n_dry == 0
      first = jnp.argmax(fits)
      return i + 1, jax.tree.map(lambda x: x[first], lists), fits[first]

    start = (jnp.int32(1), real, jnp.bool_(False))
    return jax.lax.while_loop(lambda state: ~state[2], draw, start)[1], n_dry

  def sample_steps(self, key: jax.Array) -> tuple[Composition, jax.Array]:
    """The steps of one problem and how many of them are dry (`sample_composition`, `precede`)."""
    prefix_key = jax.random.fold_in(key, zlib.crc32(b'prefix'))
    return self.precede(prefix_key, self.sample_composition(key))

  def shows(self, steps: Composition) -> jax.Array:
    """bool[]: a problem of this support can have these steps as real part or as whole list."""
    shown = self.contains(steps)
    banned_R, banned_S = (
      jnp.asarray(_mask(inventory, names))
      for inventory, names in (
        (self.task.routing_inventory, self.config.without_routings),
        (self.task.skill_inventory, self.config.without_skills),
      )
    )
    cap = steps.routing.shape[0]
    allowed_L = ~(banned_R[steps.routing] | banned_S[steps.skill])
    mine = in_pool(steps, self.config.pool, self.task, self.pools)
    for n_dry in range(1, min(self.config.prefix + 1, cap)):
      real = Composition(steps.depth - n_dry, steps.routing[n_dry:], steps.skill[n_dry:])
      real = with_cap(real, cap)
      fits = mine & (real.depth >= 1) & jnp.all(allowed_L[:n_dry])
      shown |= fits & self.contains(real)
    return shown

  def sample_at_depth(self, key: jax.Array, depth: int, n: int, cap: int) -> Composition:
    """`n` compositions of one of the support's depths, on the host: numpy arrays of `cap` steps, with a leading axis n."""
    if self.table is None:
      rows, batches = [], _members(self, key, depth)
      while sum(map(len, rows)) < n:
        rows.append(next(batches))
      found = _from_rows(np.concatenate(rows)[:n])
    else:
      of_depth = np.flatnonzero(self.table.depth == depth)
      picks = of_depth[np.asarray(jax.random.randint(key, (n,), 0, len(of_depth)))]
      found = jax.tree.map(lambda x: x[picks], self.table)
    return with_cap(found, cap)

  def contains_all(self, compositions: Composition) -> jax.Array:
    """bool[n]: membership of each composition (leading axis n, arrays of any number of steps)."""
    return _contains_all(self, compositions)

  def shows_all(self, compositions: Composition) -> jax.Array:
    """bool[n]: `shows` of each composition (leading axis n, arrays of any number of steps)."""
    return _shows_all(self, compositions)

  def precede_all(
    self, key: jax.Array, compositions: Composition, cap: int
  ) -> tuple[Composition, np.ndarray]:
    """`precede` of each composition (leading axis n), on the host: numpy arrays of `cap` steps."""
    if not self.config.prefix:
      return with_cap(compositions, cap), np.zeros_like(compositions.depth)
    whole, n_dry = jax.device_get(_precede_all(self, key, compositions))
    return with_cap(whole, cap), n_dry


def build(name: str, config: SupportConfig, task: TaskConfig, pools: PoolConfig) -> Support:
  """Makes a support and proves that it holds what the config asks for.

  A finite support's compositions depend on the config and the pools' salt alone, not on any training seed.

  Raises:
    EmptySupportError: no composition (or too few) of some depth fits the config.
  """
  whole = Support(config, task, pools)
  if not all(map(len, whole._allowed)):
    raise EmptySupportError(f'supports.{name}: every skill or every routing mechanism is left out')
  if 0 < config.compositions < len(config.depths):
    raise EmptySupportError(
      f'supports.{name}: {config.compositions} compositions for {len(config.depths)} depths'
    )
  per_depth = [config.compositions // len(config.depths)] * len(config.depths)
  for i in range(config.compositions % len(config.depths)):
    per_depth[i] += 1
  tables = []
  for depth, wanted in zip(config.depths, per_depth):
    found: dict[bytes, np.ndarray] = {}
    key = jax.random.fold_in(jax.random.key(pools.salt), depth)
    for rows in itertools.islice(_members(whole, key, depth), 16 + wanted // 16):
      for row in rows:
        found.setdefault(row.tobytes(), row)
      if len(found) >= max(wanted, 1):
        break
    if len(found) < max(wanted, 1):
      raise EmptySupportError(
        f'supports.{name}: {wanted or "some"} compositions of depth {depth} wanted, {len(found)} found that fit it'
      )
    tables.append(np.stack(list(found.values())[: max(wanted, 1)]))
  if not config.compositions:
    return whole
  return dataclasses.replace(whole, table=_from_rows(np.concatenate(tables)))


def _members(support: Support, key: jax.Array, depth: int) -> Iterator[np.ndarray]:
  """Random compositions of a depth that fit the support's config, as rows (see `_probe`); batch after batch, without end."""
  for i in itertools.count():
    rows, fits = jax.device_get(_probe(support, jax.random.fold_in(key, i), jnp.int32(depth)))
    yield rows[fits]


def _from_rows(rows_KxN: np.ndarray) -> Composition:
  depth, modules = rows_KxN[:, 0], rows_KxN[:, 1:]
  return Composition(depth, *np.split(modules, 2, axis=1))


# Compiled once per support, not once per call.


@functools.partial(jax.jit, static_argnums=0)
def _contains_all(support: Support, compositions: Composition) -> jax.Array:
  return jax.vmap(
    lambda c: support.contains(with_cap(c, max(support.depth_cap, c.routing.shape[0])))
  )(compositions)


@functools.partial(jax.jit, static_argnums=0)
def _shows_all(support: Support, compositions: Composition) -> jax.Array:
  cap = max(support.step_cap, compositions.routing.shape[1])
  return jax.vmap(lambda c: support.shows(with_cap(c, cap)))(compositions)


@functools.partial(jax.jit, static_argnums=0)
def _precede_all(support: Support, key: jax.Array, compositions: Composition):
  keys = jax.random.split(key, compositions.depth.shape[0])
  return jax.vmap(support.precede)(keys, compositions)


@functools.partial(jax.jit, static_argnums=0)
def _probe(support: Support, key: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Candidate compositions of a depth as rows (depth, routings, skills), and which of them fit."""
  bits = jax.random.bits(key, (_PROBED, support.depth_cap))
  composition = jax.vmap(lambda b: support._draw_modules(b, depth))(bits)
  rows = jnp.concatenate(
    [composition.depth[:, None], composition.routing, composition.skill], axis=1
  )
  return rows, jax.vmap(support._describes)(composition)


def overlap(trained: Support, evaluated: Support, n: int = 4096) -> float:
  """The share of `n` sampled compositions of `evaluated` that `trained` contains, by content (atoms left out)."""
  keys = jax.random.split(jax.random.key(evaluated.pools.salt), n)
  compositions = jax.jit(jax.vmap(evaluated.sample_composition))(keys)
  return float(jnp.mean(trained.contains_all(compositions) & (compositions.depth > 1)))


def with_cap(composition: Composition, cap: int) -> Composition:
  """The composition (or several, with leading axes) with its arrays cut or zero-filled to `cap` steps; numpy stays numpy.

  (Its depth says whether it still fits.)
  """

  def fit(x):
    pad = np.pad if isinstance(x, np.ndarray) else jnp.pad
    return pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(0, cap - x.shape[-1]))])[..., : max(cap, 1)]

  return Composition(composition.depth, fit(composition.routing), fit(composition.skill))
