"""What verdicts say, as rows of results.jsonl: shares with n and 95 % intervals (Wilson)."""

from typing import Any

import numpy as np

from compgen_jax.statistics import pass_at_k, wilson
from compgen_jax.task.latent import Problem
from compgen_jax.task.verify import Verdict
from compgen_jax.task.vocab import TaskConfig


def share(metric: str, correct: np.ndarray, **more) -> dict[str, Any]:
  """The share of true entries as a row."""
  n, k = int(correct.size), int(np.sum(correct))
  low, high = wilson(k, n)
  return dict(metric=metric, value=k / n, n=n, low=low, high=high) | more


def of_traces(verdict: Verdict) -> list[dict[str, Any]]:
  """Rows on whole traces (one per problem, greedy)."""
  return [
    share('accuracy', verdict.answer),
    share('strict_accuracy', verdict.strict),
    share('structure_accuracy', verdict.structure),
  ]


def of_modules(verdict: Verdict, problems: Problem, task: TaskConfig) -> list[dict[str, Any]]:
  """Rows on the modules: the share of a module's steps that are right.

  A step is right if it is what its module makes of what the trace says before it. Only traces with
  the right structure count, and no dry steps. Compact traces do not show what was routed, so there
  a step is taken as a whole, as its skill's.
  """
  composition = problems.composition
  step = np.arange(composition.routing.shape[1])
  real = (problems.dry[:, None] <= step) & (step < composition.depth[:, None])
  counted = verdict.structure[:, None] & real
  rows = []

  def add(metric, index, ok, names):
    for i, name in enumerate(names):
      mine = counted & (index == i)
      if mine.any():
        rows.append(share(metric, ok[mine], module=name))

  if task.trace == 'explicit':
    add('routing_accuracy', composition.routing, verdict.operand_ok, task.routings)
  add('skill_accuracy', composition.skill, verdict.result_ok, task.skills)
  return rows


def of_samples(correct_QxG: np.ndarray, ks: tuple[int, ...]) -> list[dict[str, Any]]:
  """Unbiased pass@k rows, from G sampled traces a problem.

  A mean of values in [0, 1] varies no more than a share does: Wilson's interval, over problems, is
  wide enough for it.
  """
  n_problems, n_samples = correct_QxG.shape
  correct_Q = correct_QxG.sum(axis=1)
  rows = []
  for k in ks:
    value = pass_at_k(correct_Q, n_samples, k)
    low, high = wilson(value * n_problems, n_problems)
    rows.append(dict(metric=f'pass@{k}', value=value, n=n_problems, low=low, high=high))
  return rows
