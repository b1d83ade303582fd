"""Problems and traces as a person reads them."""

import subprocess
import sys

import pytest

from compgen_jax import show
from compgen_jax.config import ConfigError, from_config_dict
from configs import default
from tests.experiments import tiny

PROBLEM = 'bca dd: earlier reverse, merge successor'
TITLES = [
  'atoms, depth 1', 'seen, depth 1', 'seen, depth 2', 'unseen, depth 2', 'deeper, depth 3',
]  # fmt: skip


def test_problems_of_every_split():
  """A split or depth left out, or fewer problems than asked for."""
  lines = show.show(from_config_dict(tiny()), n=2).splitlines()
  assert [line[4:] for line in lines if line.startswith('---')] == TITLES
  assert sum(line.startswith('solve ') for line in lines) == 2 * len(TITLES)


def test_splits_with_a_prefix():
  """One split that can't be shown and hides all others, or is shown without its dry steps."""
  config = tiny()
  config.supports.late = default.support(pool='test', depths=(2,), prefix=1)
  config.eval.splits.late = 'late'
  config = from_config_dict(config)
  lines = [line[4:] for line in show.show(config, n=1).splitlines() if line.startswith('---')]
  skipped = 'late is not shown: its problems begin with dry steps'
  assert sorted(lines) == sorted([*TITLES, skipped])
  with pytest.raises(ConfigError, match="support='late': its problems begin with dry steps"):
    show.show(config, split='late')


def test_a_model_beside_the_golden_traces(sft_run):
  """Golden traces passed off as the model's, or a split that was not asked for."""
  text = show.show(None, sft_run, arm='sft', split='unseen', n=2)
  lines = text.splitlines()
  assert [line for line in lines if line.startswith('---')] == ['--- unseen, depth 2']
  assert sum(line.startswith('solve ') for line in lines) == 2
  assert sum(line.startswith('    answer ') for line in lines) == 2
  assert text.count('<-- first wrong step') == 2  # after 12 updates nothing is right yet


def test_a_problem_given_by_hand(sft_run):
  """Another problem than the one given, or the golden trace where the model's was asked for."""
  golden = show.show(from_config_dict(tiny()), problem=PROBLEM)
  assert golden.splitlines() == [
    'solve A bca B dd C earlier reverse D merge successor =',
    '    C earlier reverse bca C acb',
    '    D merge successor acbdd D bdcee',
    '    = bdcee end',
  ]
  assert show.show(None, sft_run, problem=PROBLEM) == golden
  written = show.show(None, sft_run, arm='sft', n=2, temperature=1.0, problem=PROBLEM)
  assert written.count('    answer ') == 2 and written.startswith(golden.splitlines()[0])


@pytest.mark.parametrize('asked, message', [
  (dict(split='nope'), "split='nope': legal is atoms | deeper | seen | unseen"),
  (dict(arm='nope'), "arm='nope': legal is"),
  (dict(arm='sft'), '--arm needs the --workdir of a run'),
  (dict(problem='bca dd: earlier nope'), "skill 'nope': legal is"),
])  # fmt: skip
def test_mistakes_are_one_line(asked, message):
  """A traceback, or a mistake that is accepted."""
  with pytest.raises(ConfigError) as error:
    show.show(from_config_dict(tiny()), **asked)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_reader_that_stops_early(sft_run):
  """`show | head -1` that ends in a traceback."""
  command = f'{sys.executable} -m compgen_jax.show --workdir={sft_run} --n=200 | head -1'
  result = subprocess.run(['bash', '-o', 'pipefail', '-c', command], capture_output=True, text=True)
  assert result.stdout == '--- atoms, depth 1\n'
  assert (result.returncode, result.stderr) == (0, '')
