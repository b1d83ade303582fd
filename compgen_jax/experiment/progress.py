"""Progress of a run: one line that rewrites itself on a terminal, plain lines in a log."""

import sys
import time


class Progress:
  """Shows `done` of `total` updates with the rate, an ETA and a few metrics."""

  def __init__(self, name: str, total: int, done: int = 0, stream=None, every_s: float = 15.0):
    self._name, self._total, self._first = name, total, done
    self._stream = stream or sys.stderr
    self._terminal = self._stream.isatty()
    self._every_s = 0.2 if self._terminal else every_s
    self._started = self._shown = time.monotonic()

  def show(self, done: int, metrics: dict[str, float]) -> None:
    """Reports; too frequent calls and calls before the first update print nothing."""
    now = time.monotonic()
    last = done >= self._total
    if now - self._shown < self._every_s and not last:
      return
    self._shown = now
    rate = (done - self._first) / max(now - self._started, 1e-9)
    eta = _duration((self._total - done) / rate) if rate > 0 else '?'
    shown = '  '.join(f'{k} {v:.3f}' for k, v in metrics.items())
    line = f'{self._name:>16} {done:>6}/{self._total}  {rate:6.1f} updates/s  ETA {eta:>6}  {shown}'
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
  """One plain line for the person who watches."""
  print(text, file=sys.stderr, flush=True)
