"""Several processes that are one run, of which one is killed, stopped or missing: the others end
soon, in one line, and never with a core dump.

python -m tests.reliability.peers [--n 8]

Trials in turn: one of four processes is killed; one of four is stopped (SIGSTOP), which the lead
notices after `run.stuck_s` and writes the stacks of those that still answer; the port is busy; one
never comes.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from compgen_jax.experiment import places, processes
from compgen_jax.experiment.places import Place
from tests.reliability import trial

CONFIG = 'tests/reliability/together.py'
FOREVER = (*trial.ENDLESS, 'sft.batch=16')  # rows for four devices
MOST_S = 15.0  # from a death to the end of the others
STUCK_S = 90.0  # more than compiling takes here
PROCESSES = 4


def environment(index: int, count: int, port: int) -> dict[str, str]:
  """What one sets for each of several processes on one machine, a device each."""
  return places.variables(Place(f'localhost:{port}', count, index, None)) | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    'TF_CPP_MIN_LOG_LEVEL': '3',  # on a busy machine compilers complain that they are slow
  }


@contextlib.contextmanager
def started(
  workdir: pathlib.Path,
  *flags: str,
  count: int = 2,
  absent: tuple[int, ...] = (),
  folders: tuple[pathlib.Path, ...] = (),
  config: str = CONFIG,
  port: int = 0,
) -> Iterator[list[subprocess.Popen]]:
  """The processes of one run, in folders of their own where these are given, without those that
  are absent; those that are left at the end are killed."""
  port, ran = port or processes.free_port(), []
  command = trial.command(workdir, *flags, config=str(trial.REPOSITORY / config))
  for i in sorted(set(range(count)) - set(absent)):
    env = os.environ | environment(i, count, port) | {'PYTHONPATH': str(trial.REPOSITORY)}
    folder = folders[i] if folders else trial.REPOSITORY
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    ran.append(subprocess.Popen(command, cwd=folder, env=env, **quiet))
  try:
    yield ran
  finally:
    for process in ran:
      process.kill()
      process.communicate()


def ended(ran: list[subprocess.Popen], within_s: float = 900.0) -> list[tuple[int, list[str]]]:
  """`(status, lines on stderr)` of each process.

  Raises:
    subprocess.TimeoutExpired: one goes on.
  """
  until = time.monotonic() + within_s
  outputs = [process.communicate(timeout=until - time.monotonic())[1] for process in ran]
  return [(process.returncode, text.splitlines()) for process, text in zip(ran, outputs)]


def finish(workdir: pathlib.Path, *flags: str, **kwargs: Any) -> None:
  """Runs to the end as several processes; see `started`.

  Raises:
    AssertionError: one did not end well.
  """
  with started(workdir, *flags, **kwargs) as processes:
    ends = ended(processes)
  assert not any(status for status, _ in ends), ends


def trains(workdir: pathlib.Path) -> bool:
  """Whether a row of metrics is there."""
  return (workdir / 'stages/sft/seed-0/metrics.jsonl').exists()


def after(signal_: int, victim: int, workdir: pathlib.Path, count: int = PROCESSES) -> list[str]:
  """What is wrong with how the others end after a signal (SIGKILL or SIGSTOP) to one of them."""
  stopped = signal_ == signal.SIGSTOP
  flags = (*FOREVER, f'run.stuck_s={STUCK_S}')
  with started(workdir, *flags, count=count) as ran:
    trial.until(ran[0], lambda: trains(workdir))
    ran[victim].send_signal(signal_)
    sent = time.monotonic()
    others = [process for i, process in enumerate(ran) if i != victim]
    try:
      ends = ended(others, within_s=MOST_S + (STUCK_S if stopped else 0.0))
    except subprocess.TimeoutExpired:
      return [f'others go on {time.monotonic() - sent:.0f} s after signal {signal_} to {victim}']
  faults = [f'status {status}' for status, _ in ends if status != 4]
  said = [line for _, lines in ends for line in lines if line.startswith('error: ')]
  if stopped:
    want = f'have not met for run.stuck_s={STUCK_S:g} s; process {victim} does not answer; the same'
    faults += [] if len(said) == 1 and want in said[0] else [f'said {said}']
    dumps = sum(any('most recent call first' in line for line in lines) for _, lines in ends)
    faults += [] if dumps == count - 1 else [f'{dumps} of {count - 1} stacks']
  else:
    want = f'error: process {victim} of {count} is gone; the same command continues'
    faults += [] if said and set(said) == {want} else [f'said {said}']
  return faults


def refused(workdir: pathlib.Path, busy: bool) -> list[str]:
  """What is wrong with how processes end whose port is busy, or of which the last never comes."""
  with contextlib.ExitStack() as stack:
    port = 0
    if busy:
      port = stack.enter_context(socket.create_server(('', 0))).getsockname()[1]
    absent = () if busy else (PROCESSES - 1,)
    flags = ('run.join_s=10.0',)
    ran = stack.enter_context(started(workdir, *flags, count=PROCESSES, absent=absent, port=port))
    ends = ended(ran, within_s=60.0)
  what = 'can not listen at this port' if busy else 'did not come within run.join_s=10 s: 3'
  first = ends[0][1]
  faults = [] if len(first) == 1 and what in first[0] else [f'said {first}']
  return faults + [f'status {status}' for status, _ in ends if status not in (2, 4)]


def tried(n: int) -> tuple[int, list[str]]:
  """`(trials that ended as they should, faults)`."""
  good, faults = 0, []
  with tempfile.TemporaryDirectory() as name:
    for i in range(n):
      workdir, victim = pathlib.Path(name) / str(i), i // 4 % PROCESSES
      kind = ('killed', 'stopped', 'busy', 'missing')[i % 4]
      if kind in ('killed', 'stopped'):
        sent = signal.SIGKILL if kind == 'killed' else signal.SIGSTOP
        victim = max(victim, 1) if kind == 'stopped' else victim  # the lead is who watches
        found = after(sent, victim, workdir)
      else:
        found = refused(workdir, kind == 'busy')
      good += not found
      faults += [f'{kind} (process {victim}): {fault}' for fault in found]
  return good, faults


def main():
  n = trial.number('peers', 8, 'trials').n
  good, faults = tried(n)
  figures = f'{good} of {n} runs of {PROCESSES} processes ended as promised'
  trial.report('peers', good == n, figures, faults)


if __name__ == '__main__':
  main()
