"""The workdir: its lock, its one config, and where in it things are."""

import contextlib
import fcntl
import json
import os
import pathlib
import time
from typing import Any

from compgen_jax.config import Config, from_json
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import files, lifeline

SHARED_S = 10.0  # that a file needs at most to be seen by all processes of a run


def require_workdir(workdir: str | os.PathLike) -> None:
  """Raises ConfigError where a workdir can't be made, or can't be written; makes nothing."""
  folder = pathlib.Path(workdir)
  try:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    cause = '' if os.access(existing, os.W_OK) else f'{existing} is not writable'
    cause = cause if existing.is_dir() else f'{existing} is a file'
  except (OSError, ValueError) as e:  # too long a name, a character that no name has
    cause = str(getattr(e, 'strerror', None) or e)
  if cause:
    what = f'a folder that can be written is wanted ({cause})'
    raise ConfigError(f'workdir={str(workdir)!r:.300}: {what}')


def open_workdir(workdir: str | os.PathLike) -> tuple[pathlib.Path, Any]:
  """Makes or reopens a workdir; returns its path and a lock to keep until the end.

  Raises:
    ConfigError: another run is using it, it can't be written, or not all processes of the run see
      it.
  """
  folder = pathlib.Path(workdir)
  lock = _locked(folder, workdir) if lifeline.is_lead() else contextlib.nullcontext()
  if lifeline.current():
    _require_shared(folder, lock)
  return folder, lock


def _require_shared(folder: pathlib.Path, lock: Any) -> None:
  """Raises ConfigError where a process does not find what process 0 writes into the workdir."""
  token = lifeline.of_lead(lambda: os.urandom(8).hex())
  if lifeline.is_lead():
    lock.truncate(0)
    lock.write(token)
    lock.flush()
    os.fsync(lock.fileno())
  lifeline.meet()
  until = time.monotonic() + SHARED_S
  while not (seen := _holds(folder / '.lock', token)) and time.monotonic() < until:
    time.sleep(0.1)
  blind = [str(i) for i, sees in enumerate(lifeline.current().all_of(seen)) if not sees]
  if blind:
    what = f'processes {", ".join(blind)} do not see what process 0 writes there'
    raise ConfigError(f'workdir={str(folder)!r}: {what}; legal is a folder that all share')


def _holds(path: pathlib.Path, text: str) -> bool:
  try:
    return path.read_text() == text
  except OSError:
    return False


def _locked(folder: pathlib.Path, workdir: Any) -> Any:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / '.lock', 'a')
  except OSError as e:
    what = f'a folder that can be written is wanted ({e.strerror})'
    raise ConfigError(f'workdir={str(workdir)!r}: {what}') from e
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as e:
    raise ConfigError(f'workdir={str(workdir)!r}: another process is using it') from e
  return lock


def read_config(workdir: str | os.PathLike) -> Config:
  """The config of a run, from its config.json.

  Raises:
    ConfigError: there is none, or it can't be read.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    held = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, OSError, RecursionError) as e:
    what = 'it has no readable config.json; legal is the folder of a run'
    raise ConfigError(f'workdir={str(workdir)!r}: {what}') from e
  return from_json(held)


def stage_folder(workdir: pathlib.Path, stage: str, seed: int) -> pathlib.Path:
  """Where a replicate of a stage is kept."""
  return workdir / 'stages' / stage / f'seed-{seed}'


def read_metrics(workdir: pathlib.Path, stage: str, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
  """The training metrics of a stage: dicts of `step` and, per metric that every seed has there, a
  list with a value per seed."""
  paths = [stage_folder(workdir, stage, seed) / 'metrics.jsonl' for seed in seeds]
  by_seed = [{row['step']: row for row in files.read_sealed_jsonl(path)} for path in paths]
  merged = []
  for step, first in by_seed[0].items():
    if all(step in rows for rows in by_seed):
      names = [name for name in first if name not in ('step', 'seconds')]
      names = [name for name in names if all(name in rows[step] for rows in by_seed)]
      merged.append({'step': step} | {k: [rows[step][k] for rows in by_seed] for k in names})
  return merged


def results_in(folder: pathlib.Path) -> pathlib.Path:
  """Where the rows of a workdir are: results.jsonl, or where it was packed, results.jsonl.gz."""
  plain, packed = folder / 'results.jsonl', folder / 'results.jsonl.gz'
  return packed if packed.is_file() and not plain.is_file() else plain
