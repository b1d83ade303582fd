"""Short versions of the commands in tests/reliability."""

import signal
import time
from unittest import mock

import pytest

import compgen_jax
from compgen_jax.errors import Interrupted
from compgen_jax.experiment import interruption
from tests.experiments import tiny
from tests.reliability import logprob, nan, rerun, soak, trial

pytestmark = pytest.mark.slow
QUICK = 'tests/reliability/quick.py'


def _run_until(dispatch: int, workdir) -> str:
  """A run that gets SIGTERM in one of its dispatches; returns what it says."""
  unsaved, seen = interruption.unsaved, []

  def watched(grace_s):
    unsaved(grace_s)
    seen.append(grace_s)
    if len(seen) == dispatch:
      interruption._Shared.asked = 'SIGTERM'

  with (
    mock.patch.object(interruption, 'unsaved', watched),
    mock.patch.object(interruption._Shared, 'asked', None),
    pytest.raises(Interrupted) as e,
  ):
    compgen_jax.run(tiny(), workdir)
  return str(e.value)


def test_interrupted_anywhere_it_ends_with_the_same_bits(finished, tmp_path):
  """Updates that are lost, trained twice, or in no row of metrics; a curve without a point."""
  said = [_run_until(dispatch, tmp_path / 'w') for dispatch in (1, 4, 10)]
  assert said[0] == (
    'interrupted by SIGTERM: saved sft at update 1 of 12; the same command continues there'
  )
  assert len(set(said)) == 3 and not any('\n' in line for line in said)
  workdir, rows = finished
  assert compgen_jax.run(tiny(), tmp_path / 'w') == rows
  assert trial.difference(trial.outcome(tmp_path / 'w'), trial.outcome(workdir)) == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts(number, tmp_path):
  """A traceback, another status, or a wait for imports (first case) and compilers (second)."""
  process = trial.start(tmp_path, config=QUICK)
  trial.until(process, lambda: trial.watches(process))
  if number == signal.SIGTERM:
    trial.until(process, (tmp_path / 'stages/sft/seed-0/origin.json').exists)
  process.send_signal(number)
  sent = time.monotonic()
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 75 and time.monotonic() - sent < 10
  name = signal.Signals(number).name
  said = f'interrupted by {name}: nothing was unsaved; the same command continues'
  assert stderr.splitlines()[-1] == said
  assert trial.unexpected(stderr) == [said]


def test_a_killed_run_ends_with_the_same_bits(finished, tmp_path):
  """Half a file that a crash leaves, and a lock that outlives its process."""
  workdir, rows = finished
  process = trial.start(tmp_path / 'w', config=QUICK)
  checkpoints = tmp_path / 'w/stages/sft/seed-0/checkpoints'
  trial.until(process, lambda: bool(list(checkpoints.glob('*'))))  # it may be within its first save
  process.kill()
  process.communicate()
  assert compgen_jax.run(tiny(), tmp_path / 'w') == rows
  assert trial.difference(trial.outcome(tmp_path / 'w'), trial.outcome(workdir)) == []
  assert trial.leftovers(tmp_path / 'w') == []


def test_not_a_number():
  """NaN that reaches parameters or moments, from any place."""
  assert nan.faults('rl') == (15, [])


def test_rerun(finished, capsys):
  """A rerun that writes a file, or says nothing."""
  workdir, rows = finished
  before = rerun.state(workdir)
  assert compgen_jax.run(tiny(), workdir) == rows
  assert rerun.SAYS in capsys.readouterr().err
  assert rerun.state(workdir) == before and len(before) > 30


def test_logprob(tmp_path):
  """A sampler and a learner that disagree about a token."""
  assert 0 < logprob.largest(tmp_path, 6) < logprob.BOUND


def test_soak(tmp_path):
  """Memory, programs or open files that grow with updates, and a log with gaps."""
  assert soak.soaked(400, tmp_path, row=20).faults(400, row=20) == []
