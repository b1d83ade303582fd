"""The table and the contrasts on literal numbers."""

import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import summary
from compgen_jax.experiment.evaluate import Evaluation
from tests.experiments import tiny


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

  def value(*terms):
    return summary.contrast(config, _evaluations(), 'x', terms)['value']

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


def test_terminal_shows_the_same_numbers():
  """A share printed as a percentage without its factor, or a number under another split."""
  config = from_config_dict(tiny())
  lines = summary.table_text(summary.summarise(config, _evaluations(), 90.0)).splitlines()
  header, sft, rl = lines[1:4]
  assert header.split()[2:] == ['unseen', '2', 'deeper', '3']
  assert sft.split() == ['sft', '25.0', '0.0'] and rl.split() == ['rl', '75.0', '25.0']
  assert any('tiny.unseen.rl_minus_sft' in line and '+50.0' in line for line in lines)
  assert lines[-1].startswith('n = 4 problems per cell, seeds [0], 1.5 min')


def test_long_names_of_splits_stand_apart():
  """Two heads of columns that read as one word, or a number that is not below its head."""
  result = summary.summarise(from_config_dict(tiny()), _evaluations(), 90.0)
  for entry in result['table']:
    entry['split'] = f'{entry["split"]}_behind_dry_steps'
  header, sft = summary.table_text(result).splitlines()[1:3]
  assert header.split()[2:] == ['unseen_behind_dry_steps', '2', 'deeper_behind_dry_steps', '3']
  assert len(header) == len(sft) and header.index(' 2 ') + 2 == sft.index('25.0') + 4
