"""Supports: the sets of compositions that stages train on and splits evaluate.

Membership is decided by the content of a composition (see `pools`), by its depth and by the modules
it uses. Every composition is *live*: each step's result can reach the answer, so that its depth is
not overstated.

With `prefix`, a problem is a composition of the support behind 0 to `prefix` dry steps of any
modules (see `render`). The whole list of steps lies in the support's pool as well, so that no list
of another pool is ever written. Depths, table and membership of a support are those of its
compositions alone.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import latent, modules
from compgen_jax.task.latent import Composition
from compgen_jax.task.modules import Module
from compgen_jax.task.pools import PoolConfig, in_pool
from compgen_jax.task.vocab import TaskConfig

_DRAWN_AT_A_TIME = 8  # compositions, because many lie outside the support
_MOST_PREFIX_DRAWS = 64  # after so many, no choice of dry steps is taken to be in the pool


@dataclasses.dataclass(frozen=True)
class SupportConfig:
  """One entry of config section `supports`: see configs/default.py for what each field means."""

  depths: tuple[int, ...] = (2, 3)
  pool: str = 'sft'
  compositions: int = 0
  covers: int = 0
  subset: int = 0
  overlap: tuple = ()
  without_skills: tuple[str, ...] = ()
  without_routings: tuple[str, ...] = ()
  with_skills: tuple[str, ...] = ()
  with_routings: tuple[str, ...] = ()
  without_pairs: tuple[str, ...] = ()
  with_pairs: tuple[str, ...] = ()
  dry: bool = False
  prefix: int = 0


def step_cap(config: SupportConfig) -> int:
  """Steps of a support's longest problem, dry ones included."""
  return max(config.depths) + config.prefix


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

  @property
  def step_cap(self) -> int:
    """Steps of its longest problem, dry ones included."""
    return step_cap(self.config)

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
    fits &= self.in_own_pool(composition) & is_live(composition, task)
    if config.without_routings:
      fits &= ~uses(task.routing_inventory, composition.routing, config.without_routings)
    if config.with_routings:
      fits &= uses(task.routing_inventory, composition.routing, config.with_routings)
    if config.without_skills:
      fits &= ~uses(task.skill_inventory, composition.skill, config.without_skills)
    if config.with_skills:
      fits &= uses(task.skill_inventory, composition.skill, config.with_skills)
    if config.without_pairs or config.with_pairs:
      fits &= ~self._uses_pair(composition, config.without_pairs)
      fits &= self._uses_pair(composition, config.with_pairs) | (not config.with_pairs)
    return fits

  def _uses_pair(self, composition: Composition, pairs: tuple[str, ...]) -> jax.Array:
    """bool[]: a step is one of these, such as 'merge reverse'."""
    inventories = self.task.routing_inventory, self.task.skill_inventory
    routings, skills = map(modules.names, inventories)
    named_RxS = np.array([[f'{r} {s}' in pairs for s in skills] for r in routings])
    is_named_L = jnp.asarray(named_RxS)[composition.routing, composition.skill]
    return jnp.any(is_named_L & (jnp.arange(is_named_L.shape[0]) < composition.depth))

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

  @jax.jit
  def contains_all(self, compositions: Composition) -> jax.Array:
    """bool[B]: membership of each composition (leading axis B, arrays of any number of steps)."""
    cap = max(self.depth_cap, compositions.routing.shape[1])
    return jax.vmap(self.contains)(with_cap(compositions, cap))

  def draw_candidate(self, bits_L: jax.Array, depth: jax.Array) -> Composition:
    """A composition of the given depth, uniform over the allowed modules.

    It may lie outside the support.
    """
    routings, skills = (jnp.asarray(indices) for indices in self.allowed)
    used_L = jnp.arange(bits_L.shape[0]) < depth
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
      bits = jax.random.bits(jax.random.fold_in(key, i), (_DRAWN_AT_A_TIME, self.depth_cap))
      candidates = jax.vmap(self.draw_candidate, in_axes=(0, None))(bits, depth)
      fits = jax.vmap(self.fits_config)(candidates)
      first = jnp.argmax(fits)
      return i + 1, jax.tree.map(lambda x: x[first], candidates), fits[first]

    zeros = jnp.zeros((self.depth_cap,), jnp.int32)
    start = (jnp.int32(1), Composition(depth, zeros, zeros), jnp.bool_(False))
    _, composition, _ = jax.lax.while_loop(lambda state: ~state[2], draw, start)
    return composition

  def precede(self, key: jax.Array, real: Composition) -> tuple[Composition, jax.Array]:
    """Puts dry steps before a composition.

    Their number is uniform in 0 to `prefix`; their modules are uniform over those whose whole list
    is in the support's pool (by rejection). With a small inventory there may be none: then no step
    is dry. In a dry support all steps are dry.

    Returns:
      The whole list of steps, arrays of `step_cap` steps, and how many of them are dry, int32[].
    """
    real = with_cap(real, self.step_cap)
    if not self.config.prefix:
      return real, jnp.int32(self.step_cap if self.config.dry else 0)
    n_dry = latent.below(jax.random.bits(jax.random.fold_in(key, 0)), self.config.prefix + 1)
    is_dry_L = jnp.arange(self.step_cap) < n_dry

    def put_before(bits) -> Composition:
      dry = with_cap(self.draw_candidate(bits, n_dry), self.step_cap)

      def joined(dry_L, real_L):
        return jnp.where(is_dry_L, dry_L, jnp.roll(real_L, n_dry))

      routing_L, skill_L = joined(dry.routing, real.routing), joined(dry.skill, real.skill)
      return Composition(n_dry + real.depth, routing_L, skill_L)

    def draw(state):
      i, _, _ = state
      bits = jax.random.bits(jax.random.fold_in(key, i), (_DRAWN_AT_A_TIME, self.config.prefix))
      lists = jax.vmap(put_before)(bits)
      fits = jax.vmap(self.in_own_pool)(lists) | (n_dry == 0)
      first = jnp.argmax(fits)
      return i + 1, jax.tree.map(lambda x: x[first], lists), fits[first]

    def goes_on(state):
      i, _, found = state
      return ~found & (i <= _MOST_PREFIX_DRAWS)

    start = (jnp.int32(1), real, jnp.bool_(False))
    _, steps, found = jax.lax.while_loop(goes_on, draw, start)
    steps = jax.tree.map(lambda whole, alone: jnp.where(found, whole, alone), steps, real)
    return steps, jnp.where(found, n_dry, 0)

  def sample_steps(self, key: jax.Array) -> tuple[Composition, jax.Array]:
    """All steps of one problem, and how many of them are dry: `sample_composition`, `precede`."""
    prefix_key = jax.random.fold_in(key, zlib.crc32(b'prefix'))
    return self.precede(prefix_key, self.sample_composition(key))

  def in_own_pool(self, steps: Composition) -> jax.Array:
    """bool[]: a list of steps, dry ones included, is in the support's pool."""
    return in_pool(steps, self.config.pool, self.task, self.pools, self.salt)

  def shows(self, steps: Composition) -> jax.Array:
    """bool[]: a problem can have these steps as its composition, or as its whole list."""
    shown = self.contains(steps)
    routings, skills = self.allowed
    allowed_L = jnp.isin(steps.routing, routings) & jnp.isin(steps.skill, skills)
    for n_dry in range(1, min(self.config.prefix + 1, steps.routing.shape[0])):
      routing_L, skill_L = (jnp.pad(x[n_dry:], (0, n_dry)) for x in steps[1:])
      real = Composition(steps.depth - n_dry, routing_L, skill_L)
      fits = self.in_own_pool(steps) & (real.depth >= 1) & jnp.all(allowed_L[:n_dry])
      shown |= fits & self.contains(real)
    return shown

  @jax.jit
  def shows_all(self, compositions: Composition) -> jax.Array:
    """bool[B]: `shows` of each composition (leading axis B, arrays of any number of steps)."""
    cap = max(self.step_cap, compositions.routing.shape[1])
    return jax.vmap(self.shows)(with_cap(compositions, cap))

  def precede_all(
    self, key: jax.Array, compositions: Composition, cap: int
  ) -> tuple[Composition, np.ndarray]:
    """`precede` of each composition (leading axis B): numpy arrays of `cap` steps."""
    if not self.config.prefix:
      return with_cap(compositions, cap), np.zeros_like(compositions.depth)
    whole, n_dry = jax.device_get(_precede_all(self, key, compositions))
    return with_cap(whole, cap), n_dry


@jax.jit
def _precede_all(support: Support, key: jax.Array, compositions: Composition):
  keys = jax.random.split(key, compositions.depth.shape[0])
  return jax.vmap(support.precede)(keys, compositions)


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
