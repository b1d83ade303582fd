"""Seconds from the start of a run's process to its first finished SFT update.

The run is the command that a user types, in a process of its own, with a compile cache that is
empty or that the same command has filled. It is ended after its first update.
"""

import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from typing import Any

from compgen_jax.errors import UserError
from compgen_jax.experiment import workdirs

_LOOK_EVERY_S = 0.01


def measure(command: list[str], stage: str, seed: int, repeats: int) -> dict[str, Any]:
  """Median seconds with an empty and with a filled compile cache, and those of every repetition.

  Args:
    command: a run that writes the stage's metrics after its first update; `--workdir` is added.
    stage: the stage of SFT, the first that runs.
    seed: the seed that trains first.
    repeats: repetitions; each begins with an empty cache.

  Raises:
    UserError: the run ended before its first update.
  """
  cold, filled = [], []
  for _ in range(repeats):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      for seconds, run in ((cold, 'cold'), (filled, 'filled')):
        workdir = folder / run
        metrics = workdirs.stage_folder(workdir, stage, seed) / 'metrics.jsonl'
        seconds.append(
          _until_written(metrics, [*command, f'--workdir={workdir}'], folder / 'cache')
        )
  return dict(
    stage=stage,
    cold_s=statistics.median(cold),
    filled_s=statistics.median(filled),
    cold_each_s=cold,
    filled_each_s=filled,
  )


def _until_written(path: pathlib.Path, command: list[str], cache: pathlib.Path) -> float:
  """Seconds from the start of `command` until it has written a file; the command is then ended."""
  env = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
  with tempfile.TemporaryFile() as log:
    started = time.time()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)
    try:
      while not path.exists():
        if process.poll() is not None and not path.exists():
          log.seek(0)
          said = log.read().decode(errors='replace').strip().splitlines()
          why = said[-1] if said else f'exit status {process.returncode}'
          raise UserError(f'first_update: the run ended before its first update: {why}')
        time.sleep(_LOOK_EVERY_S)
      return path.stat().st_mtime - started
    finally:
      process.terminate()
      process.wait()
