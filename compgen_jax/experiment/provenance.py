"""Where a number comes from: command, commit, and the time that it took."""

import functools
import json
import pathlib
import shlex
import subprocess
import sys

from compgen_jax.experiment import files


def command() -> str:
  """What one would type in the checkout; paths below the working folder relative."""
  here = str(pathlib.Path.cwd()) + '/'
  module = pathlib.Path(sys.argv[0])
  program = (
    f'python -m compgen_jax.{module.stem}' if module.parent.name == 'compgen_jax' else module.name
  )
  return ' '.join([program, *(shlex.quote(arg.replace(here, '')) for arg in sys.argv[1:])])


@functools.cache
def commit() -> str | None:
  """The commit of the code that runs, '+changes' behind it where the work tree differs.

  None outside a checkout. Kept from the first call on, which a run makes when it starts: the work
  tree may go on while it runs.
  """
  folder = pathlib.Path(__file__).parent
  try:
    revision = _git(folder, 'rev-parse', 'HEAD')
    status = _git(folder, 'status', '--porcelain', '--', str(folder.parent))
  except (OSError, subprocess.TimeoutExpired):
    return None
  if revision.returncode != 0:
    return None
  return revision.stdout.strip() + ('+changes' if status.stdout.strip() else '')


def _git(folder: pathlib.Path, *args: str) -> subprocess.CompletedProcess:
  return subprocess.run(['git', *args], cwd=folder, capture_output=True, text=True, timeout=10)


def accumulate_wall_time(folder: pathlib.Path, seconds: float) -> float:
  """Adds this call's seconds to those of earlier calls on the same workdir; returns the sum."""
  path = folder / 'wall_time.json'
  total = seconds + (json.loads(path.read_text()) if path.exists() else 0.0)
  files.write_json(path, total)
  return total
