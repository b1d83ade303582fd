"""Several runs in one workdir: one works, the others are refused in one line; a lock outlives no
process.

python -m tests.reliability.twowriters [--n 5]
"""

import pathlib
import time

from tests.reliability import trial

RUNS = 4


def raced(workdir: pathlib.Path) -> list[tuple[int, str]]:
  """`(exit status, stderr)` of runs started at the same time."""
  processes = [trial.start(workdir) for _ in range(RUNS)]
  found = [(process.communicate(timeout=600)[1], process) for process in processes]
  return [(process.returncode, stderr) for stderr, process in found]


def faults_of(ends: list[tuple[int, str]]) -> list[str]:
  """What is wrong with how they ended."""
  found = []
  if sorted(status for status, _ in ends) != [0] + [2] * (RUNS - 1):
    found.append(f'statuses {[status for status, _ in ends]}')
  for status, stderr in ends:
    if status and (stderr.count('\n') != 1 or 'another process is using it' not in stderr):
      found.append(f'refused with {stderr[-300:]!r}')
  return found


def tried(n: int) -> tuple[int, list[str]]:
  """`(races with one winner and its bits, faults)`; after each a run is killed with its lock."""
  good, faults = 0, []
  with trial.reference() as (folder, want, seconds):
    for i in range(n):
      workdir = folder / str(i)
      process = trial.start(workdir)
      trial.until(process, (workdir / '.lock').exists)
      time.sleep(0.05 * seconds)
      process.kill()
      process.communicate()
      found = faults_of(raced(workdir))
      found += trial.difference(trial.outcome(workdir), want)
      good += not found
      faults += [f'race {i}: {fault}' for fault in found]
  return good, faults


def main():
  n = trial.number('twowriters', 5, 'races').n
  good, faults = tried(n)
  figures = f'{good} of {n} races of {RUNS} after a kill -9: one winner, the same bits'
  trial.report('twowriters', good == n, figures, faults)


if __name__ == '__main__':
  main()
