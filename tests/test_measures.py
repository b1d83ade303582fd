"""Measures: shares of verdicts, counted over what they are said to be counted over."""

import numpy as np
import pytest

from compgen_jax.experiment import measures
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.verify import Verdict
from tests import helpers

TASK = helpers.task(skills=('reverse', 'climb', 'fork'), routings=('previous', 'merge'))


def _flags(*rows):
  return np.array([[flag == '1' for flag in row] for row in rows])


# Three steps; the first of problem 0 is dry, problem 1 has two steps, problem 2 a wrong structure.
PROBLEMS = Problem(
  composition=Composition(
    depth=np.array([3, 2, 3]),
    routing=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
    skill=np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]]),
  ),
  values=None,
  operands=None,
  answer=None,
  first_label=None,
  dry=np.array([1, 0, 0]),
)
VERDICT = Verdict(
  answer=np.array([True, False, False]),
  structure=np.array([True, True, False]),
  strict=np.array([False, False, False]),
  operand_ok=_flags('010', '110', '000'),
  result_ok=_flags('011', '100', '000'),
)


def _shares(rows, metric):
  return {row['module']: (row['value'], row['n']) for row in rows if row['metric'] == metric}


def test_modules():
  """Catches dry steps that count as wrong ones, steps beyond the depth or of traces without
  structure that count at all, routing and skill mixed up, and a module without steps."""
  rows = measures.of_modules(VERDICT, PROBLEMS, TASK.resolved())
  # previous: steps 2 and 3 of problem 0, step 1 of problem 1. merge: step 2 of problem 1.
  assert _shares(rows, 'routing_accuracy') == {'previous': (2 / 3, 3), 'merge': (1.0, 1)}
  # reverse: step 2 of each. climb: step 3 of problem 0 and step 1 of problem 1.
  assert _shares(rows, 'skill_accuracy') == {'reverse': (1 / 2, 2), 'climb': (1.0, 2)}


def test_compact_traces_show_no_routing():
  """Catches routing rates of traces in which no operand can be read."""
  task = helpers.task(
    trace='compact', skills=('reverse', 'climb', 'fork'), routings=('previous', 'merge')
  )
  rows = measures.of_modules(VERDICT, PROBLEMS, task.resolved())
  assert {row['metric'] for row in rows} == {'skill_accuracy'} and len(rows) == 2


def test_traces():
  """Catches a verdict under the name of another, and an interval that leaves the share out."""
  rows = {row['metric']: row for row in measures.of_traces(VERDICT)}
  shares = {metric: row['value'] for metric, row in rows.items()}
  assert shares == {'accuracy': 1 / 3, 'strict_accuracy': 0.0, 'structure_accuracy': 2 / 3}
  assert all(row['n'] == 3 and row['low'] <= row['value'] <= row['high'] for row in rows.values())


def test_failures():
  """Catches a trace that counts twice or not at all, a right answer among the failures, a later
  wrong step taken for the first, and dry steps that count as wrong ones."""
  more = Verdict(
    answer=np.array([True, False, False, False, False]),
    structure=np.array([False, False, True, True, True]),
    strict=np.zeros(5, bool),
    operand_ok=_flags('000', '000', '110', '010', '011'),
    result_ok=_flags('000', '000', '100', '011', '011'),
  )
  composition = Composition(np.array([3, 3, 2, 3, 3]), np.zeros((5, 3), int), np.zeros((5, 3), int))
  problems = PROBLEMS._replace(composition=composition, dry=np.array([0, 0, 0, 1, 1]))
  rows = {row['metric']: row['value'] for row in measures.of_failures(more, problems)}
  assert rows == {
    'wrong_structure': 1 / 5, 'wrong_skill': 1 / 5, 'wrong_routing': 1 / 5, 'wrong_copy': 1 / 5,
  }  # fmt: skip
  one = {row['metric']: row['value'] for row in measures.of_failures(VERDICT, PROBLEMS)}
  assert one == {
    'wrong_structure': 1 / 3, 'wrong_skill': 1 / 3, 'wrong_routing': 0, 'wrong_copy': 0,
  }  # fmt: skip


def test_samples():
  """Catches pass@k by samples in place of problems: of 4 samples 1, 0 and 4 are right."""
  correct = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
  rows = {row['metric']: row for row in measures.of_samples(correct, (1, 2))}
  assert rows['pass@1']['value'] == pytest.approx((1 / 4 + 0 + 1) / 3)
  assert rows['pass@2']['value'] == pytest.approx((1 / 2 + 0 + 1) / 3)
  assert {row['n'] for row in rows.values()} == {3}
  # Wilson's interval of 1.25 of 3, by hand.
  got = rows['pass@1']['low'], rows['pass@1']['high']
  assert got == pytest.approx((0.0911, 0.8358), abs=1e-4)
