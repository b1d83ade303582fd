"""Dispatches: first to learn how long an update takes, then as long as may be."""

from unittest import mock

from compgen_jax.experiment import pace


def test_a_dispatch_takes_seconds():
  """Catches dispatches that a signal has to wait for, that compilation makes short, or none at
  all."""
  clock = iter([0.0, 0.0, 100.0, 100.5, 100.5, 103.5, 103.5, 143.5, 143.5])
  taken = []
  # The second reading of each pair is taken when the dispatch ends; the first one also compiles.
  with mock.patch.object(pace.time, 'monotonic', lambda: next(clock)):
    next(clock)
    paced = pace.Pace()
    for most in (20, 20, 20, 4):
      with paced.dispatch(most) as n:
        taken.append(n)
  assert taken == [1, 1, 6, 4]
