"""What reinforcement learning has to work with before it starts: what its samples earn.

Of a policy's samples (Q prompts, G samples of each), with R the reward and E an event of a sample,
such as executing an interface right:

  reachability      P(R = 1) of each prompt; pass@k (`statistics.pass_at_k`)
  informativeness   the chance that a group of g samples of a prompt earns both 0 and 1, without
                    which a group's baseline leaves no gradient
  enrichment of E   P(E | R = 1) - P(E) = p0 (1 - p0) (P(R | E) - P(R | not E)) / P(R = 1),
                    with p0 = P(E)

The last is how much more often E happens in what is rewarded, and so the first push that it gets. A
policy gradient whose baseline is the prompt's own mean sees of it only what happens *within*
prompts: mean over prompts of Cov(E, R | prompt) / P(R = 1). The rest is that E happens more often
in easier prompts.

What it does not say: where learning ends. It is the first step, of a policy that then changes.
"""

from typing import NamedTuple

import numpy as np

from compgen_jax.task.verify import Verdict
from compgen_jax.task.vocab import TaskConfig
from compgen_jax.theory import witnesses
from compgen_jax.theory.witnesses import Steps


class Enrichment(NamedTuple):
  """Of an event under reward.

  n: occasions on which it can happen. prompts: of how many prompts. p0: P(E). reward: P(R = 1).
  reward_if, reward_if_not: P(R = 1 | E), P(R = 1 | not E); NaN where the condition never holds.
  value: P(E | R = 1) - P(E), by the formula; NaN where nothing is rewarded. within: its part within
  prompts, of prompts with two samples or more.
  """

  n: int
  prompts: int
  p0: float
  reward: float
  reward_if: float
  reward_if_not: float
  value: float
  within: float


def formula(p0: float, reward_if: float, reward_if_not: float) -> float:
  """p0 (1 - p0) (P(R | E) - P(R | not E)) / P(R = 1), with P(R = 1) by total probability; 0 where E
  is certain or impossible, NaN where nothing is rewarded."""
  if p0 in (0.0, 1.0):
    reward = reward_if if p0 else reward_if_not
    return 0.0 if reward > 0 else float('nan')
  reward = p0 * reward_if + (1 - p0) * reward_if_not
  return p0 * (1 - p0) * (reward_if - reward_if_not) / reward if reward > 0 else float('nan')


def enrichment(event_N: np.ndarray, right_N: np.ndarray, prompt_N: np.ndarray) -> Enrichment:
  """Estimates it from N occasions: whether E happened, whether the sample earned 1, and its prompt
  (int). N is 1 or more."""
  event_N, right_N = np.asarray(event_N, bool), np.asarray(right_N, bool)
  p0, reward = float(np.mean(event_N)), float(np.mean(right_N))
  reward_if = float(np.mean(right_N[event_N])) if event_N.any() else float('nan')
  reward_if_not = float(np.mean(right_N[~event_N])) if not event_N.all() else float('nan')
  _, prompt_N = np.unique(prompt_N, return_inverse=True)
  n_Q = np.bincount(prompt_N)
  both_Q, event_Q, right_Q = (
    np.bincount(prompt_N, weights=x) for x in (event_N & right_N, event_N, right_N)
  )
  several_Q = n_Q > 1
  # The unbiased covariance within each prompt, each prompt weighted by its occasions.
  covariance_Q = (both_Q - event_Q * right_Q / n_Q) * n_Q / np.maximum(n_Q - 1, 1)
  n, rewarded = n_Q[several_Q].sum(), right_Q[several_Q].sum()
  within = float(covariance_Q[several_Q].sum() / rewarded) if n and rewarded else float('nan')
  value = formula(p0, reward_if, reward_if_not)
  return Enrichment(len(event_N), len(n_Q), p0, reward, reward_if, reward_if_not, value, within)


# Events of traces ---------------------------------------------------------------------------------


class Occasions(NamedTuple):
  """Occasions of one kind of event, leading axis N: executing something right at a step.

  item: int, what is executed. row: int, the trace. happened: bool; false where the trace has the
  wrong structure, so that it can be asked of any trace.
  """

  item: np.ndarray
  row: np.ndarray
  happened: np.ndarray


def occasions(steps: Steps, verdict: Verdict, task: TaskConfig) -> dict[str, Occasions]:
  """Occasions in B traces by kind (`witnesses.KINDS`). A step gives one for each of its

    modules      its routing mechanism makes the right operand; its skill makes the right result
    pairs        both at once
    parents      (p, r): the operand is right; a step with two parents gives two
    interfaces   (p, r, s): operand and result are right

  Items are numbered modules: as in `witnesses.times_used`; (p, r, s): (p * R + r) * S + s, and the
  others likewise. Compact traces show no operands: a routing mechanism's step is taken for right.
  """
  n_routings, n_skills = task.n_routings, task.n_skills
  reads_previous_R, reads_earlier_R = witnesses.reads(task)
  routed = np.asarray(verdict.operand_ok)
  both = routed & np.asarray(verdict.result_ok)
  by_previous_BxL = reads_previous_R[steps.routing]
  by_earlier_BxL = reads_earlier_R[steps.routing]
  parent_of = (
    (steps.previous, steps.used & by_previous_BxL),
    (steps.earlier, steps.used & by_earlier_BxL),
    (np.full_like(steps.skill, n_skills), steps.used & ~by_previous_BxL & ~by_earlier_BxL),
  )

  def gather(parts) -> Occasions:
    taken = [
      Occasions(item[kept], np.nonzero(kept)[0], happened[kept]) for item, kept, happened in parts
    ]
    return Occasions(*map(np.concatenate, zip(*taken)))

  pair_BxL = steps.routing * n_skills + steps.skill
  result_ok = np.asarray(verdict.result_ok)
  return dict(
    modules=gather(
      [
        (steps.routing, steps.used, routed),
        (n_routings + steps.skill, steps.used, result_ok),
      ]
    ),
    pairs=gather([(pair_BxL, steps.used, both)]),
    parents=gather([(p * n_routings + steps.routing, kept, routed) for p, kept in parent_of]),
    interfaces=gather(
      [(p * n_routings * n_skills + pair_BxL, kept, both) for p, kept in parent_of]
    ),
  )
