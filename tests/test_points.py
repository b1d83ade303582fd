"""A point of a learning curve: many cells in one call, each with its own problems' verdicts."""

import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.experiment import points
from compgen_jax.task.verify import Verdict


@pytest.mark.parametrize('n, calls', [(4, 2), (5, 2), (16, 5), (3, 1)])
def test_every_cell_gets_its_own_verdicts(n, calls):
  """A cell with another's verdicts or problems beyond the first n, calls of another shape (which
  would compile), or more of them than needed."""
  cells = {
    ('split', depth): (jnp.arange(16) + 100 * depth, jnp.zeros((16, 2))) for depth in range(5)
  }
  asked = []

  def attempt(ids, rendered, place_B):
    assert ids.shape == place_B.shape == (16,) and rendered.shape == (16, 2)
    asked.append(ids)
    return Verdict(ids, ids + 1000, place_B, ids[:, None], ids)

  found = points.attempts(cells, n, 16, attempt)
  assert len(asked) == calls and list(found) == list(cells)
  for (_, depth), verdict in found.items():
    np.testing.assert_array_equal(verdict.answer, np.arange(n) + 100 * depth)
    np.testing.assert_array_equal(verdict.structure, verdict.answer + 1000)
    np.testing.assert_array_equal(verdict.strict, np.arange(n))  # its place in the cell
    assert verdict.operand_ok.shape == (n, 1)
