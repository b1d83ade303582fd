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
from collections.abc import Sequence

import jax
import numpy as np

from compgen_jax.task import modules
from compgen_jax.task.latent import Composition, with_cap
from compgen_jax.task.modules import Module
from compgen_jax.task.pools import PoolConfig, pool_bounds
from compgen_jax.task.sampler import FORBIDDEN, LEFT_OUT, Sampler
from compgen_jax.task.vocab import TaskConfig

_ROWS = 64  # a table is filled up to a multiple, so that tables of many sizes share a program


@dataclasses.dataclass(frozen=True)
class SupportConfig:
  """One entry of config section `supports`: see configs/default.py for what each field means."""

  depths: tuple[int, ...] = (2, 3)
  pool: str = 'sft'
  compositions: int = 0
  balanced: bool = False
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


def _named(inventory: Sequence[Module], names: Sequence[str]) -> np.ndarray:
  """bool[R] or bool[S]: which modules have one of these names."""
  return np.asarray([name in names for name in modules.names(inventory)])


@dataclasses.dataclass(frozen=True, eq=False)
class Support:
  """A set of compositions that can be sampled and asked for membership (its `sampler` does both).

  `salt`: uint32[], of the content hash. `table` is None for everything that fits the config. A
  finite support has its compositions there: int32 numpy arrays with a leading axis Z.
  """

  config: SupportConfig
  task: TaskConfig
  pools: PoolConfig
  salt: np.ndarray
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

  @functools.cached_property
  def sampler(self) -> Sampler:
    """The support as arrays, for compiled programs."""
    config, (routings, skills) = self.config, self.allowed
    n_depths, size = len(config.depths), max(len(config.depths), self.depth_cap)
    pairs = (routings[:, None] * len(self.task.skill_inventory) + skills).ravel()
    marks_RxS, wanted = self._marks()
    table, n_rows = _filled_up(self.table)
    return Sampler(
      self.task,
      self.depth_cap,
      config.prefix,
      config.dry,
      salt=self.salt,
      pool_2=np.asarray(pool_bounds(self.pools)[config.pool], np.int32),
      depth_D=np.resize(np.asarray(config.depths, np.int32), size),
      n_depths=np.int32(n_depths),
      pair_P=np.resize(pairs, marks_RxS.size).astype(np.int32),
      n_pairs=np.int32(len(pairs)),
      marks_RxS=marks_RxS,
      wanted=wanted,
      table=table,
      n_rows=np.int32(n_rows),
    )

  def _marks(self) -> tuple[np.ndarray, np.ndarray]:
    """`Sampler.marks_RxS` and `wanted`."""
    config, task = self.config, self.task
    inventories = task.routing_inventory, task.skill_inventory
    routing_R, skill_S = map(modules.names, inventories)

    def named(routings, skills, pairs) -> np.ndarray:
      """bool[R, S]: the pair or one of its modules has one of these names."""
      of_R, of_S = map(_named, inventories, (routings, skills))
      of_RxS = np.array([[f'{r} {s}' in pairs for s in skill_S] for r in routing_R])
      return of_R[:, None] | of_S | of_RxS

    without = named(config.without_routings, config.without_skills, config.without_pairs)
    left_out = named(config.without_routings, config.without_skills, ())
    marks_RxS, wanted = np.where(without, FORBIDDEN, 0) | np.where(left_out, LEFT_OUT, 0), 0
    for bit, names in (
      (2, (config.with_routings, (), ())),
      (4, ((), config.with_skills, ())),
      (8, ((), (), config.with_pairs)),
    ):
      if any(names):
        marks_RxS, wanted = marks_RxS | np.where(named(*names), bit, 0), wanted | bit
    return marks_RxS.astype(np.uint8), np.uint8(wanted)

  def contains_all(self, compositions: Composition) -> np.ndarray:
    """bool[B]: membership of each composition (leading axis B, arrays of any number of steps)."""
    cap = max(self.depth_cap, compositions.routing.shape[1])
    return np.asarray(_contains_all(self.sampler, with_cap(compositions, cap)))

  def shows_all(self, compositions: Composition) -> np.ndarray:
    """bool[B]: whether a problem can have the steps of each composition (leading axis B, arrays of
    any number of steps) as its composition, or as its whole list."""
    cap = max(self.step_cap, compositions.routing.shape[1])
    return np.asarray(_shows_all(self.sampler, with_cap(compositions, cap)))

  def precede_all(
    self, key: jax.Array, compositions: Composition, cap: int
  ) -> tuple[Composition, np.ndarray]:
    """`Sampler.precede` of each composition (leading axis B): numpy arrays of `cap` steps."""
    if not self.config.prefix:
      return with_cap(compositions, cap), np.zeros_like(compositions.depth)
    whole, n_dry = jax.device_get(_precede_all(self.sampler, key, compositions))
    return with_cap(whole, cap), n_dry


@jax.jit
def _contains_all(sampler: Sampler, compositions: Composition):
  return jax.vmap(sampler.contains)(compositions)


@jax.jit
def _shows_all(sampler: Sampler, compositions: Composition):
  return jax.vmap(sampler.shows)(compositions)


@jax.jit
def _precede_all(sampler: Sampler, key: jax.Array, compositions: Composition):
  keys = jax.random.split(key, compositions.depth.shape[0])
  return jax.vmap(sampler.precede)(keys, compositions)


def _filled_up(table: Composition | None) -> tuple[Composition | None, int]:
  """`Sampler.table` and `n_rows`."""
  if table is None:
    return None, 0
  n = len(table.depth)
  rows = np.arange(-(-n // _ROWS) * _ROWS) % n
  return jax.tree.map(lambda x: x[rows], table), n
