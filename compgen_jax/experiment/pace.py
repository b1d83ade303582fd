"""How many updates go into a dispatch: a run can stop only between two of them."""

import contextlib
import time
from collections.abc import Iterator

from compgen_jax.experiment import lifeline

_DISPATCH_S = 3.0  # seconds that a dispatch may take


class Pace:
  """Measures how long updates take.

  What is computed does not depend on it: a dispatch is a part of the updates of a row of metrics.
  """

  def __init__(self):
    self._dispatches = 0
    self._update_s = float('inf')  # at first nothing is known

  @contextlib.contextmanager
  def dispatch(self, most: int) -> Iterator[int]:
    """Times one dispatch; gives the number of updates for it, 1 to `most`."""
    n = min(most, max(1, int(_DISPATCH_S / max(self._update_s, 1e-9))))
    n = lifeline.of_lead(lambda: n)  # the same on all processes
    started = time.monotonic()
    yield n
    self._dispatches += 1
    if self._dispatches > 1:  # the first one compiles
      self._update_s = (time.monotonic() - started) / n
