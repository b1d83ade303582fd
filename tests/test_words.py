"""Arms and splits in words: what a reader takes them for."""

import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.report import words
from configs import default, quickstart


def _quickstart():
  config = quickstart.get_config()
  config.supports.late = default.support(pool='test', depths=(4,), prefix=2)
  config.supports.held = default.support(pool='test', with_skills=('fold',), depths=(2,))
  config.eval.splits.late, config.eval.splits.held = 'late', 'held'
  config.stages.hot = default.stage('rl', 'compound', 5, ('atoms',))
  config.stages.held = default.stage('rl', 'sft', 5, ('atoms',), anchor=('sft',))
  return from_config_dict(config)


CONFIG = _quickstart()


def test_arms():
  """Two arms that read alike, or data that only differ in what precedes them, listed twice."""
  arms = {name: words.arm(CONFIG, name) for name in CONFIG.stages}
  assert arms == {
    'sft': 'SFT',
    'compound': 'RL on compounds',
    'atomic': 'RL on atoms (atomic)',
    'sft_continued': 'continued SFT',
    'hot': 'RL on atoms (hot)',
    'held': 'RL on atoms, anchored in SFT',
  }
  assert list(arms) == [
    'sft',
    'compound',
    'atomic',
    'sft_continued',
    'hot',
    'held',
  ]  # as in the config
  assert words.history(CONFIG, 'hot') == 'SFT, then RL on compounds, then RL on atoms (hot)'


def test_splits():
  """A split under the name of another: the report says of each what training had of it."""
  assert {name: words.split(CONFIG, name) for name in CONFIG.eval.splits} == {
    'atoms': 'single steps',
    'seen': 'compositions trained on, with new inputs',
    'unseen': 'compositions never trained on',
    'deeper': 'compositions deeper than any trained on',
    'late': 'compositions deeper than any trained on, behind given dry steps',
    'held': 'compositions never trained on that use one of fold',
  }


@pytest.mark.parametrize('depths, text', [
  ((1,), '1 step'), ((3,), '3 steps'), ((3, 2), '2 and 3 steps'), ((4, 5, 6), '4 to 6 steps'),
  ((2, 4, 5), '2, 4 and 5 steps'),
])  # fmt: skip
def test_steps(depths, text):
  """Depths that are left out of a range."""
  assert words.steps(depths) == text
