"""A point of a learning curve: few problems of many cells, in one call of the evaluation's program.

So a point is cheap, and compiles nothing that the end of the stage does not need anyway.
"""

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp

from compgen_jax.task.latent import Problem
from compgen_jax.task.render import Rendered
from compgen_jax.task.verify import Verdict


def verdicts(
  cells: dict[Hashable, tuple[Problem, Rendered]],
  n: int,
  n_rows: int,
  attempt: Callable[[Problem, Rendered], Verdict],
) -> dict[Hashable, Verdict]:
  """Verdicts on the first n problems of each cell.

  Args:
    cells: name -> problems and their tokens, of one shape in all cells; at least n rows each.
    n: problems of a cell, `n_rows` at most.
    n_rows: rows that a call of `attempt` takes.
    attempt: problems -> verdicts, row by row.
  """
  names, at_once = list(cells), n_rows // n
  found: dict[Hashable, Verdict] = {}
  for first in range(0, len(names), at_once):
    group = names[first : first + at_once]
    rows = joined([cells[name] for name in group], n, n_rows)
    verdict = jax.device_get(attempt(*rows))
    for i, name in enumerate(group):
      found[name] = Verdict(*(x[i * n : (i + 1) * n] for x in verdict))
  return found


def joined(parts: list[tuple[Problem, Rendered]], n: int, n_rows: int) -> tuple[Problem, Rendered]:
  """The first n rows of each, filled up to n_rows with the last one's."""
  n_copies = -(-n_rows // n)
  filled = (parts + parts[-1:] * n_copies)[:n_copies]
  return jax.tree.map(lambda *xs: jnp.concatenate([x[:n] for x in xs])[:n_rows], *filled)
