"""The report's numbers are those of results.jsonl and summary.json."""

import dataclasses

import numpy as np
import pytest

from compgen_jax.report import digest
from compgen_jax.report.digest import Contrast, Side
from compgen_jax.statistics import wilson
from tests.reports import make_config, make_run


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """One run with one seed: (folder, config, rows, result)."""
  folder = tmp_path_factory.mktemp('run')
  config = make_config()
  return folder, config, *make_run(folder, config)


def test_contrast_is_spelled_out(run):
  """A sign, a weight or a place that is not the contrast's own."""
  contrasts = digest.digest(*run).contrasts
  assert [(c.what, c.where) for c in contrasts] == [
    ('RL on sft (compound) − RL on sft (atomic)', 'unseen, 3 steps'),
    (
      'RL on sft (compound) (deeper, mean over 4 and 5 steps) '
      '− SFT (deeper, mean over 4 and 5 steps) '
      '− 0.5 × rejection fine-tuning on sft (seen, 2 steps) + 0.5 × SFT (seen, 2 steps)',
      '',
    ),
    ('SFT', 'unseen, 3 steps'),
  ]
  assert [c.pair for c in contrasts] == [('compound', 'atomic', 'unseen', 3), None, None]
  assert [c.is_difference for c in contrasts] == [True, True, False]


def test_side_of_an_interval():
  """An interval that touches zero taken to exclude it; one of no width taken for certainty."""

  def side(low, high):
    return Contrast('c', low, low, high, 'problems', 100, '', '', None, True).side

  assert (side(1, 9), side(-9, -1)) == (Side.ABOVE, Side.BELOW)
  assert (side(-1, 5), side(0, 5), side(-5, 0)) == (Side.AROUND,) * 3
  assert side(5 - 1e-15, 5) == Side.NO_WIDTH


def test_curve_rows_do_not_leak_into_the_final_tables(run):
  """Rows of results.jsonl from the middle of training have the same fields as those of its end."""
  folder, config, rows, result = run
  middle = [row for row in rows if row['step'] != config.stages[row['arm']].steps]
  middle = [row | dict(metric='strict_accuracy', value=0.0) for row in middle]
  assert middle
  with_them, without = (digest.digest(folder, config, r, result) for r in (rows + middle, rows))
  assert with_them.others == without.others


def test_a_stages_accuracy_curve_starts_where_its_parent_ended(run):
  """A curve that starts nowhere, or where its parent started."""
  lines = digest.digest(*run).accuracy_curves['unseen', 3]
  assert lines['sft'].x[0] > 0 and lines['compound'].x[0] == 0
  assert lines['compound'].mean[0] == lines['sft'].mean[-1] and lines['compound'].x[-1] == 100


def test_learning_curves_are_of_the_stages_that_have_them(run):
  """A reward of SFT, or a loss of RL (which is no likelihood) among those of SFT."""
  curves = digest.digest(*run).curves
  assert {(panel.kinds, panel.metric): set(lines) for panel, lines in curves.items()} == {
    (('sft',), 'loss'): {'sft', 'sft_continued'},
    (('rft',), 'loss'): {'rft'},
    (('rl', 'rft'), 'reward'): {'atomic', 'compound', 'rft'},
    (('rl',), 'structure'): {'atomic', 'compound'},
    (('rl',), 'entropy'): {'atomic', 'compound'},
  }


def test_modules_pool_unseen_splits_by_their_n():
  """A mean of means, which would be 0.75."""
  row = dict(metric='skill_accuracy', module='reverse', seed=0)
  e = digest.estimate([row | dict(value=1.0, n=30), row | dict(value=0.5, n=10)], 'steps')
  assert (e.value, e.n, e.over) == (0.875, 40, 'steps')
  assert (e.low, e.high) == wilson(35, 40)


def test_outcomes_add_up(run):
  """A trace that counts twice, or under the name of another failure."""
  d = digest.digest(*run)
  for entry in run[3]['table']:
    shares = d.outcomes[entry['arm'], entry['split'], entry['depth']]
    assert abs(sum(shares) - 1) < 1e-12 and shares.strict == entry['strict_accuracy']
    assert abs(shares.strict + shares.answer_only - entry['accuracy']) < 1e-12
    assert shares.wrong_skill == entry['wrong_skill']
  assert set(d.others) == {'strict_accuracy', 'structure_accuracy', 'pass@1', 'pass@4'}


def test_profiles_join_what_differs_in_depth(run):
  """One line through two splits of one depth, trained and untrained ones together, or a place that
  no line passes."""
  folder, config, rows, result = run
  profiles = digest.digest(*run).profiles
  assert [(p.title, p.places) for p in profiles] == [
    ('trained on: atoms, seen', (('atoms', 1), ('seen', 2), ('seen', 3))),
    (
      'never trained on: unseen, deeper',
      (('unseen', 2), ('unseen', 3), ('deeper', 4), ('deeper', 5)),
    ),
  ]
  ev = config.eval
  config = dataclasses.replace(config, eval=dataclasses.replace(ev, trained=('seen',)))
  titles = [p.title for p in digest.digest(folder, config, rows, result).profiles]
  assert titles == ['trained on: seen', 'never trained on: atoms, unseen, deeper']
  same = [e | {'split': 'atoms', 'depth': 3} for e in result['table'] if e['split'] == 'deeper']
  both = digest.digest(folder, config, rows, result | {'table': result['table'] + same})
  assert [p.title for p in both.profiles][1:] == [
    'never trained on: atoms, deeper', 'never trained on: unseen',
  ]  # fmt: skip


def test_routing_is_left_out_where_traces_do_not_show_it(run):
  """Operands judged in a compact trace, which has none."""
  folder, config, rows, result = run
  compact = dataclasses.replace(config, task=dataclasses.replace(config.task, trace='compact'))
  assert list(digest.digest(folder, compact, rows, result).modules) == ['skill_accuracy']


def test_several_seeds_give_intervals_over_seeds(tmp_path):
  """An interval over problems, which says nothing about another seed."""
  config = make_config(seeds=(3, 4, 5))
  rows, result = make_run(tmp_path, config)
  others = digest.digest(tmp_path, config, rows, result).others
  strict = others['strict_accuracy']['sft', 'unseen', 3]
  wanted = dict(arm='sft', split='unseen', depth=3, metric='strict_accuracy')
  values = [row['value'] for row in rows if wanted.items() <= row.items()]
  assert (strict.n, strict.over) == (200, 'seeds') and len(values) == 3
  half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
  assert strict.high - strict.value == pytest.approx(half, rel=1e-5)
