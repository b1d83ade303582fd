"""The commands as a person types them: one line for a mistake, exit status not 0, nothing
overwritten."""

import os
import re
import subprocess
import sys

import pytest

JSON = '--config=results/quickstart/config.json'


def _run(*args, module='compgen_jax.main', **env):
  command = [sys.executable, '-m', module, *args]
  return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | env)


@pytest.mark.slow
def test_mistakes_are_one_line():
  """A traceback, a mistake that is accepted, or a workdir made for a run that can't be.

  What stands in `badconfig`, each as the command itself meets it.
  """
  result = _run(module='tests.reliability.badconfig')
  assert result.returncode == 0, result.stderr
  assert re.match(r'badconfig: (\d{3}) of \1 malformed', result.stdout)


@pytest.mark.parametrize('flag, message', [
    ('--config.sft.lr=nan', 'sft.lr=nan: a fin'), ('--config.sft.rate=1', "field as 'rate'"),
])  # fmt: skip
def test_a_config_json_is_a_config(flag, message, tmp_path):
  """A run's own config.json that can't be run again with a change."""
  result = _run(JSON, f'--workdir={tmp_path / "w"}', flag)
  assert result.returncode == 2 and result.stderr.count('\n') == 1
  assert message in result.stderr and not (tmp_path / 'w').exists()


def test_show_needs_a_finished_stage(tmp_path):
  """A rollout of untrained parameters passed off as a model's."""
  result = _run(
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path}',
    '--arm=sft',
    module='compgen_jax.show',
  )
  assert result.returncode == 2 and 'stage sft (seed 0) has not finished' in result.stderr


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
  """A traceback of jax's for a machine without its GPU."""
  workdir = tmp_path / 'w'
  result = _run('--config=configs/quickstart.py', f'--workdir={workdir}', JAX_PLATFORMS='rocm')
  assert result.returncode == 2 and result.stderr.count('\n') == 1
  assert "error: JAX_PLATFORMS='rocm': jax finds no such device here" in result.stderr
  assert not workdir.exists()
