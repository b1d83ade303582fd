"""How well a model has identified single modules: executions in and out of witnessed contexts, and
what changes when one module of a prompt is swapped.

An *execution* is a module at a step of a trace. A routing mechanism is executed right if the step's
operand is what it makes of what the trace says before; a skill, if the result is what it makes of
the operand. A model that has identified a module executes it right whatever stands around it. The
*entanglement* of a module m is

  P(right | m, its step is witnessed) - P(right | m, its step is not witnessed)

with "witnessed" by pairs, parents or interfaces (see `witnesses`) of SFT's data, or by pairs of the
arm's own data (`own pairs`), where these leave some out. Comparing m with itself takes
out that some modules are easy.

What it does not say: that the witness is the cause. Which contexts of m are witnessed is drawn at
random with the support, but one support has only few of them, so it takes several replicates.
"""

from typing import NamedTuple

import numpy as np

from compgen_jax.task.latent import Composition
from compgen_jax.task.vocab import TaskConfig
from compgen_jax.theory.explanations import Judged
from compgen_jax.theory.witnesses import Steps, Witnesses

_OF_SFT = ('pairs', 'parents', 'interfaces')
KINDS = (*_OF_SFT, 'own pairs')  # by which a module's context is witnessed or not
SORTS = ('routing', 'skill')


class Executions(NamedTuple):
  """Executions of modules, leading axis N.

  module: int, routing mechanisms first, then skills. position: int, the step, from 0. right: bool.
  witnessed: bool[N, K], by each of KINDS, the step is witnessed. cluster: int, those of one
  composition have the same. replicate: int.
  """

  module: np.ndarray
  position: np.ndarray
  right: np.ndarray
  witnessed_NxK: np.ndarray
  cluster: np.ndarray
  replicate: np.ndarray


def composition_ids(compositions: Composition) -> np.ndarray:
  """int[B]: equal for equal compositions."""
  rows = np.concatenate([compositions.depth[:, None], *compositions[1:]], axis=1)
  return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def executions(
  steps: Steps,
  judged: Judged,
  seen: Witnesses,
  own: Witnesses,
  cluster_B: np.ndarray,
  replicate: int,
) -> Executions:
  """The executions of B traces: those of wrong structure have none, and compact ones show no
  routing mechanism's. `seen`: what SFT's data witness; `own`: what the arm's own do."""
  task, verdict = seen.task, judged.verdict
  counted_BxL = steps.used & np.asarray(verdict.structure)[:, None]
  row_N, position_N = np.nonzero(counted_BxL)
  witnessed_K = [*(seen.of_steps(kind, steps) for kind in _OF_SFT), own.of_steps('pairs', steps)]
  witnessed = np.stack([x_BxL[counted_BxL] for x_BxL in witnessed_K], axis=1)
  sorts = [(task.n_routings + steps.skill, verdict.result_ok)]
  if task.trace == 'explicit':
    sorts.insert(0, (steps.routing, verdict.operand_ok))
  parts = [
    Executions(
      index_BxL[counted_BxL],
      position_N,
      np.asarray(ok_BxL)[counted_BxL],
      witnessed,
      cluster_B[row_N],
      np.full(len(row_N), replicate),
    )
    for index_BxL, ok_BxL in sorts
  ]
  return join(parts)


def join(parts: list[Executions]) -> Executions:
  """Those of several, one behind the other; clusters of different parts stay as they are."""
  return Executions(*map(np.concatenate, zip(*parts)))


class Tally(NamedTuple):
  """Right executions and all, by cluster, stratum and side: int[C, T, 2] each."""

  right: np.ndarray
  n: np.ndarray


def tally(e: Executions, side_N: np.ndarray, stratum_N: np.ndarray) -> Tally:
  """Counts executions on two sides, such as witnessed (0) and not (1); -1 is left out.

  Clusters of different replicates are different ones. Strata: what is compared only with itself,
  such as a module.
  """
  kept_N = side_N >= 0
  place = np.stack([e.replicate, e.cluster])[:, kept_N]
  _, cluster_N = np.unique(place, axis=1, return_inverse=True)
  _, stratum_N = np.unique(stratum_N[kept_N], return_inverse=True)
  cluster_N, stratum_N = cluster_N.reshape(-1), stratum_N.reshape(-1)
  shape = (1 + cluster_N.max(initial=-1), 1 + stratum_N.max(initial=-1), 2)
  right, n = np.zeros(shape, int), np.zeros(shape, int)
  at = (cluster_N, stratum_N, side_N[kept_N])
  np.add.at(right, at, e.right[kept_N])
  np.add.at(n, at, 1)
  return Tally(right, n)


# Swapping one module ------------------------------------------------------------------------------


class Swaps(NamedTuple):
  """Compositions in which one module of one step is another one.

  compositions: leading axes of the caller. step, sort: int, where it was swapped, and whether the
  routing mechanism (0) or the skill (1).
  """

  compositions: Composition
  step: np.ndarray
  sort: np.ndarray


def draw_swaps(compositions: Composition, task: TaskConfig, n: int, seed: int) -> Swaps:
  """n swaps of each composition, leading axes B, n: step, sort and the new module are uniform."""
  rng = np.random.default_rng(seed)
  size = (len(compositions.depth), n)
  step = rng.integers(np.asarray(compositions.depth)[:, None], size=size)
  sort = rng.integers(2, size=size)
  swapped = []
  for which, (index_BxL, n_modules) in enumerate(
    ((compositions.routing, task.n_routings), (compositions.skill, task.n_skills))
  ):
    index = np.repeat(np.asarray(index_BxL)[:, None], n, axis=1)
    others = max(1, n_modules - 1)  # with one module only there is no other, and it stays
    shift = (1 + rng.integers(others, size=size)) * (sort == which)
    at = np.arange(index.shape[2]) == step[..., None]
    swapped.append(np.where(at, (index + shift[..., None]) % n_modules, index).astype(np.int32))
  depth = np.repeat(np.asarray(compositions.depth)[:, None], n, axis=1)
  return Swaps(Composition(depth, *swapped), step, sort)


class Effects(NamedTuple):
  """What a swap changes in a model's trace of the same inputs, bool[B] each.

  before: what comes before the swapped module is as it was, letter by letter (for a skill, the
  step's operand too). there: the new module is executed right. after: what comes behind is right
  where it was right, and wrong where it was wrong. there_before: the old module was executed right.
  counted: the old trace has the right structure; where it has not, or the new one has not, the
  first three are false.
  """

  before: np.ndarray
  there: np.ndarray
  after: np.ndarray
  there_before: np.ndarray
  counted: np.ndarray


def effects(old: Judged, new: Judged, swaps: Swaps) -> Effects:
  """Compares traces of problems (old) with those of the swapped problems (new), row by row."""
  # The modules in the order in which a trace executes them: routing, skill, routing, skill, ...
  old_ok, new_ok = (
    np.stack([j.verdict.operand_ok, j.verdict.result_ok], axis=2).reshape(len(swaps.step), -1)
    for j in (old, new)
  )
  same = np.stack(
    [
      _equal(old.said.operands, new.said.operands),
      _equal(*(_results(j.said.values) for j in (old, new))),
    ],
    axis=2,
  ).reshape(old_ok.shape)
  order = np.arange(old_ok.shape[1])
  at_Bx1 = (2 * swaps.step + swaps.sort)[:, None]
  structure_B = np.asarray(old.verdict.structure & new.verdict.structure)
  return Effects(
    before=structure_B & np.all(same | (order >= at_Bx1), axis=1),
    there=structure_B & np.take_along_axis(new_ok, at_Bx1, axis=1)[:, 0],
    after=structure_B & np.all((old_ok == new_ok) | (order <= at_Bx1), axis=1),
    there_before=np.take_along_axis(old_ok, at_Bx1, axis=1)[:, 0],
    counted=np.asarray(old.verdict.structure),
  )


def _results(values):
  return type(values)(values.letters[:, 2:], values.length[:, 2:])


def _equal(a, b) -> np.ndarray:
  return (a.length == b.length) & np.all(a.letters == b.letters, axis=-1)
