"""Many cells of an evaluation in one call of its program.

So a point of a learning curve, a few problems of each cell, is cheap and compiles nothing that the
end of the stage does not need anyway; and an accelerator is kept busy.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from compgen_jax.task.latent import Problem
from compgen_jax.task.render import Rendered


def attempts(
  cells: dict[Hashable, tuple[Problem, Rendered]],
  n: int,
  n_rows: int,
  attempt: Callable[[Problem, Rendered, np.ndarray], Any],
) -> dict[Hashable, Any]:
  """What `attempt` gives for the first n problems of each cell, as numpy arrays.

  Args:
    cells: name -> problems and their tokens, numpy arrays of one shape in all cells; at least n
      rows each.
    n: problems of a cell, `n_rows` at most.
    n_rows: rows that a call of `attempt` takes.
    attempt: problems and int32[n_rows], the place of each in its cell -> a pytree, row by row.
  """
  names, at_once = list(cells), n_rows // n
  place_B = np.arange(n_rows, dtype=np.int32) % n
  found: dict[Hashable, Any] = {}
  for first in range(0, len(names), at_once):
    group = names[first : first + at_once]
    rows = joined([cells[name] for name in group], n, n_rows)
    # To the host before it is cut up: cutting rows that are split over devices is a collective, and
    # two of them in flight can wait for each other for ever on a CPU.
    attempted = jax.device_get(attempt(*rows, place_B))
    for i, name in enumerate(group):
      found[name] = jax.tree.map(lambda x, i=i: x[i * n : (i + 1) * n], attempted)
  return found


def joined(parts: list[tuple[Problem, Rendered]], n: int, n_rows: int) -> tuple[Problem, Rendered]:
  """The first n rows of each, filled up to n_rows with the last one's."""
  n_copies = -(-n_rows // n)
  filled = (parts + parts[-1:] * n_copies)[:n_copies]
  return jax.tree.map(lambda *xs: np.concatenate([x[:n] for x in xs])[:n_rows], *filled)
