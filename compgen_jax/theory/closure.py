"""The size of a support's closure: how many compositions are made of witnessed steps alone."""

import numpy as np

from compgen_jax.task.vocab import TaskConfig
from compgen_jax.theory.witnesses import Witnesses, reads

DEEPEST = 64  # steps


def shares(witnesses: Witnesses, kind: str, deepest: int = DEEPEST) -> np.ndarray:
  """float[deepest]: of the live compositions of depth 1, 2, ..., the share in the closure.

  share(L) = |{c live of depth L: W(c) = L}| / |{c live of depth L}|, with W of `kind` (see
  `witnesses`). Live ones, because supports hold no others (`task/sampler.is_live`). Both numbers
  are exact up to rounding, by dynamic programming over (skill of the last value, skill of the one
  before, whether that one has been read). No composition is enumerated.

  What it does not say: that a model composes them. It is the most that can be asked of one that
  composes what was witnessed and nothing else.
  """
  task = witnesses.task
  every = np.ones_like(witnesses.steps(kind))
  return _live(witnesses.steps(kind), task, deepest) / _live(every, task, deepest)


def _live(allowed_PxPxRxS: np.ndarray, task: TaskConfig, deepest: int) -> np.ndarray:
  """float[deepest]: the probability that modules drawn uniformly at every step make a live
  composition, all of whose steps are allowed."""
  n_skills = task.n_skills
  reads_previous_R, reads_earlier_R = reads(task)
  weight_PxPxRxS = allowed_PxPxRxS / (task.n_routings * n_skills)
  # state[u][p, e]: of the lists of steps so far, those whose last value was made by p and the one
  # before it by e; u = 1 where that one needs no reader any more, u = 0 where it does.
  state = np.zeros((2, n_skills + 1, n_skills + 1))
  state[1, n_skills, n_skills] = 1.0  # the inputs need none
  is_input_P = np.arange(n_skills + 1) == n_skills
  found = []
  for _ in range(deepest):
    after = np.zeros_like(state)
    for routing in range(task.n_routings):
      # A value that has no reader yet is read now, or never.
      before_PxP = state[1] + (state[0] if reads_earlier_R[routing] else 0.0)
      next_PxS = np.einsum('pe,pes->ps', before_PxP, weight_PxPxRxS[:, :, routing])
      is_read_P = is_input_P | reads_previous_R[routing]
      after[1, :n_skills] += (next_PxS * is_read_P[:, None]).T
      after[0, :n_skills] += (next_PxS * ~is_read_P[:, None]).T
    state = after
    found.append(state[1].sum())
  return np.array(found)
