"""A finished run, run again: it says so, and no file changes.

python -m tests.reliability.rerun [--n 3]
"""

import pathlib

from tests.reliability import trial

SAYS = 'all results were there before: none was written again'


def state(workdir: pathlib.Path) -> dict[str, tuple[int, bytes]]:
  """Every file: when it was last written, in ns, and what it holds."""
  files = [path for path in workdir.rglob('*') if path.is_file()]
  return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def main():
  n, faults = trial.number('rerun', 3, 'repetitions').n, []
  with trial.reference() as (folder, _, _):
    before = state(folder / 'reference')
    for _ in range(n):
      if SAYS not in trial.finish(folder / 'reference'):
        faults.append('it did not say so')
    after = state(folder / 'reference')
    faults += [name for name in before | after if before.get(name) != after.get(name)]
  trial.report('rerun', not faults, f'{n} times, {len(before)} files as they were', faults)


if __name__ == '__main__':
  main()
