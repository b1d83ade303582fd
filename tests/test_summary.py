"""Contrasts and intervals on literal numbers."""

import numpy as np
import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import summary
from compgen_jax.experiment.evaluate import Evaluation
from tests.experiments import tiny


def test_interval_over_seeds_is_students():
  """The normal quantile 1.96 where three seeds want 4.30, or the population's deviation."""
  mean, low, high, over = summary.interval(np.array([0.1, 0.2, 0.3]), np.zeros((3, 5)))
  assert (mean, over) == (pytest.approx(0.2), 'seeds')
  assert high - mean == pytest.approx(
    4.3027 * 0.1 / np.sqrt(3), rel=1e-4
  ) and mean - low == pytest.approx(high - mean)


def test_interval_over_problems_is_paired():
  """Two independent intervals where the arms answered the same problems."""
  a = np.array([[1.0, 1.0, 0.0, 0.0]])
  mean, low, high, over = summary.interval(np.mean(a - a, axis=1), a - a)
  assert (mean, low, high, over) == (0.0, 0.0, 0.0, 'problems')


def _evaluations():
  rows = [dict(split='unseen', depth=2, metric='accuracy', value=0.5)]
  return {
    'sft': Evaluation(rows, {'unseen/2': [[True, False, False, False]], 'deeper/3': [[False] * 4]}),
    'rl': Evaluation(
      rows, {'unseen/2': [[True, True, True, False]], 'deeper/3': [[True, False, False, False]]}
    ),
  }


def test_contrast_is_a_weighted_sum_in_points():
  """A sign, a weight or a factor of 100 lost; a mean over depths that is a sum."""
  config = from_config_dict(tiny())
  value = lambda *terms: summary.contrast(config, _evaluations(), 'x', terms)['value']
  assert value((1, 'rl', 'unseen', 2), (-1, 'sft', 'unseen', 2)) == pytest.approx(50.0)
  assert value((1, 'rl', 'unseen', 0)) == pytest.approx(75.0)
  gain_of_gains = value(
    (1, 'rl', 'unseen', 2),
    (-1, 'sft', 'unseen', 2),
    (-1, 'rl', 'deeper', 3),
    (1, 'sft', 'deeper', 3),
  )
  assert gain_of_gains == pytest.approx(25.0)


def test_table_has_a_width_at_zero():
  """0 of 4 right reported as 0 with certainty."""
  table = summary.table(from_config_dict(tiny()), _evaluations())
  entry = next(e for e in table if e['arm'] == 'sft' and e['split'] == 'deeper')
  assert entry['accuracy'] == 0.0 and entry['low'] == 0.0 and entry['high'] > 0.4


def test_command_is_what_one_would_type(monkeypatch, tmp_path):
  """A machine's path in a committed number."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    'sys.argv',
    ['/x/compgen_jax/main.py', '--config=configs/quickstart.py', f'--workdir={tmp_path}/runs/a b'],
  )
  assert (
    summary.command()
    == "python -m compgen_jax.main --config=configs/quickstart.py '--workdir=runs/a b'"
  )
