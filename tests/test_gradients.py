"""Gradients in microbatches: every row that matters once, and nothing else."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.learning import gradients
from tests.made_up import GRADIENT_DESCENT

CASES = [
  # microbatch_rows, n_active, the sizes that are worked off
  ((), 12, [12]),
  ((), 0, []),
  ((), 1, [12]),
  ((5,), 12, [3] * 4),
  ((5,), 5, [3] * 2),
  ((5,), 7, [3] * 3),
  ((5,), 0, []),
  ((2,), 5, [2] * 3),
  ((2,), 3, [2] * 2),
  ((3, 1), 11, [3] * 3 + [1] * 2),
  ((3, 1), 9, [3] * 3),
  ((2, 1), 1, [1]),
  ((5, 1), 7, [3, 3, 1]),
  ((3, 2), 5, [2] * 3),
  ((3, 1), 12, [3] * 4),
  ((1, 1), 2, [1, 1]),
]


@pytest.mark.parametrize(
  'limit,shape', [(0, (1, 12)), (5, (3, 4)), (12, (1, 12)), (100, (1, 12)), (1, (12, 1))]
)
def test_parts(limit, shape):
  """Catches rows that are lost or change their order, and parts larger than allowed."""
  parts = gradients.in_parts({'x': jnp.arange(12), 'y': jnp.ones((12, 2))}, limit)
  assert parts['x'].shape == shape and parts['y'].shape == (*shape, 2)
  np.testing.assert_array_equal(parts['x'].reshape(-1), np.arange(12))


@pytest.mark.parametrize('microbatch_rows,n_active,sizes', CASES)
def test_gradient_in_microbatches(microbatch_rows, n_active, sizes):
  """Catches a microbatch with a row that matters left out, a row in two microbatches, and
  microbatches without one worked off (most of the cost of RL)."""
  setup = dataclasses.replace(GRADIENT_DESCENT, microbatch_rows=microbatch_rows)
  rows = jnp.arange(1.0, 13.0)

  def loss(params, part):
    return jnp.sum(params['ends'] * part), {'rows': jnp.zeros(13).at[part.shape[0]].add(1)}

  params = {'ends': jnp.float32(3.0), 'blocks': {}}
  got, metrics = gradients.gradient(loss, params, rows, setup, jnp.int32(n_active))
  assert float(got['ends']) == np.sum(rows[: sum(sizes)])
  np.testing.assert_array_equal(metrics['rows'], np.bincount(sizes, minlength=13))


@pytest.mark.parametrize('microbatch_rows', [(), (3,), (3, 1)])
def test_metrics_of_microbatches(microbatch_rows):
  """Catches a maximum that is summed up, a sum of which the largest is kept, and rows that do not
  matter."""
  setup = dataclasses.replace(GRADIENT_DESCENT, microbatch_rows=microbatch_rows)
  rows = jnp.array([1.0, 5.0, 2.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])

  def loss(params, part):
    return jnp.sum(params['ends'] * part), {'sum': jnp.sum(part), 'log_prob_gap': jnp.max(part)}

  params = {'ends': jnp.float32(3.0), 'blocks': {}}
  _, metrics = gradients.gradient(loss, params, rows, setup, jnp.int32(5))
  assert metrics == {'sum': 15.0, 'log_prob_gap': 5.0}
