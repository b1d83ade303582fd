"""The report's first sentences: in words, and as the intervals have it."""

import dataclasses
import re

import pytest

from compgen_jax.report import lead
from compgen_jax.report.digest import Contrast, digest
from tests.reports import make_config, make_run


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(digest, config)."""
  folder = tmp_path_factory.mktemp('run')
  config = make_config()
  return digest(folder, config, *make_run(folder, config)), config


def _contrast(value, low, high, pair=None, is_difference=True):
  return Contrast('c', value, low, high, 'problems', 100, '', '', pair, is_difference)


def _lead(run, *contrasts):
  d, config = run
  return lead.lead(dataclasses.replace(d, contrasts=contrasts), config)


def test_the_first_sentence_is_of_the_arm_that_is_compared_most(run):
  """Ids of contrasts, a number of another place, or an arm compared with one other in place of
  two."""
  d, _ = run
  where = 'unseen', 3
  text = _lead(
    run,
    _contrast(1, 0, 2, pair=('rft', 'sft', 'deeper', 4)),
    _contrast(9, 5, 13, pair=('compound', 'sft', *where)),
    _contrast(2, -1, 5, pair=('compound', 'sft_continued', *where)),
    _contrast(-4, -6, -2, pair=('compound', 'rft', *where)),
  )
  levels = {arm: f'{100 * d.accuracy[arm, *where].value:.1f}' for arm in d.arms}
  assert text == (
    f'SFT, then RL on sft (compound) answers {levels["compound"]} % right on compositions never '
    f'trained on (3 steps): 9.0 points more than SFT ({levels["sft"]} %), '
    '95 % interval +5.0 to +13.0; '
    f'not clearly more or less than continued SFT ({levels["sft_continued"]} %): +2.0 points, '
    '95 % interval −1.0 to +5.0; '
    f'4.0 points less than rejection fine-tuning on sft ({levels["rft"]} %), '
    '95 % interval −6.0 to −2.0.'
  )


def test_a_mean_over_depths_is_one(run):
  """The accuracy of one depth under the name of all."""
  d, _ = run
  text = _lead(run, _contrast(9, 5, 13, pair=('compound', 'sft', 'deeper', 0)))
  mean = sum(d.accuracy['compound', 'deeper', depth].value for depth in (4, 5)) / 2
  where = 'compositions deeper than any trained on (4 and 5 steps, mean over depths)'
  assert f'answers {100 * mean:.1f} % right on {where}' in text
  assert _lead(run, _contrast(9, 5, 13)) == ''  # of more than two terms


def test_bad_news_is_the_same_sentence(run):
  """Negative results read as soberly as positive ones."""
  d, _ = run
  pair = 'compound', 'sft', 'unseen', 3
  for contrast in (_contrast(5, 1, 9, pair), _contrast(-5, -9, -1, pair)):
    for text in (_lead(run, contrast), lead.counts(dataclasses.replace(d, contrasts=(contrast,)))):
      assert not re.search(r'improv|success|better|great|only|fail|unfortun|significant|!', text)


def test_counts(run):
  """A contrast on the wrong side, or a level, which is always above zero, counted as a finding."""
  d, _ = run

  def counts(*contrasts):
    return lead.counts(dataclasses.replace(d, contrasts=contrasts))

  level = _contrast(30, 25, 35, is_difference=False)
  assert counts(_contrast(5, 1, 9), _contrast(-5, -9, -1), _contrast(2, -1, 5), level) == (
    'Of 3 differences in accuracy, 1 has a 95 % interval above zero, '
    '1 has a 95 % interval below zero, and 1 has a 95 % interval that includes zero.'
  )
  assert counts(level) == counts() == lead.NOTHING
  no_width = counts(_contrast(5, 5 - 1e-15, 5))
  assert 'none has a 95 % interval above zero' in no_width
  assert '1 has an interval without width, from which nothing follows' in no_width
