"""SIGTERM and Ctrl-C at random moments: saved, one line, status 75, within 10 s; then the same
bits.

python -m tests.reliability.sigterm [--n 30]

Every third run compiles afresh, so that the signal meets a compiler. Checkpoints by number and by
time are off: what is saved is saved because of the signal.
"""

import dataclasses
import os
import pathlib
import pty
import random
import re
import signal
import threading
import time

from tests.reliability import trial

STATUS = 75
WITHIN_S = 10.0
OFF = ('run.checkpoint_every=100000', 'run.checkpoint_every_s=1e6', 'eval.every=0')
UNCACHED = {'JAX_ENABLE_COMPILATION_CACHE': 'false'}


@dataclasses.dataclass
class Stopped:
  """What a run did that got a signal.

  `status` None where it had ended before the signal. `shown`: the last `(stage, update)` on its
  terminal before the signal.
  """

  status: int | None
  seconds: float
  text: str
  shown: tuple[str, int] | None

  @property
  def kind(self) -> str:
    """Where the signal came: `saved` in the middle of training, or `nothing to save`."""
    return 'saved' if ': saved ' in self.text else 'nothing to save'

  def faults(self, workdir: pathlib.Path) -> list[str]:
    """What was promised and not kept."""
    lines = [line for line in self.text.splitlines() if 'interrupted' in line]
    found = []
    if self.status != STATUS:
      found.append(f'status {self.status}')
    if self.seconds > WITHIN_S:
      found.append(f'{self.seconds:.1f} s')
    if len(lines) != 1 or 'Traceback' in self.text:
      found.append(f'{len(lines)} lines, {self.text[-300:]!r}')
    if self.shown and trial.newest(workdir, self.shown[0]) < self.shown[1]:
      found.append(f'{self.shown} lost')
    return found


def stopped(workdir: pathlib.Path, at_s: float, signals: tuple[int, ...], env=None) -> Stopped:
  """Starts a run on a terminal of its own, and sends it signals `at_s` seconds later."""
  ours, its = pty.openpty()
  process = trial.start(workdir, *OFF, stderr=its, text=False, env=env or {})
  os.close(its)
  parts: list[bytes] = []

  def read():
    try:
      while part := os.read(ours, 1 << 16):
        parts.append(part)
    except OSError:  # the terminal's other end is closed
      pass

  reader = threading.Thread(target=read)
  reader.start()
  time.sleep(at_s)
  shown = re.findall(r'(\w+) +(\d+)/\d+ ', b''.join(parts).decode(errors='replace'))
  over, sent = process.poll() is not None, time.monotonic()
  for number in signals:
    process.send_signal(number)
    time.sleep(0.1 if len(signals) > 1 else 0)
  status = process.wait(timeout=60)
  seconds = time.monotonic() - sent
  reader.join()
  os.close(ours)
  last = (shown[-1][0], int(shown[-1][1])) if shown else None
  text = b''.join(parts).decode(errors='replace')
  return Stopped(None if over else status, seconds, text, last)


def tried(n: int, seed: int = 0) -> tuple[int, list[str], dict[str, int], float]:
  """`(kept, faults, how often which kind, longest seconds to the end)` of n runs."""
  draw, kept, faults, kinds, longest = random.Random(seed), 0, [], {}, 0.0
  with trial.reference(*OFF) as (folder, want, seconds):
    for i in range(n):
      workdir, uncached = folder / str(i), i % 3 == 2
      at_s = draw.uniform(0.2, 20.0 if uncached else seconds)
      number = (signal.SIGTERM, signal.SIGINT)[i % 2]
      got = stopped(workdir, at_s, (number,), UNCACHED if uncached else None)
      if got.status is None:
        kinds['over before'] = kinds.get('over before', 0) + 1
        found = []
      else:
        kinds[got.kind] = kinds.get(got.kind, 0) + 1
        longest = max(longest, got.seconds)
        found = got.faults(workdir)
      trial.finish(workdir, *OFF)
      found += trial.difference(trial.outcome(workdir), want)
      found += [f'left over: {path}' for path in trial.leftovers(workdir)]
      kept += not found
      faults += [f'at {at_s:.2f} s: {fault}' for fault in found]
  return kept, faults, kinds, longest


def main():
  n = trial.number('sigterm', 30, 'random moments').n
  kept, faults, kinds, longest = tried(n)
  with trial.reference(*OFF) as (folder, _, seconds):
    twice = stopped(folder / 'twice', 0.6 * seconds, (signal.SIGINT, signal.SIGINT))
  ends_at_once = twice.status == STATUS and twice.seconds < 1.0
  figures = f'{kept} of {n} kept ({kinds}), longest {longest:.1f} s'
  figures += f'; second Ctrl-C: status {twice.status} in {twice.seconds:.1f} s'
  trial.report('sigterm', kept >= n * 29 / 30 and ends_at_once, figures, faults)


if __name__ == '__main__':
  main()
