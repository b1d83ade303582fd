"""What a compiled program needs of a support to draw from it, or to know its members: arrays.

All that a config says of a support's members is in arrays here, and finite supports are filled up
to a common size. So one program serves all supports whose problems have one form: those of another
pool, without another module, with another number of compositions.
"""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import latent
from compgen_jax.task.latent import Composition, with_cap
from compgen_jax.task.pools import in_pool
from compgen_jax.task.vocab import TaskConfig

# Bits of `Sampler.marks_RxS`; others are those of `wanted`.
FORBIDDEN = 1  # no composition may hold the pair
LEFT_OUT = 16  # nor a dry step, as one of its modules is left out
_DRAWN_AT_A_TIME = 8  # compositions, because many lie outside the support
_MOST_PREFIX_DRAWS = 64  # after so many, no choice of dry steps is taken to be in the pool


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


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=(
    'salt',
    'pool_2',
    'depth_D',
    'n_depths',
    'pair_P',
    'n_pairs',
    'marks_RxS',
    'wanted',
    'table',
    'n_rows',
  ),
  meta_fields=('task', 'depth_cap', 'prefix', 'dry'),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """A support that can be drawn from and asked for membership. A pytree: see `Support.sampler`.

  task: the task. depth_cap: of its deepest composition. prefix, dry: as in its config.
  salt: uint32[], of the content hash. pool_2: int32[2], its pool's range of 16-bit hashes.
  depth_D: int32[D], of which the first `n_depths` are its depths.
  pair_P: int32[R * S], of which the first `n_pairs` are the pairs that it may use, each as
  routing * S + skill.
  marks_RxS: uint8, what a step of a pair means for its composition: FORBIDDEN, LEFT_OUT, and bits
  of `wanted`, uint8[], each of which some step of a member has.
  table: of a finite support, its compositions (int32 arrays with a leading axis Z), of which the
  first `n_rows` count; None for everything that fits.
  """

  task: TaskConfig
  depth_cap: int
  prefix: int
  dry: bool
  salt: jax.Array | np.ndarray
  pool_2: jax.Array | np.ndarray
  depth_D: jax.Array | np.ndarray
  n_depths: jax.Array | np.ndarray
  pair_P: jax.Array | np.ndarray
  n_pairs: jax.Array | np.ndarray
  marks_RxS: jax.Array | np.ndarray
  wanted: jax.Array | np.ndarray
  table: Composition | None
  n_rows: jax.Array | np.ndarray

  @property
  def step_cap(self) -> int:
    """Steps of its longest problem, dry ones included."""
    return self.depth_cap + self.prefix

  def in_own_pool(self, steps: Composition) -> jax.Array:
    """bool[]: a list of steps, dry ones included, is in the pool (atoms are in all)."""
    return in_pool(steps, self.pool_2, self.task, self.salt)

  def fits(self, composition: Composition) -> jax.Array:
    """bool[]: the composition is what the config asks for, whether or not it is in the table."""
    used_L = jnp.arange(composition.routing.shape[0]) < composition.depth
    marks_RxS = jnp.asarray(self.marks_RxS)
    marks_L = jnp.where(used_L, marks_RxS[composition.routing, composition.skill], 0)
    marks = jax.lax.reduce(marks_L, np.uint8(0), jax.lax.bitwise_or, (0,))
    is_depth_D = composition.depth == jnp.asarray(self.depth_D)
    fits = jnp.any(is_depth_D & (jnp.arange(len(self.depth_D)) < self.n_depths))
    fits &= self.in_own_pool(composition) & is_live(composition, self.task)
    return fits & self.admits(marks)

  def admits(self, marks: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """bool: whether a composition may have steps of these marks, all of them together."""
    return (marks & FORBIDDEN == 0) & (marks & self.wanted == self.wanted)

  def contains(self, composition: Composition) -> jax.Array:
    """bool[]: membership, by content."""
    if self.table is None:
      return self.fits(composition)
    cap = min(composition.routing.shape[0], self.table.routing.shape[1])
    used_L = jnp.arange(cap) < composition.depth
    same_routing_ZxL = self.table.routing[:, :cap] == composition.routing[:cap]
    same_skill_ZxL = self.table.skill[:, :cap] == composition.skill[:cap]
    same_Z = jnp.all((same_routing_ZxL & same_skill_ZxL) | ~used_L, axis=1)
    return jnp.any((self.table.depth == composition.depth) & same_Z)  # (rows that fill up repeat)

  def shows(self, steps: Composition) -> jax.Array:
    """bool[]: a problem can have these steps as its composition, or as its whole list."""
    shown = self.contains(steps)
    marks_L = jnp.asarray(self.marks_RxS)[steps.routing, steps.skill]
    for n_dry in range(1, min(self.prefix + 1, steps.routing.shape[0])):
      routing_L, skill_L = (jnp.pad(x[n_dry:], (0, n_dry)) for x in steps[1:])
      real = Composition(steps.depth - n_dry, routing_L, skill_L)
      is_drawn = jnp.all(marks_L[:n_dry] & LEFT_OUT == 0)
      fits = self.in_own_pool(steps) & (real.depth >= 1) & is_drawn
      shown |= fits & self.contains(real)
    return shown

  def draw_candidate(self, bits_L: jax.Array, depth: jax.Array) -> Composition:
    """A composition of the given depth, uniform over the pairs that may be used.

    It may lie outside the support.
    """
    used_L = jnp.arange(bits_L.shape[0]) < depth
    # One random word gives both modules of a step, because random bits are what drawing costs.
    pair_L = jnp.where(used_L, jnp.asarray(self.pair_P)[latent.below(bits_L, self.n_pairs)], 0)
    n_skills = self.marks_RxS.shape[1]
    return Composition(depth, pair_L // n_skills, pair_L % n_skills)

  def sample_composition(self, key: jax.Array) -> Composition:
    """One composition: first its depth, uniformly, then uniform among those of this depth.

    A finite support has an equal share of every depth, so there it is uniform over the table.
    """
    if self.table is not None:
      row = latent.below(jax.random.bits(key), self.n_rows)
      return jax.tree.map(lambda x: jnp.asarray(x)[row], self.table)
    pick = latent.below(jax.random.bits(jax.random.fold_in(key, 0)), self.n_depths)
    return self._sample_by_rejection(key, jnp.asarray(self.depth_D)[pick])

  def _sample_by_rejection(self, key: jax.Array, depth: jax.Array) -> Composition:
    """One composition, uniform over those of the given depth that fit."""

    def draw(state):
      i, _, _ = state
      bits = jax.random.bits(jax.random.fold_in(key, i), (_DRAWN_AT_A_TIME, self.depth_cap))
      candidates = jax.vmap(self.draw_candidate, in_axes=(0, None))(bits, depth)
      fits = jax.vmap(self.fits)(candidates)
      first = jnp.argmax(fits)
      return i + 1, jax.tree.map(lambda x: x[first], candidates), fits[first]

    zeros = jnp.zeros((self.depth_cap,), jnp.int32)
    start = (jnp.int32(1), Composition(depth, zeros, zeros), jnp.bool_(False))
    _, composition, _ = jax.lax.while_loop(lambda state: ~state[2], draw, start)
    return composition

  def precede(self, key: jax.Array, real: Composition) -> tuple[Composition, jax.Array]:
    """Puts dry steps before a composition.

    Their number is uniform in 0 to `prefix`; their modules are uniform over those whose whole list
    is in the pool (by rejection). With a small inventory there may be none: then no step is dry. In
    a dry support all steps are dry.

    Returns:
      The whole list of steps, arrays of `step_cap` steps, and how many of them are dry, int32[].
    """
    real = with_cap(real, self.step_cap)
    if not self.prefix:
      return real, jnp.int32(self.step_cap if self.dry else 0)
    n_dry = latent.below(jax.random.bits(jax.random.fold_in(key, 0)), self.prefix + 1)
    is_dry_L = jnp.arange(self.step_cap) < n_dry

    def put_before(bits) -> Composition:
      dry = with_cap(self.draw_candidate(bits, n_dry), self.step_cap)

      def joined(dry_L, real_L):
        return jnp.where(is_dry_L, dry_L, jnp.roll(real_L, n_dry))

      routing_L, skill_L = joined(dry.routing, real.routing), joined(dry.skill, real.skill)
      return Composition(n_dry + real.depth, routing_L, skill_L)

    def draw(state):
      i, _, _ = state
      bits = jax.random.bits(jax.random.fold_in(key, i), (_DRAWN_AT_A_TIME, self.prefix))
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
