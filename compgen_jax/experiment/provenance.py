"""Where a number comes from: command, commit, and the time that it took."""

import functools
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any

from compgen_jax.config import Config
from compgen_jax.errors import DamageError
from compgen_jax.experiment import files
from compgen_jax.experiment.progress import say


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


def foreign_parents(config: Config) -> dict[str, dict[str, Any]]:
  """Stage -> where the parameters come from that it takes from another run.

  `workdir`, `stage`; `commit` and `command` of that run, None where it does not say them (yet).
  """
  found = {}
  for name, stage in config.stages.items():
    if stage.foreign_parent:
      workdir, parent = stage.foreign_parent
      held = files.read_json(pathlib.Path(workdir) / 'summary.json')
      held = held if isinstance(held, dict) else {}
      where = {'workdir': workdir, 'stage': parent}
      found[name] = where | {field: held.get(field) for field in ('commit', 'command')}
  return found


def _git(folder: pathlib.Path, *args: str) -> subprocess.CompletedProcess:
  return subprocess.run(['git', *args], cwd=folder, capture_output=True, text=True, timeout=10)


def wall_time(folder: pathlib.Path) -> float | None:
  """Seconds of all calls on a workdir up to now; None where they are not known."""
  try:
    held = files.read_sealed(folder / 'wall_time.json')
  except DamageError:
    return None
  return held['seconds'] if held else None


class _Clock:
  """`since`: up to when the time of the run at work in `folder` is counted (monotonic)."""

  folder: pathlib.Path | None = None
  since = 0.0


def start_clock(folder: pathlib.Path, started: float) -> None:
  """From now on `count_wall_time` counts for this workdir; `started` is of `time.monotonic`."""
  _Clock.folder, _Clock.since = folder, started


def count_wall_time() -> float:
  """Adds the seconds since it was last called to the workdir's; returns the sum.

  Called at every save, so that a run that is ended or killed has its time counted up to there.
  Where no clock was started (a stage by itself), nothing is counted.
  """
  if _Clock.folder is None:
    return 0.0
  now = time.monotonic()
  seconds, _Clock.since = now - _Clock.since, now
  return accumulate_wall_time(_Clock.folder, seconds)


def accumulate_wall_time(folder: pathlib.Path, seconds: float) -> float:
  """Adds this call's seconds to those of earlier calls on the same workdir; returns the sum.

  Where those are lost to damage, it says so and counts this call alone.
  """
  path = folder / 'wall_time.json'
  try:
    earlier = files.read_sealed(path) or {}
  except DamageError as e:
    say(f'warning: {e}; the time of earlier calls is lost')
    earlier = {}
  total = seconds + earlier.get('seconds', 0.0)
  files.write_sealed(path, {'seconds': total})
  return total
