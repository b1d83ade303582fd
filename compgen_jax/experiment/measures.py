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


def of_failures(verdict: Verdict, problems: Problem) -> list[dict[str, Any]]:
  """Rows on why answers are wrong: shares of all traces, by what goes wrong first.

  `wrong_structure`: modules, labels or their order. In a trace of the right structure, the first
  step that is not what its modules make of what the trace says before it: `wrong_routing` (its
  operand) or `wrong_skill` (its result; in a compact trace the step as a whole). `wrong_copy`: all
  steps right, but not the answer copied from the last. With `accuracy` they add up to 1.
  """
  operand_wrong, result_wrong = (
    real_steps(problems) & ~ok for ok in (verdict.operand_ok, verdict.result_ok)
  )
  # In the order in which a trace is written: operand and result of the first step, of the second...
  wrong_Bx2L = np.stack([operand_wrong, result_wrong], axis=-1).reshape(len(operand_wrong), -1)
  is_routing = np.argmax(wrong_Bx2L, axis=1) % 2 == 0
  some = np.any(wrong_Bx2L, axis=1)
  unstructured, by_step = ~verdict.answer & ~verdict.structure, ~verdict.answer & verdict.structure
  return [
    share('wrong_structure', unstructured),
    share('wrong_routing', by_step & some & is_routing),
    share('wrong_skill', by_step & some & ~is_routing),
    share('wrong_copy', by_step & ~some),
  ]


def real_steps(problems: Problem) -> np.ndarray:
  """bool[B, L]: the steps of each problem that are not dry."""
  step = np.arange(problems.composition.routing.shape[1])
  return (problems.dry[:, None] <= step) & (step < problems.composition.depth[:, None])


def of_modules(verdict: Verdict, problems: Problem, task: TaskConfig) -> list[dict[str, Any]]:
  """Rows on the modules: the share of a module's steps that are right.

  A step is right if it is what its module makes of what the trace says before it. Only traces with
  the right structure count, and no dry steps. Compact traces do not show what was routed, so there
  a step is taken as a whole, as its skill's.
  """
  composition = problems.composition
  counted = verdict.structure[:, None] & real_steps(problems)
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


def line(rows: list[dict[str, Any]]) -> str:
  """The accuracies for a terminal: `right, %: atoms 72.2  seen 85.1 80.9`, by split and depth."""
  by_split: dict[str, list[tuple[int, float]]] = {}
  for row in rows:
    if row['metric'] == 'accuracy':
      by_split.setdefault(row['split'], []).append((row['depth'], 100 * row['value']))
  cells = (
    ' '.join([split, *(f'{value:.1f}' for _, value in sorted(values))])
    for split, values in by_split.items()
  )
  return 'right, %: ' + '  '.join(cells)


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
