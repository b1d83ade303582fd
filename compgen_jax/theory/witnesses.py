"""What a support witnesses: modules, pairs and interfaces, and how far they reach.

A step of a composition applies a routing mechanism r and a skill s to values that it reads. The
*parent* of a value is the skill that made it, or `input` where no skill did: an input string, or
the result of a dry step. A step has one parent for each value that its routing mechanism reads
(`reads_previous`, `reads_earlier`); the first input is its parent only where it reads nothing else.
(`bind_first` and `first_input` always read the first input; counting it adds nothing to r itself.)

A support Z witnesses, by kind:

  modules     r and s          if some step of some composition in Z uses it
  pairs       (r, s)           if some step uses both
  parents     (p, r)           if some step reads a value of parent p by r
  interfaces  (p, r, s)        if some step reads a value of parent p by r and applies s

A step (r, s) with parents P is witnessed, by kind, if: r and s are | (r, s) is | (p, r) is for
every p in P | (p, r, s) is for every p in P. The coverage W(c) of a composition c is its number of
witnessed steps. An interface is the paper's "local witness" (parent, route, child), as digests of
arXiv 2606.18089 report it; that a step with two parents needs both is our reading.

What it does not say: that a model learned what was witnessed, that it needs it (two interfaces can
share all that there is to learn), how often a witness was seen, or in which of its two places a
routing mechanism read a parent.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from compgen_jax.task import modules, tables
from compgen_jax.task.latent import Composition, with_cap
from compgen_jax.task.sampler import FORBIDDEN
from compgen_jax.task.support import Support
from compgen_jax.task.vocab import TaskConfig

KINDS = ('modules', 'pairs', 'parents', 'interfaces')
SAMPLES = 16384  # compositions drawn per depth of a support that has no table


class Reads(NamedTuple):
  """What each routing mechanism reads: bool[R] each."""

  previous: np.ndarray
  earlier: np.ndarray


def reads(task: TaskConfig) -> Reads:
  """What the routing mechanisms of a task read."""
  inventory = task.routing_inventory
  previous = np.array([routing.reads_previous for routing in inventory])
  return Reads(previous, np.array([routing.reads_earlier for routing in inventory]))


class Steps(NamedTuple):
  """The steps of compositions, and the parents of the two values before each of them.

  All have shape [B, L]. `previous` and `earlier` int: the skill that made the last value, and the
  one before it; S stands for `input`. They are parents of the step only if it reads them.
  `routing`, `skill` int. `used` bool: it is a step of the composition, and it is not dry.
  """

  previous: np.ndarray
  earlier: np.ndarray
  routing: np.ndarray
  skill: np.ndarray
  used: np.ndarray


def steps_of(compositions: Composition, task: TaskConfig, dry_B: np.ndarray | int = 0) -> Steps:
  """The steps of compositions (leading axis B), of which the first `dry_B` of each are dry."""
  depth_Bx1, routing_BxL, skill_BxL = (
    np.asarray(compositions.depth)[:, None],
    np.asarray(compositions.routing),
    np.asarray(compositions.skill),
  )
  step_L = np.arange(routing_BxL.shape[1])
  is_dry_BxL = step_L < np.broadcast_to(dry_B, len(depth_Bx1))[:, None]
  maker_BxL = np.where(is_dry_BxL, task.n_skills, skill_BxL)
  # The makers of all values: of the two inputs, then of a result a step.
  maker_BxE = np.pad(maker_BxL, ((0, 0), (2, 0)), constant_values=task.n_skills)
  used_BxL = (step_L < depth_Bx1) & ~is_dry_BxL
  return Steps(maker_BxE[:, 1:-1], maker_BxE[:, :-2], routing_BxL, skill_BxL, used_BxL)


@dataclasses.dataclass(frozen=True, eq=False)
class Witnesses:
  """What a set of compositions witnesses. S in place of a parent stands for `input`.

  routing_R, skill_S: bool, modules. pair_RxS, parent_PxR, interface_PxRxS: bool, with P = S + 1.
  """

  task: TaskConfig
  routing_R: np.ndarray
  skill_S: np.ndarray
  pair_RxS: np.ndarray
  parent_PxR: np.ndarray
  interface_PxRxS: np.ndarray

  def __or__(self, other: 'Witnesses') -> 'Witnesses':
    """What either of two sets of compositions of one task witnesses."""
    return Witnesses(
      self.task,
      self.routing_R | other.routing_R,
      self.skill_S | other.skill_S,
      self.pair_RxS | other.pair_RxS,
      self.parent_PxR | other.parent_PxR,
      self.interface_PxRxS | other.interface_PxRxS,
    )

  def counts(self) -> dict[str, tuple[int, int]]:
    """By kind: how many are witnessed, and how many there are at any depth.

    (A routing mechanism that reads neither value has the parent `input` alone. Live compositions of
    up to three steps have fewer: in them, `earlier` never reads what a skill made.)
    """
    reads_previous_R, reads_earlier_R = reads(self.task)
    exists_PxR = np.broadcast_to(reads_previous_R | reads_earlier_R, self.parent_PxR.shape).copy()
    exists_PxR[-1] = True
    n_skills = len(self.skill_S)
    n_parents = int(exists_PxR.sum())
    sizes = (exists_PxR.shape[1] + n_skills, self.pair_RxS.size, n_parents, n_parents * n_skills)
    modules_M = np.concatenate([self.routing_R, self.skill_S])
    held = (modules_M, self.pair_RxS, self.parent_PxR, self.interface_PxRxS)
    return {kind: (int(x.sum()), size) for kind, x, size in zip(KINDS, held, sizes)}

  def steps(self, kind: str) -> np.ndarray:
    """bool[P, P, R, S]: by parent of the previous value, parent of the earlier value, routing
    mechanism and skill, whether such a step is witnessed."""
    n_parents = len(self.parent_PxR)
    if kind == 'modules':
      of_module_RxS = self.routing_R[:, None] & self.skill_S
      return np.broadcast_to(of_module_RxS, (n_parents, n_parents, *of_module_RxS.shape))
    if kind == 'pairs':
      return np.broadcast_to(self.pair_RxS, (n_parents, n_parents, *self.pair_RxS.shape))
    if kind == 'parents':
      shape = (n_parents, *self.pair_RxS.shape)
      witnessed_PxRxS = np.broadcast_to(self.parent_PxR[:, :, None], shape)
    elif kind == 'interfaces':
      witnessed_PxRxS = self.interface_PxRxS
    else:
      raise ValueError(f'kind={kind!r}: legal is {" | ".join(KINDS)}')
    reads_previous_Rx1, reads_earlier_Rx1 = (x[:, None] for x in reads(self.task))
    input_RxS = witnessed_PxRxS[-1] | reads_previous_Rx1 | reads_earlier_Rx1
    by_previous_PxRxS = witnessed_PxRxS | ~reads_previous_Rx1
    by_earlier_PxRxS = witnessed_PxRxS | ~reads_earlier_Rx1
    return by_previous_PxRxS[:, None] & by_earlier_PxRxS[None] & input_RxS

  def of_steps(self, kind: str, steps: Steps) -> np.ndarray:
    """bool[B, L]: the step is used and witnessed."""
    return self.steps(kind)[steps[:4]] & steps.used

  def coverage(self, kind: str, steps: Steps) -> np.ndarray:
    """int[B]: W(c), the witnessed steps of each composition."""
    return self.of_steps(kind, steps).sum(axis=1)


def of_steps(steps: Steps, task: TaskConfig) -> Witnesses:
  """What the steps of some compositions witness."""
  n_parents = task.n_skills + 1
  interface_PxRxS = np.zeros((n_parents, task.n_routings, task.n_skills), bool)
  reads_previous_R, reads_earlier_R = reads(task)
  by_previous_BxL = steps.used & reads_previous_R[steps.routing]
  by_earlier_BxL = steps.used & reads_earlier_R[steps.routing]
  by_input_BxL = steps.used & ~by_previous_BxL & ~by_earlier_BxL
  inputs_BxL = np.full_like(steps.skill, task.n_skills)
  for parent_BxL, read_BxL in (
    (steps.previous, by_previous_BxL),
    (steps.earlier, by_earlier_BxL),
    (inputs_BxL, by_input_BxL),
  ):
    seen = (parent_BxL[read_BxL], steps.routing[read_BxL], steps.skill[read_BxL])
    interface_PxRxS[seen] = True
  pair_RxS = interface_PxRxS.any(axis=0)
  return Witnesses(
    task,
    routing_R=pair_RxS.any(axis=1),
    skill_S=pair_RxS.any(axis=0),
    pair_RxS=pair_RxS,
    parent_PxR=interface_PxRxS.any(axis=2),
    interface_PxRxS=interface_PxRxS,
  )


def compositions_of(support: Support, n: int = SAMPLES) -> Composition:
  """All compositions of a finite support, or n of each depth of another one (numpy, leading axis).

  From a sample, what is found to be witnessed is a lower bound.
  """
  if support.table is not None:
    return jax.tree.map(np.asarray, support.table)
  key, cap = jax.random.key(support.salt), support.depth_cap
  samples = [
    tables.sample_at_depth(support, jax.random.fold_in(key, depth), depth, n, cap)
    for depth in support.config.depths
  ]
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *samples)


def join(compositions: list[Composition]) -> Composition:
  """Compositions of several supports as one array, each once."""
  cap = max(part.routing.shape[1] for part in compositions)
  fitted = [with_cap(part, cap) for part in compositions]
  joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *fitted)
  rows = np.concatenate([joined.depth[:, None], joined.routing, joined.skill], axis=1)
  _, first = np.unique(rows, axis=0, return_index=True)
  return jax.tree.map(lambda leaf: leaf[np.sort(first)], joined)


def of_support(support: Support, n: int = SAMPLES) -> Witnesses:
  """What a support witnesses; see `compositions_of` for n. Dry steps before them do not count."""
  task = support.task
  return of_steps(steps_of(compositions_of(support, n), task), task)


# Modules that occur together ----------------------------------------------------------------------


def times_used(steps: Steps, task: TaskConfig) -> np.ndarray:
  """int[B, R + S]: how many steps of each composition use each module, routing mechanisms first."""
  used_BxM = np.zeros((len(steps.used), task.n_routings + task.n_skills), int)
  row_Bx1 = np.arange(len(steps.used))[:, None]
  for index_BxL in (steps.routing, task.n_routings + steps.skill):
    np.add.at(used_BxM, (row_Bx1, index_BxL), steps.used)
  return used_BxM


def practised(supports: list[Support], task: TaskConfig) -> np.ndarray:
  """int[R + S]: how training on some supports practises each module: 0 not at all, 1 as single
  steps only, 2 in compositions. By what they may hold; a small table may lack some of it."""
  level_RxS = np.zeros((task.n_routings, task.n_skills), int)
  for support in supports:
    sampler, depths = support.sampler, support.config.depths
    pairs = np.unravel_index(sampler.pair_P[: sampler.n_pairs], level_RxS.shape)
    marks = sampler.marks_RxS[pairs]
    level = np.where(sampler.admits(marks) & (1 in depths), 1, 0)
    if max(depths) > 1:
      level = np.where(marks & FORBIDDEN == 0, 2, level)
    level_RxS[pairs] = np.maximum(level_RxS[pairs], level)
  return np.concatenate([level_RxS.max(axis=1), level_RxS.max(axis=0)])


def module_names(task: TaskConfig) -> tuple[str, ...]:
  """The names of all modules, routing mechanisms first."""
  return modules.names(task.routing_inventory) + modules.names(task.skill_inventory)


def entangled(used_ZxM: np.ndarray) -> list[tuple[int, ...]]:
  """Classes of two or more modules that always occur together; modules by index, as `times_used`.

  m ~ m' iff {c in Z: c uses m} = {c in Z: c uses m'}, and it is not empty. Whatever is right or
  wrong about whole compositions of Z says the same of all modules of a class, so that no such test
  on this support tells them apart. (Our word for the paper's "entangled in that trace".)

  What it does not say: that a trace cannot tell them apart. It shows each step by itself.
  """
  classes: dict[bytes, list[int]] = {}
  for module, is_used_Z in enumerate(used_ZxM.T > 0):
    if is_used_Z.any():
      classes.setdefault(is_used_Z.tobytes(), []).append(module)
  return [tuple(members) for members in classes.values() if len(members) > 1]


def components(used_ZxM: np.ndarray) -> list[tuple[int, ...]]:
  """Connected components of the graph of modules, with an edge where some composition uses both.

  Its closure links all modules of a component. It is full, and the support is connected, iff there
  is one component; a module that no composition uses is one by itself. Connected support is, beside
  every module being used, the condition under which arXiv 2312.15001 identifies the modules of a
  teacher-student model from demonstrations.

  What it does not say: that a transformer on traces identifies them. That theorem is about modules
  that are combined linearly in the parameters of a network, not run one after the other.
  """
  is_used_ZxM = (used_ZxM > 0).astype(int)
  near_MxM = (is_used_ZxM.T @ is_used_ZxM > 0) | np.eye(used_ZxM.shape[1], dtype=bool)
  reached_MxM = near_MxM
  while True:
    further_MxM = reached_MxM.astype(int) @ near_MxM.astype(int) > 0
    if np.array_equal(further_MxM, reached_MxM):
      break
    reached_MxM = further_MxM
  return list(dict.fromkeys(tuple(np.flatnonzero(row).tolist()) for row in reached_MxM))
