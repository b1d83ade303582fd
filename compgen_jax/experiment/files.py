"""The workdir: its lock, its one config, and files that are there whole or not at all."""

import fcntl
import json
import os
import pathlib
from typing import Any

from compgen_jax.config import Config, ConfigError, to_dict


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


def open_workdir(workdir: str | os.PathLike, config: Config) -> tuple[pathlib.Path, Any]:
  """Makes or reopens a workdir for this config; returns its path and a lock to keep until the end.

  Raises:
    ConfigError: it holds another config, another process is using it, or it can't be written.
  """
  folder = pathlib.Path(workdir)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / '.lock', 'a')
  except OSError as e:
    raise ConfigError(
      f'workdir={str(workdir)!r}: a folder that can be written is wanted ({e.strerror})'
    ) from e
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as e:
    raise ConfigError(f'workdir={str(workdir)!r}: another process is using it') from e
  if not (folder / 'config.json').exists():
    write_json(folder / 'config.json', to_dict(config))
  require_config(folder, config)
  return folder, lock


def require_config(folder: pathlib.Path, config: Config, may_differ: tuple[str, ...] = ()) -> None:
  """Raises ConfigError unless the workdir's config is this one, up to the sections that may differ."""
  try:
    held = json.loads((folder / 'config.json').read_text())
  except (json.JSONDecodeError, OSError) as e:
    raise ConfigError(
      f'workdir={str(folder)!r}: its config.json is not readable; legal is another folder'
    ) from e
  wanted = json.loads(json.dumps(to_dict(config)))
  for section in may_differ:
    held.pop(section, None), wanted.pop(section, None)
  difference = _first_difference(held, wanted)
  if difference:
    path, there, here = difference
    raise ConfigError(
      f'workdir={str(folder)!r}: it holds another config ({path}={there!r} there, {here!r} here); legal is another folder'
    )


def _first_difference(a: Any, b: Any, path: str = '') -> tuple[str, Any, Any] | None:
  if isinstance(a, dict) and isinstance(b, dict):
    for key in dict.fromkeys([*a, *b]):
      found = _first_difference(a.get(key), b.get(key), f'{path}.{key}' if path else key)
      if found:
        return found
    return None
  return None if a == b else (path, a, b)
