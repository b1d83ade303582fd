"""The commands as a person types them: one line for a mistake, exit status not 0, nothing
overwritten."""

import subprocess
import sys

import pytest

GOOD = ('--config=configs/quickstart.py', '--workdir={workdir}')


def _run(*args, module='compgen_jax.main'):
  return subprocess.run(
    [sys.executable, '-m', module, *args], capture_output=True, text=True, timeout=120
  )


@pytest.mark.parametrize('args, message', [
    ((), '--config is missing'),
    (GOOD[:1], '--workdir is missing'),
    (('--config=configs/nope.py', GOOD[1]), 'no such file; legal is configs/default.py'),
    ((*GOOD, '--config.modle.d_model=3'), "config.modle.d_model: no such field as 'modle'; legal"),
    ((*GOOD, '--config.model.d_model=wide'), 'config.model.d_model=wide'),
    ((*GOOD, '--config.sft.lr=nan'), 'sft.lr=nan: a finite number is wanted'),
    ((*GOOD, 'config.seed=3'), "stray argument 'config.seed=3'"),
    ((*GOOD, '--wrkdir=3'), 'wrkdir'),
])  # fmt: skip
def test_mistakes_are_one_line(args, message, tmp_path):
  """A traceback, a mistake that is accepted, or a workdir made for a run that can't be."""
  workdir = tmp_path / 'w'
  result = _run(*(arg.format(workdir=workdir) for arg in args))
  assert result.returncode == 2
  assert (
    message in result.stderr
    and result.stderr.startswith('error: ')
    and result.stderr.count('\n') == 1
  )
  assert not workdir.exists()


def test_show_needs_a_finished_stage(tmp_path):
  """A rollout of untrained parameters passed off as a model's."""
  result = _run(
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path}',
    '--arm=sft',
    module='compgen_jax.show',
  )
  assert result.returncode == 2 and 'stage sft (seed 0) has not finished' in result.stderr
