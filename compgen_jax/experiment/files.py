"""Files that are there whole or not at all.

What is read again to go on with a run is sealed: it carries a checksum, so that a damaged file, or
line of a file, is noticed.
"""

import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import zlib
from typing import Any

from compgen_jax.errors import DamageError, StorageError
from compgen_jax.experiment import lifeline
from compgen_jax.experiment.progress import say


def write_text(path: pathlib.Path, text: str) -> None:
  """As `write_bytes`, in UTF-8."""
  write_bytes(path, text.encode('utf-8'))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file in one step: a reader, a crash or a power cut never sees half of it.

  (Of several processes that are one run, process 0 does.)

  Raises:
    StorageError: it can't be written; what was there before stays.
  """
  if not lifeline.is_lead():
    return
  temporary = path.with_name(path.name + '.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())  # else the name may reach the disk before the content
    os.replace(temporary, path)
    _sync_folder(path.parent)
  except OSError as e:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise StorageError(f'{path} could not be written ({e.strerror}); what it held stays') from e


def put_on_disk(folder: pathlib.Path) -> None:
  """What others have written into a folder: contents, then names, its own too.

  Raises:
    OSError: the disk is full or fails.
  """
  for path in folder.rglob('*'):
    if path.is_file():
      with open(path, 'rb') as file:
        os.fsync(file.fileno())
  for path in (*(p for p in folder.rglob('*') if p.is_dir()), folder, folder.parent):
    _sync_folder(path)


def _sync_folder(folder: pathlib.Path) -> None:
  """Puts the names in a folder on disk, where the file system can do so."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):
      os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_json(path: pathlib.Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def without_nan(row: dict[str, Any]) -> dict[str, Any]:
  """The row with None in place of NaN, which JSON does not have."""
  return {name: None if value != value else value for name, value in row.items()}


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
  write_text(path, ''.join(json.dumps(row, allow_nan=False) + '\n' for row in rows))


def read_json(path: pathlib.Path) -> Any:
  """What a file holds; None where it is not there or holds something else than JSON."""
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError, RecursionError):
    return None


def read_jsonl(path: pathlib.Path) -> list[dict]:
  """The rows of a file; [] where there is none. A line that is no row is left out, with a
  warning."""
  return _rows(path, _row)


# Sealed files -------------------------------------------------------------------------------------


def checksum(value: Any) -> str:
  """SHA-256 of plain data (nested dicts, lists and scalars), whatever the order of keys."""
  text = json.dumps(value, sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: pathlib.Path, value: dict) -> None:
  """As `write_json`, with an entry `checksum` of all others."""
  write_json(path, value | {'checksum': checksum(value)})


def read_sealed(path: pathlib.Path) -> dict | None:
  """What `write_sealed` wrote; None where there is no file.

  Raises:
    DamageError: the file holds something else.
  """
  if not path.exists():
    return None
  try:
    raw = path.read_bytes()
    held = json.loads(raw)
    wanted = held.pop('checksum')
    is_sound = checksum(held) == wanted
  except OSError as e:
    raise DamageError(f'{path}: it can not be read ({e.strerror})') from e
  # Not JSON, or JSON of another kind; a RecursionError where brackets are nested without end.
  except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as e:
    what = 'it is not what was written there' if raw else 'it is empty'
    raise DamageError(f'{path}: {what}') from e
  if not is_sound:
    raise DamageError(f'{path}: its checksum does not match what it holds')
  return held


def write_sealed_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
  """As `write_jsonl`, each line with an entry `crc`, the CRC-32 of the line without it."""
  write_text(path, _sealed(rows))


def append_sealed_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
  """Adds rows to such a file. A crash may leave half of the last one, which reads as damaged."""
  if lifeline.is_lead():
    with open(path, 'a', encoding='utf-8') as file:
      file.write(_sealed(rows))


def _sealed(rows: list[dict]) -> str:
  lines = [json.dumps(row, allow_nan=False) for row in rows]
  return ''.join(f'{line[:-1]}, "crc": {zlib.crc32(line.encode())}}}\n' for line in lines)


def read_sealed_jsonl(path: pathlib.Path) -> list[dict]:
  """The rows that `write_sealed_jsonl` wrote; [] where there is no file. A damaged line is left
  out, with a warning."""
  return _rows(path, _sealed_row)


def _row(line: bytes) -> dict | None:
  """The row that a line holds; None where it holds none."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  return row if isinstance(row, dict) else None


def _sealed_row(line: bytes) -> dict | None:
  row = _row(line)
  if row is None:
    return None
  wanted = row.pop('crc', None)
  return row if zlib.crc32(json.dumps(row).encode()) == wanted else None


def _rows(path: pathlib.Path, read: Any) -> list[dict]:
  if not path.exists():
    return []
  content = path.read_bytes()
  if path.suffix == '.gz':
    try:
      content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as e:
      raise DamageError(f'{path}: it is no whole gzip file ({e})') from e
  rows = [read(line) for line in content.splitlines()]
  n_bad = rows.count(None)
  if n_bad:
    say(f'warning: {path}: {n_bad} of {len(rows)} lines are damaged and left out')
  return [row for row in rows if row is not None]


def first_difference(a: Any, b: Any, path: str = '') -> tuple[str, Any, Any] | None:
  """`(path, value in a, value in b)` of the first entry in which nested dicts differ, or None."""
  if isinstance(a, dict) and isinstance(b, dict):
    for key in dict.fromkeys([*a, *b]):
      found = first_difference(a.get(key), b.get(key), f'{path}.{key}' if path else key)
      if found:
        return found
    return None
  return None if a == b else (path, a, b)
