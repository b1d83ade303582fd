"""Several processes that are one run: real ones on this machine, with JAX's CPU collectives."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from compgen_jax.experiment import processes
from tests.reliability import trial
from tests.reliability.peers import CONFIG, after, ended, environment, started, trains

JOIN = """
import jax, numpy as np
from compgen_jax.experiment import lifeline, processes, run
processes.join('auto', 60.0, 'the same')
mesh = run.data_mesh(jax.device_count())
share = jax.NamedSharding(mesh, jax.P('data'))
with jax.set_mesh(mesh):
  mine = jax.make_array_from_callback((2,), share, lambda i: np.arange(1.0, 3.0)[i])
  print(float(mine.sum()), processes.whole(mine).tolist(), end=' ')
print(jax.process_count(), lifeline.of_lead(jax.process_index), lifeline.interrupted())
"""


def test_two_processes_join():
  """Processes that are as many runs, see their own devices alone, or learn different things."""
  port = processes.free_port()
  command = [sys.executable, '-c', JOIN]
  ran = [
    subprocess.Popen(
      command, env=os.environ | environment(i, 2, port), stdout=subprocess.PIPE, text=True
    )
    for i in range(2)
  ]
  said = [process.communicate(timeout=300)[0].splitlines()[-1] for process in ran]
  assert said == ['3.0 [1.0, 2.0] 2 0 False'] * 2
  assert [process.returncode for process in ran] == [0, 0]


@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
  """The workdir of a run of one process on two devices."""
  workdir = tmp_path_factory.mktemp('one')
  trial.finish(workdir, config=CONFIG, env={'JAX_NUM_CPU_DEVICES': '2'})
  return workdir


@pytest.mark.slow
def test_two_processes_compute_what_one_does(one_process, tmp_path):
  """A batch, a reward or an evaluation that depends on how many processes there are; files or lines
  of more than one of them."""
  with started(tmp_path / 'w') as ran:
    (status, said), (other_status, other_said) = ended(ran)
  assert (status, other_status) == (0, 0), said + other_said
  assert trial.of_stage(tmp_path / 'w') == trial.of_stage(one_process)
  assert said[-1].startswith('report: ') and other_said == []
  assert trial.leftovers(tmp_path / 'w') == []


@pytest.mark.slow
@pytest.mark.parametrize(
  'config, flags, parts',
  [
    (f'{CONFIG}:rl', (), ('rl/seed-0',)),
    (CONFIG, ('seeds=(0, 1)', 'mesh.replicate=2'), ('sft/seed-0', 'sft/seed-1')),
  ],
  ids=['RL', 'replicates over processes'],
)
def test_two_processes_explore_and_spread_as_one_does(config, flags, parts, tmp_path):
  """Rollouts that a process takes from itself alone, or a replicate that gets another's numbers."""
  trial.finish(tmp_path / 'one', *flags, config=config, env={'JAX_NUM_CPU_DEVICES': '2'})
  with started(tmp_path / 'two', *flags, config=config) as ran:
    statuses = [status for status, _ in ended(ran)]
  assert statuses == [0, 0]
  for part in parts:
    assert trial.of_stage(tmp_path / 'two', part) == trial.of_stage(tmp_path / 'one', part)


@pytest.mark.slow
def test_two_processes_hold_a_model_together(tmp_path):
  """Parameters that a process has only half of, saved or measured as if they were whole; a run that
  two processes can't take over from one, with the state split."""
  split = ('mesh.model=2', 'run.checkpoint_every=6')
  trial.finish(tmp_path / 'one', *split, config=CONFIG, env={'JAX_NUM_CPU_DEVICES': '2'})
  want = trial.of_stage(tmp_path / 'one')
  stage = tmp_path / 'one/stages/sft/seed-0'
  shutil.rmtree(stage / 'checkpoints/12')
  (stage / 'evaluation.json').unlink()
  for workdir in ('one', 'two'):  # from the checkpoint of update 6, and from the start
    with started(tmp_path / workdir, *split) as ran:
      ends = ended(ran)
    assert [status for status, _ in ends] == [0, 0], ends
    assert trial.of_stage(tmp_path / workdir) == want


@pytest.mark.slow
def test_a_signal_to_one_of_them(tmp_path):
  """A run of which one process stops and the other waits for ever, or that loses updates. It goes
  on as one process on as many devices, to the same bits."""
  # Of 12 updates; and the programs of the first save are compiled after the signal.
  patient = 'run.steps_per_call=1', 'run.checkpoint_every_s=1e6', 'run.grace_s=100.0'
  with started(tmp_path / 'w', *patient) as ran:
    trial.until(ran[1], lambda: trains(tmp_path / 'w'))
    ran[1].send_signal(signal.SIGTERM)
    (status, said), (other_status, other_said) = ended(ran, within_s=120.0)
  assert (status, other_status) == (75, 75), said + other_said
  assert 'interrupted by SIGTERM: saved sft at update ' in said[-1] and other_said == []
  for workdir in ('w', 'undisturbed'):
    trial.finish(tmp_path / workdir, *patient, config=CONFIG, env={'JAX_NUM_CPU_DEVICES': '2'})
  got, want = trial.of_stage(tmp_path / 'w'), trial.of_stage(tmp_path / 'undisturbed')
  assert {name: got[name] for name in ('results', 'curve.jsonl', 'metrics', '12')} == {
    name: want[name] for name in ('results', 'curve.jsonl', 'metrics', '12')
  }


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_one_is_killed(victim, tmp_path):
  """Processes that wait for a dead one for ever, end in a core dump, or with pages of text."""
  with started(tmp_path / 'w', *trial.ENDLESS) as ran:
    trial.until(ran[0], lambda: trains(tmp_path / 'w'))
    ran[victim].kill()
    killed = time.monotonic()
    other = 1 - victim
    status, said = ended([ran[other]], within_s=30.0)[0]
  assert time.monotonic() - killed < 15.0
  assert status == 4
  line = f'error: process {victim} of 2 is gone; the same command continues'
  assert said[-1] == line and said.count(line) == 1
  assert all('updates' in text or 'sft ' in text or 'memory' in text for text in said[:-1]), said


@pytest.mark.slow
def test_one_is_stopped(tmp_path):
  """Processes that wait for ever for one that neither works nor ends."""
  assert after(signal.SIGSTOP, 1, tmp_path / 'w', count=2) == []


@pytest.mark.slow
def test_workdirs_that_are_not_one(tmp_path):
  """Two processes on two file systems, of which a restart on the other one starts all over."""
  folders = tmp_path / 'a', tmp_path / 'b'
  for folder in folders:
    folder.mkdir()
  with started(pathlib.Path('w'), folders=folders) as ran:
    (status, said), (other_status, other_said) = ended(ran)
  assert (status, other_status) == (2, 2)
  what = 'processes 1 do not see what process 0 writes there; legal is a folder that all share'
  assert said == [f"error: workdir='w': {what}"] and other_said == []
  assert not list(tmp_path.glob('*/w/config.json'))
