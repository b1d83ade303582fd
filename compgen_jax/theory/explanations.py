"""Which selections explain the steps of a trace, and what that says of a model's own traces.

A pair (routing mechanism, skill) *explains* a step if it makes the step's operand and result from
the values before it (`latent.posterior`). A step that several pairs explain is *ambiguous*: the
trace does not identify its selections, which is how SFT can learn the wrong module from right data.
A wrong step that some other pair explains shows what was selected in its place.

What it does not say: what happens inside a model. A selection is a reading of what it wrote.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import latent, verify
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.strings import String
from compgen_jax.task.verify import Said, Verdict
from compgen_jax.task.vocab import TaskConfig
from compgen_jax.theory import witnesses
from compgen_jax.theory.witnesses import Steps

ERRORS = ('structure', 'operand', 'result', 'end')


class Explained(NamedTuple):
  """What explains the steps of one trace, int32[L] each; zero where nothing does.

  routings, skills, pairs: how many routing mechanisms, skills and pairs do (a routing mechanism
  does if some pair with it does). selection: one pair that does, r * n_skills + s: the one that was
  asked for if it does, else the first; -1 where nothing does.
  """

  routings: jax.Array
  skills: jax.Array
  pairs: jax.Array
  selection: jax.Array


def explain(
  values: String, operands: String, composition: Composition, task: TaskConfig
) -> Explained:
  """What explains the steps of one trace.

  Args:
    values: two inputs and a result a step, leading axis E. They may be a model's own.
    operands: leading axis L; a compact trace does not show them, and there they are not used.
    composition: what was asked for.
    task: the task.
  """
  is_explicit = task.trace == 'explicit'
  depth = composition.depth
  found = latent.posterior(values, depth, task, operands if is_explicit else None)
  # Modules are defined for proper strings only; what they would make of others explains nothing.
  is_proper_L = verify.is_proper(values, task)[2:]
  if is_explicit:
    is_proper_L &= verify.is_proper(operands, task)
  explains_LxRxS = (found.selection > 0) & is_proper_L[:, None, None]
  explains_LxN = explains_LxRxS.reshape(explains_LxRxS.shape[0], -1)
  asked_L = composition.routing * task.n_skills + composition.skill
  is_asked_L = jnp.take_along_axis(explains_LxN, asked_L[:, None], axis=1)[:, 0]
  first_L = jnp.where(explains_LxN.any(axis=1), jnp.argmax(explains_LxN, axis=1), -1)
  return Explained(
    routings=explains_LxRxS.any(axis=2).sum(axis=1),
    skills=explains_LxRxS.any(axis=1).sum(axis=1),
    pairs=explains_LxN.sum(axis=1),
    selection=jnp.where(is_asked_L, asked_L, first_L),
  )


class Judged(NamedTuple):
  """All that is read from one trace of a problem without dry steps.

  `explained` is zero, its selections -1, where the structure is wrong.
  """

  verdict: Verdict
  said: Said
  explained: Explained


def judge(problem: Problem, trace_C: jax.Array, task: TaskConfig) -> Judged:
  """Reads one trace (int32[C], any values)."""
  verdict, said = verify.read(problem, trace_C, task)
  explained = explain(said.values, said.operands, problem.composition, task)
  nothing = Explained(*(jnp.zeros_like(x) for x in explained[:3]), -jnp.ones_like(explained[3]))
  explained = jax.tree.map(lambda x, y: jnp.where(verdict.structure, x, y), explained, nothing)
  return Judged(verdict, said, explained)


# Of many traces, on the host ----------------------------------------------------------------------


def first_wrong(verdict: Verdict, depth_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Where traces first go wrong: `(kind, step)`, int[B].

  kind: index in ERRORS; -1 for a strictly right trace. `end`: all steps are right, the answer is
  not. step: from 0, of an operand or a result (judged by what the trace says before it; a compact
  trace shows no operands); -1 for the other kinds. Where the structure is wrong no step is judged.
  """
  used_BxL = np.arange(verdict.operand_ok.shape[1]) < depth_B[:, None]
  wrong_BxL = used_BxL & ~(verdict.operand_ok & verdict.result_ok)
  step_B = np.argmax(wrong_BxL, axis=1)
  operand_ok_B = np.take_along_axis(verdict.operand_ok, step_B[:, None], axis=1)[:, 0]
  in_step_B = verdict.structure & wrong_BxL.any(axis=1)
  kind_B = np.where(in_step_B, 1 + operand_ok_B, np.where(verdict.structure, 3, 0))
  return np.where(verdict.strict, -1, kind_B), np.where(in_step_B, step_B, -1)


class Counts(NamedTuple):
  """Of each module, int[R + S], routing mechanisms first: steps that use it, and how many of these
  are ambiguous: another routing mechanism (or skill) explains the step too."""

  steps: np.ndarray
  ambiguous: np.ndarray


def ambiguity(explained: Explained, steps: Steps, task: TaskConfig) -> Counts:
  """How often traces do not identify their selections, by module. (Leading axis B.)"""
  used_BxL = steps.used & (explained.pairs > 0)
  names = np.arange(task.n_routings + task.n_skills)
  total, ambiguous = np.zeros(names.shape, int), np.zeros(names.shape, int)
  for index_BxL, n_BxL in (
    (steps.routing, explained.routings),
    (task.n_routings + steps.skill, explained.skills),
  ):
    np.add.at(total, index_BxL[used_BxL], 1)
    np.add.at(ambiguous, index_BxL[used_BxL & (n_BxL > 1)], 1)
  return Counts(total, ambiguous)


def golden_ambiguity(explained: Explained, compositions: Composition, task: TaskConfig) -> Counts:
  """`ambiguity` of the golden traces of compositions (leading axis B)."""
  return ambiguity(explained, witnesses.steps_of(compositions, task), task)


class Explored(NamedTuple):
  """What samples of each prompt hold, int[Q] each: rewarded ones, different traces among these, and
  different lists of selections that explain these (`Explained.selection`)."""

  rewarded: np.ndarray
  traces: np.ndarray
  selections: np.ndarray


def explored(
  tokens_QxGxC: np.ndarray, selection_QxGxL: np.ndarray, rewarded_QxG: np.ndarray
) -> Explored:
  """Counts what was rewarded among G samples of each of Q prompts."""
  counts = [
    (int(kept_G.sum()), _distinct(tokens_GxC[kept_G]), _distinct(selection_GxL[kept_G]))
    for tokens_GxC, selection_GxL, kept_G in zip(tokens_QxGxC, selection_QxGxL, rewarded_QxG)
  ]
  return Explored(*np.array(counts, int).reshape(-1, 3).T)


def _distinct(rows: np.ndarray) -> int:
  return len({row.tobytes() for row in rows})
