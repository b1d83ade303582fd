"""A profile of a few updates of a stage, by JAX's profiler."""

import pathlib

import jax

from compgen_jax.experiment import lifeline
from compgen_jax.experiment.progress import say


class Profile:
  """Profiles the dispatches that hold the updates `window`, (first, last); () is none.

  (On process 0 of several.) The folder is one that TensorBoard and Perfetto read.
  """

  def __init__(self, window: tuple[int, ...], folder: pathlib.Path):
    self._window = window if lifeline.is_lead() else ()
    self._folder, self._on = folder, False

  def before(self, done: int, n: int) -> None:
    """Call it before a dispatch of n updates after update `done`."""
    if self._window and not self._on and done < self._window[1] and done + n >= self._window[0]:
      jax.profiler.start_trace(str(self._folder))
      self._on, self._first = True, done + 1

  def after(self, done: int, is_last: bool) -> None:
    """Call it after a dispatch up to update `done`; `is_last`: of the stage."""
    if self._on and (done >= self._window[1] or is_last):
      jax.profiler.stop_trace()
      self._on = False
      say(f'profile of updates {self._first} to {done}: {self._folder}')
