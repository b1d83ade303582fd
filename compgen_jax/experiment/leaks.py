"""No composition that is reported as unseen may be in training data."""

import numpy as np

from compgen_jax.errors import LeakError
from compgen_jax.task.latent import Composition
from compgen_jax.task.support import Support


def require_unseen(
  split: str, compositions: Composition, steps: Composition, training: dict[str, Support]
) -> None:
  """Raises LeakError where training can show a composition, or a problem's whole list of steps.

  (Those of two steps or more: atoms are the inventory.)
  """
  is_prefixed = np.any(steps.depth != compositions.depth)
  lists = (compositions, steps) if is_prefixed else (compositions,)  # else they are the same
  for name, trained in training.items():
    inside = np.zeros(compositions.depth.shape, bool)
    for listed in lists:
      inside |= trained.shows_all(listed) & (listed.depth > 1)
    if np.any(inside):
      n = int(inside.sum())
      raise LeakError(
        f'eval.splits.{split}: {n} of its compositions are in training data {name}; '
        'legal is a support of a pool that no stage trains on'
      )
