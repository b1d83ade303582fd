"""The commands as a person types them: one line for a mistake, exit status not 0, nothing
overwritten."""

import re
import subprocess
import sys


def _run(*args, module='compgen_jax.main'):
  return subprocess.run(
    [sys.executable, '-m', module, *args], capture_output=True, text=True, timeout=120
  )


def test_mistakes_are_one_line():
  """A traceback, a mistake that is accepted, or a workdir made for a run that can't be.

  What stands in `badconfig`, each as the command itself meets it.
  """
  result = _run(module='tests.reliability.badconfig')
  assert result.returncode == 0, result.stderr
  assert re.match(r'badconfig: (\d{3}) of \1 malformed', result.stdout)


def test_show_needs_a_finished_stage(tmp_path):
  """A rollout of untrained parameters passed off as a model's."""
  result = _run(
    '--config=configs/quickstart.py',
    f'--workdir={tmp_path}',
    '--arm=sft',
    module='compgen_jax.show',
  )
  assert result.returncode == 2 and 'stage sft (seed 0) has not finished' in result.stderr
