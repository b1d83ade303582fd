"""A disk that fills up: the step that failed is named in one line, what was saved stays, and with
space the same command goes on to the same bits.

python -m tests.reliability.diskfull [--n 5]

The disk is a small tmpfs, which takes root to mount.
"""

import pathlib
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.reliability import trial

FLAGS = ('run.checkpoint_every=50',)
DISK_MB = 64


@contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file system of DISK_MB."""
  folder.mkdir()
  subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={DISK_MB}m', 'tmpfs', folder], check=True)
  try:
    yield folder
  finally:
    subprocess.run(['umount', folder], check=True)


def filled_up(disk: pathlib.Path, free_kb: int) -> pathlib.Path:
  """A file that leaves that much space."""
  ballast = disk / 'ballast'
  ballast.write_bytes(b'\0' * (DISK_MB * 1024 - free_kb) * 1024)
  return ballast


def tried(n: int, seed: int = 0) -> tuple[int, list[str], list[str]]:
  """`(runs as promised, faults, what was said)` of n runs on a disk with ever other space."""
  draw, good, faults, said = random.Random(seed), 0, [], []
  with trial.reference(*FLAGS) as (folder, want, _):
    files = (folder / 'reference').rglob('*')
    needed_kb = sum(path.stat().st_size for path in files if path.is_file()) // 1024
    for i in range(n):
      with small_disk(folder / f'disk{i}') as disk:
        ballast = filled_up(disk, draw.randint(16, max(17, needed_kb // 2)))
        process = trial.start(disk / 'w', *FLAGS)
        _, stderr = process.communicate(timeout=600)
        errors = [line for line in stderr.splitlines() if line.startswith('error: ')]
        found, others = [], trial.unexpected(stderr)
        if process.returncode != 2 or len(errors) != 1 or 'could not be written' not in errors[0]:
          found.append(f'status {process.returncode}, {errors}')
        if others:
          found.append(f'{len(others)} more lines: {others[:3]}')
        said += errors[:1]
        ballast.unlink()
        trial.finish(disk / 'w', *FLAGS)
        found += trial.difference(trial.outcome(disk / 'w'), want)
        found += [f'left over: {path}' for path in trial.leftovers(disk / 'w')]
      good += not found
      faults += [f'disk {i}: {fault}' for fault in found]
  return good, faults, said


def main():
  n = trial.number('diskfull', 5, 'disks').n
  good, faults, said = tried(n)
  figures = f'{good} of {n} disks: one line, then the same bits; e.g. {said[:1]}'
  trial.report('diskfull', good == n, figures, faults)


if __name__ == '__main__':
  main()
