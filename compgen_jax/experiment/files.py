"""The workdir: its lock, its one config, and files that are there whole or not at all."""

import fcntl
import json
import os
import pathlib
from typing import Any

from compgen_jax.config import Config, from_json
from compgen_jax.errors import ConfigError


def write_text(path: pathlib.Path, text: str) -> None:
  """As `write_bytes`, in UTF-8."""
  write_bytes(path, text.encode('utf-8'))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file in one step: a reader or a crash never sees half of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_bytes(content)
  os.replace(temporary, path)


def write_json(path: pathlib.Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def without_nan(row: dict[str, Any]) -> dict[str, Any]:
  """The row with None in place of NaN, which JSON does not have."""
  return {name: None if value != value else value for name, value in row.items()}


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
  write_text(path, ''.join(json.dumps(row, allow_nan=False) + '\n' for row in rows))


def read_jsonl(path: pathlib.Path) -> list[dict]:
  """The rows of a file; [] where there is none. A last line cut short by a crash is left out."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def open_workdir(workdir: str | os.PathLike) -> tuple[pathlib.Path, Any]:
  """Makes or reopens a workdir; returns its path and a lock to keep until the end.

  Raises:
    ConfigError: another process is using it, or it can't be written.
  """
  folder = pathlib.Path(workdir)
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
  return folder, lock


def read_config(workdir: str | os.PathLike) -> Config:
  """The config of a run, from its config.json.

  Raises:
    ConfigError: there is none, or it can't be read.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    held = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, OSError) as e:
    what = 'it has no readable config.json; legal is the folder of a run'
    raise ConfigError(f'workdir={str(workdir)!r}: {what}') from e
  return from_json(held)


def first_difference(a: Any, b: Any, path: str = '') -> tuple[str, Any, Any] | None:
  """`(path, value in a, value in b)` of the first entry in which nested dicts differ, or None."""
  if isinstance(a, dict) and isinstance(b, dict):
    for key in dict.fromkeys([*a, *b]):
      found = first_difference(a.get(key), b.get(key), f'{path}.{key}' if path else key)
      if found:
        return found
    return None
  return None if a == b else (path, a, b)


def stage_folder(workdir: pathlib.Path, stage: str, seed: int) -> pathlib.Path:
  """Where a replicate of a stage is kept."""
  return workdir / 'stages' / stage / f'seed-{seed}'


def read_metrics(workdir: pathlib.Path, stage: str, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
  """The training metrics of a stage: dicts of `step` and, per metric, a list with a value per
  seed."""
  files = [stage_folder(workdir, stage, seed) / 'metrics.jsonl' for seed in seeds]
  by_seed = [{row['step']: row for row in read_jsonl(file)} for file in files]
  merged = []
  for step, first in by_seed[0].items():
    if all(step in rows for rows in by_seed):
      names = [name for name in first if name not in ('step', 'seconds')]
      merged.append({'step': step} | {k: [rows[step][k] for rows in by_seed] for k in names})
  return merged
