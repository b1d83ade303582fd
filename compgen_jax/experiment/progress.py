"""Progress of a run: one line that rewrites itself on a terminal, plain lines in a log."""

import sys
import time

from compgen_jax.experiment import lifeline


class Progress:
  """Shows `done` of `total` updates with the rate, an ETA and a few metrics.

  The first updates compile; rate and ETA are of those after them.
  """

  def __init__(self, name: str, total: int, done: int = 0, stream=None, every_s: float = 15.0):
    self._name, self._total, self._first = name, total, done
    self._stream = stream or sys.stderr
    self._terminal = self._stream.isatty()
    self._every_s = 0.2 if self._terminal else every_s
    self._started = self._shown = time.monotonic()
    self._is_compiled = False
    self._write(f'{name:>16} {done:>6}/{total}  compiling ...')

  def show(self, done: int, metrics: dict[str, float]) -> None:
    """Reports; too frequent calls print nothing, and calls before the first update.

    `signal`, the share of groups from which there is something to learn, is shown where it is 0.
    """
    now = time.monotonic()
    rate = (done - self._first) / max(now - self._started, 1e-9) if self._is_compiled else 0.0
    if not self._is_compiled:  # what took so long was not the updates
      self._first, self._started, self._is_compiled = done, now, True
    last = done >= self._total
    if now - self._shown < self._every_s and not last:
      return
    self._shown = now
    pace = (
      f'{rate:6.1f} updates/s  ETA {_duration((self._total - done) / rate):>6}  ' if rate else ''
    )
    shown = '  '.join(f'{k} {v:.3f}' for k, v in metrics.items() if k != 'signal')
    if metrics.get('signal', 1.0) == 0.0:
      shown += '  no group has signal: all samples of a problem earn the same'
    self._write(f'{self._name:>16} {done:>6}/{self._total}  {pace}{shown}', last)

  def _write(self, line: str, last: bool = False) -> None:
    if not lifeline.is_lead():
      return
    if self._terminal:
      self._stream.write('\r\x1b[2K' + line + ('\n' if last else ''))
    else:
      self._stream.write(line + '\n')
    self._stream.flush()


def _duration(seconds: float) -> str:
  seconds = int(seconds)
  return (
    f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
    if seconds >= 3600
    else f'{seconds // 60}m{seconds % 60:02d}s'
  )


def say(text: str) -> None:
  """One plain line for the person who watches; on a terminal, in place of the progress line.

  (From process 0 of several.)
  """
  if not lifeline.is_lead():
    return
  start = '\r\x1b[2K' if sys.stderr.isatty() else ''
  print(start + text, file=sys.stderr, flush=True)
