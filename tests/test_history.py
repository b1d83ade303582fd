"""Rows of metrics: of the updates that they stand for, in however many dispatches these came."""

import numpy as np

from compgen_jax.experiment.history import History

METRICS = {
  'loss': np.float32([1, 2, 4, 9, 9]),
  'log_prob_gap': np.float32([0.5, 0.1, 0.1, 0.1, 0.2]),
  'finite': np.ones(5),
}


def _added(*cuts):
  """The first four of five updates in a row, the fifth in none; dispatches end at `cuts`."""
  history, first = History([], []), 0
  for last in (*cuts, 5):
    if first == 4:
      history.close_row(4, 1.5)
    history.add({name: values[first:last] for name, values in METRICS.items()})
    first = last
  return history


def test_a_row_does_not_depend_on_dispatches():
  """Catches metrics of the last dispatch alone, sums in place of means, and a maximum that is
  averaged: a gap in one update of twenty must not look small."""
  whole = _added(4)
  (row,) = whole.rows
  assert row == {'step': 4, 'seconds': 1.5, 'skipped': 0, 'loss': 4.0, 'log_prob_gap': 0.5}
  assert _added(1, 2, 4) == _added(3, 4) == whole
  assert whole.pending == [{'loss': 9.0, 'log_prob_gap': float(np.float32(0.2))}]


def test_skipped_updates():
  """Catches NaN in a mean, skipped updates that are not counted, a row of nothing, and updates in a
  row that a dispatch or a row of metrics cuts in two."""
  history, bad = History([], []), np.nan
  added = (([1, bad], 1), ([bad, 3, bad], 2), ([bad], 2), ([bad, 5], 3))
  for i, (loss, most) in enumerate(added):
    loss = np.float32(loss)
    assert history.add({'loss': loss, 'finite': np.isfinite(loss)}) == most
    if i in (1, 2):
      history.close_row(i, 0.0)
  first, second = history.rows
  assert first == {'step': 1, 'seconds': 0.0, 'skipped': 3, 'loss': 2.0}
  assert second == {'step': 2, 'seconds': 0.0, 'skipped': 1}
  assert history.pending == [None, {'loss': 5.0}] and history.skipped_in_a_row == 0
