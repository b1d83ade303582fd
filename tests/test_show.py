"""Problems and traces as a person reads them."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.errors import CheckpointError
from compgen_jax.experiment import shown
from compgen_jax.experiment.shown import Asked
from configs import default
from tests.experiments import tiny

pytestmark = pytest.mark.slow

PROBLEM = 'bca dd: earlier reverse, merge successor'
TITLES = [
  'atoms, depth 1', 'seen, depth 1', 'seen, depth 2', 'unseen, depth 2', 'deeper, depth 3',
]  # fmt: skip


def _text(config=None, workdir=None, **asked):
  return '\n'.join(shown.show(config, workdir, Asked(**asked)))


def _titles(text):
  return [line[4:] for line in text.splitlines() if line.startswith('---')]


def test_problems_of_every_split():
  """A split or depth left out, or fewer problems than asked for."""
  text = _text(from_config_dict(tiny()), n=2)
  assert _titles(text) == TITLES
  assert sum(line.startswith('solve ') for line in text.splitlines()) == 2 * len(TITLES)
  two = _titles(_text(from_config_dict(tiny()), depth=2))
  assert two == [title for title in TITLES if title.endswith('depth 2')]


def test_splits_with_a_prefix():
  """One split that can't be shown and hides all others, or is shown without its dry steps."""
  config = tiny()
  config.supports.late = default.support(pool='test', depths=(2,), prefix=1)
  config.eval.splits.late = 'late'
  config = from_config_dict(config)
  skipped = 'late, depth 2 is not shown: its problems begin with dry steps'
  assert sorted(_titles(_text(config, n=1))) == sorted([*TITLES, skipped])
  with pytest.raises(ConfigError, match="support='late': its problems begin with dry steps"):
    _text(config, split='late')


def test_a_model_beside_the_golden_traces(sft_run):
  """Golden traces passed off as the model's, a split that was not asked for, or another seed's
  problems and model."""
  text = _text(workdir=sft_run, arm='sft', split='unseen', n=2)
  assert _titles(text) == ['unseen, depth 2']
  assert sum(line.startswith('solve ') for line in text.splitlines()) == 2
  assert sum(line.startswith('    answer ') for line in text.splitlines()) == 2
  assert text.count('<-- first wrong step') == 2  # after 12 updates nothing is right yet
  assert text.count('first wrong step: 1 of 2 (structure)') == 2
  assert _text(workdir=sft_run, arm='sft', split='unseen', n=2, seed=3) == text
  assert _text(workdir=sft_run, arm='sft', split='unseen', n=2, seed=5) != text


def test_samples_with_rewards(finished):
  """Greedy traces in place of samples, the prompt once a sample, or a sample without its reward."""
  workdir, _ = finished
  text = _text(workdir=workdir, arm='rl', split='unseen', n=1, samples=4)
  assert sum(line.startswith('solve ') for line in text.splitlines()) == 1
  verdicts = [line for line in text.splitlines() if line.startswith('    answer ')]
  assert len(verdicts) == 4 and all(line.endswith('; reward 0') for line in verdicts)
  traces = text.split('    answer ')
  assert len({trace.splitlines()[1] for trace in traces[:-1]}) > 1
  assert 'reward' not in _text(workdir=workdir, arm='sft', split='unseen', n=1)


def test_only_what_became_of_problems(finished, monkeypatch):
  """Problems that are right among those that are wrong, or the arm's fate against another parent.

  (Answers are made up: problem i of the parent is right where i is even, of the arm where i // 2
  is.)
  """
  workdir, _ = finished
  asked_of = []

  def attempt(model, drawn):
    asked_of.append(model.stage)
    div = 1 if model.stage == 'sft' else 2
    return [SimpleNamespace(answer=i // div % 2 == 0) for i in range(len(drawn))]

  monkeypatch.setattr(shown.Trained, 'attempt', attempt)
  monkeypatch.setattr(shown, '_written', lambda model, problem, asked: problem.id)
  found = {}
  for only in shown.FATES:
    lines = _text(workdir=workdir, arm='rl', split='unseen', n=300, only=only).splitlines()
    found[only] = [int(line.split('-')[1]) % 4 for line in lines[1:]]
    assert lines[0] == f'--- unseen, depth 2: {len(lines) - 1} of 256 are {only}'
  want = {'wrong': {2, 3}, 'right': {0, 1}, 'fixed': {1}, 'broken': {2}}
  assert {only: set(numbers) for only, numbers in found.items()} == want
  assert asked_of == ['rl', 'rl', 'rl', 'sft', 'rl', 'sft']


def test_a_stage_that_has_not_finished(finished, tmp_path):
  """Half a stage passed off as a whole one, or that can't be looked at."""
  workdir, _ = finished
  shutil.copytree(workdir, tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w/stages/sft/seed-0/checkpoints/12')
  text = _text(workdir=tmp_path / 'w', arm='sft', split='unseen', n=1)
  assert text.startswith('--- sft has not finished: its newest checkpoint, update 10 of 12\n')
  shutil.rmtree(tmp_path / 'w/stages/sft')
  with pytest.raises(CheckpointError, match='has not finished'):
    _text(workdir=tmp_path / 'w', arm='sft')


def test_a_problem_given_by_hand(sft_run):
  """Another problem than the one given, or the golden trace where the model's was asked for."""
  golden = _text(from_config_dict(tiny()), problem=PROBLEM)
  assert golden.splitlines() == [
    'solve A bca B dd C earlier reverse D merge successor =',
    '    C earlier reverse bca C acb',
    '    D merge successor acbdd D bdcee',
    '    = bdcee end',
  ]
  assert _text(workdir=sft_run, problem=PROBLEM) == golden
  written = _text(workdir=sft_run, arm='sft', samples=2, problem=PROBLEM)
  assert written.count('    answer ') == 2 and written.startswith(golden.splitlines()[0])


@pytest.mark.parametrize('asked, message', [
  (dict(split='nope'), "split='nope': legal is atoms | seen | unseen | deeper"),
  (dict(arm='nope'), "arm='nope': legal is"),
  (dict(arm='sft'), '--arm needs the --workdir of a run'),
  (dict(problem='bca dd: earlier nope'), "skill 'nope': legal is"),
  (dict(depth=7), 'depth=7: legal is 1 | 2 | 3'),
  (dict(seed=7), 'seed=7: legal is 0'),
  (dict(only='wrong'), '--only needs an --arm'),
  (dict(samples=2), '--samples needs an --arm'),
  (dict(only='lost', arm='rl', workdir='w'), "only='lost': legal is wrong | right |"),
  (dict(only='fixed', arm='sft', workdir='w'), "only='fixed': arm sft starts from no stage"),
])  # fmt: skip
def test_mistakes_are_one_line(asked, message):
  """A traceback, or a mistake that is accepted."""
  with pytest.raises(ConfigError) as error:
    _text(from_config_dict(tiny()), **asked)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_reader_that_stops_early(sft_run):
  """`show | head -1` that ends in a traceback."""
  command = f'{sys.executable} -m compgen_jax.show --workdir={sft_run} --n=200 | head -1'
  result = subprocess.run(['bash', '-o', 'pipefail', '-c', command], capture_output=True, text=True)
  assert result.stdout == '--- atoms, depth 1\n'
  assert (result.returncode, result.stderr) == (0, '')
