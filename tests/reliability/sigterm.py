"""SIGTERM and Ctrl-C at random moments: saved, one line, status 75, within 10 s; then the same
bits.

python -m tests.reliability.sigterm [--n 30]

Every third run compiles afresh, so that the signal meets a compiler, and every third is two
processes that both get the signal. Checkpoints by number and by time are off: what is saved is
saved because of the signal. A run that the signal met behind its last save and that ends well
within the time has kept its promise too.
"""

import collections
import dataclasses
import os
import pathlib
import pty
import random
import re
import signal
import threading
import time

from tests.reliability import peers, trial

STATUS = 75
WITHIN_S = 10.0
OFF = ('run.checkpoint_every=100000', 'run.checkpoint_every_s=1e6', 'eval.every=0')
# About as long to train as to start, compile and evaluate: the signal must meet updates too.
LONG = (*OFF, 'stages.sft.steps=6000', 'stages.rl.steps=5000')
# Two processes, a device each, whose updates take longer.
TOGETHER = (*OFF, 'stages.sft.steps=1500', 'stages.rl.steps=800', 'mesh.data=-1', 'run.join_s=60.0')
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
    """Where the signal came: `saved` in the middle of training, `nothing to save` elsewhere, or
    `ended` where all was written already."""
    if self.status == 0 and 'report: ' in self.text:
      return 'ended'
    return 'saved' if ': saved ' in self.text else 'nothing to save'

  def faults(self, workdir: pathlib.Path) -> list[str]:
    """What was promised and not kept."""
    lines = [line for line in self.text.splitlines() if 'interrupted' in line]
    found = []
    if self.kind == 'ended':
      return [] if self.seconds <= WITHIN_S else [f'{self.seconds:.1f} s']
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
  process = trial.start(workdir, *LONG, stderr=its, text=False, env=env or {})
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


def stopped_together(workdir: pathlib.Path, at_s: float) -> Stopped:
  """The same of two processes, both of which get SIGTERM, as a scheduler sends it.

  `status` is that of the first that did not end as it should, and `text` what both said.
  """
  with peers.started(workdir, *TOGETHER, config=trial.CONFIG) as processes:
    time.sleep(at_s)
    over, sent = any(process.poll() is not None for process in processes), time.monotonic()
    for process in processes:
      process.send_signal(signal.SIGTERM)
    ends = peers.ended(processes, within_s=60.0)
    seconds = time.monotonic() - sent
  wrong = [status for status, _ in ends if status != STATUS]
  told = {line for _, lines in ends for line in lines if 'interrupted' in line}
  others = [line for _, lines in ends for line in lines if 'interrupted' not in line]
  text = '\n'.join([*others, *told])  # what both say alike counts once
  return Stopped(None if over else (wrong or [STATUS])[0], seconds, text, None)


def together(workdir: pathlib.Path) -> dict[str, object]:
  """Runs two processes to the end; what they have to end with."""
  peers.finish(workdir, *TOGETHER, config=trial.CONFIG)
  return trial.of_stages(workdir)


def tried(
  n: int, folder: pathlib.Path, of_one: dict[str, str], one_s: float, seed: int = 0
) -> tuple[int, list[str], dict[str, int], float]:
  """`(kept, faults, how often which kind, longest seconds to the end)` of n runs.

  `of_one`, `one_s`: outcome and seconds of a run of one process that was left alone.
  """
  draw, kept, faults, longest = random.Random(seed), 0, [], 0.0
  kinds = collections.Counter()
  of_two = together(folder / 'two')  # fills the compile cache
  started = time.monotonic()
  together(folder / 'two again')
  two_s = time.monotonic() - started
  for i in range(n):
    workdir, uncached, two = folder / str(i), i % 3 == 2, i % 3 == 1
    at_s = draw.uniform(0.2, two_s if two else 20.0 if uncached else one_s)
    if two:
      got = stopped_together(workdir, at_s)
    else:
      number = (signal.SIGTERM, signal.SIGINT)[i // 3 % 2]
      got = stopped(workdir, at_s, (number,), UNCACHED if uncached else None)
    found = []
    if got.status is not None:
      longest, found = max(longest, got.seconds), got.faults(workdir)
    kinds['over before' if got.status is None else got.kind] += 1
    if two:  # what was saved for the signal may still be kept beside the end
      found += trial.difference({k: v for k, v in together(workdir).items() if k in of_two}, of_two)
    else:
      trial.finish(workdir, *LONG)
      found += trial.difference(trial.outcome(workdir), of_one)
    found += [f'left over: {path}' for path in trial.leftovers(workdir)]
    kept += not found
    faults += [f'run {i}, at {at_s:.2f} s: {fault}' for fault in found]
  return kept, faults, dict(kinds), longest


def main():
  n = trial.number('sigterm', 30, 'random moments').n
  # Where it is ignored (nohup, a script's &), a run would leave it so.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with trial.reference(*LONG) as (folder, of_one, one_s):
    kept, faults, kinds, longest = tried(n, folder, of_one, one_s)
    twice = stopped(folder / 'twice', 0.6 * one_s, (signal.SIGINT, signal.SIGINT))
  ends_at_once = twice.status == STATUS and twice.seconds < 1.0
  figures = f'{kept} of {n} kept ({kinds}), longest {longest:.1f} s'
  figures += f'; second Ctrl-C: status {twice.status} in {twice.seconds:.1f} s'
  trial.report('sigterm', kept >= n * 29 / 30 and ends_at_once, figures, faults)


if __name__ == '__main__':
  main()
