"""What one replicate of a stage reports of its updates: the rows of metrics.jsonl.

A row stands for the updates since the row before. They may come in several dispatches and, where a
run was interrupted, from several processes: a row depends on its updates alone.
"""

import dataclasses
from typing import Any

import numpy as np

from compgen_jax.learning.gradients import MAXIMA


@dataclasses.dataclass
class History:
  """Rows, and updates that are in none yet.

  Attributes:
    rows: dicts of `step` (the row's last update), `seconds` (of training until then), `skipped`
      (how many of its updates were, because something was not finite) and metrics of the others:
      means over updates, or the largest of those in MAXIMA. Without others there are none.
    pending: metrics of each update since the last row, None where it was skipped; as a checkpoint
      keeps them.
    skipped_in_a_row: the last updates before now that were skipped. (A run that continues counts
      from its last row.)
  """

  rows: list[dict[str, Any]]
  pending: list[dict[str, float] | None]
  skipped_in_a_row: int = 0

  def add(self, metrics: dict[str, np.ndarray]) -> int:
    """Takes in further updates, an entry an update; `finite` says which were not skipped.

    Returns:
      The most updates in a row that were skipped, up to one of these.
    """
    most = self.skipped_in_a_row
    for i, is_finite in enumerate(metrics['finite'] > 0):
      update = {name: float(x[i]) for name, x in metrics.items() if name != 'finite'}
      self.pending.append(update if is_finite else None)
      self.skipped_in_a_row = 0 if is_finite else self.skipped_in_a_row + 1
      most = max(most, self.skipped_in_a_row)
    return most

  def close_row(self, step: int, seconds: float) -> None:
    """Makes a row of all updates that are in none."""
    updates = [update for update in self.pending if update is not None]
    row = {'step': step, 'seconds': seconds, 'skipped': len(self.pending) - len(updates)}
    for name in updates[0] if updates else ():
      join = np.max if name in MAXIMA else np.mean
      row[name] = float(join([update[name] for update in updates]))
    self.rows.append(row)
    self.pending = []
