"""Gradients of a sum over rows, computed a microbatch of rows at a time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from compgen_jax.learning.setup import Setup
from compgen_jax.model.kernels import ceil_div

MAXIMA = ('log_prob_gap',)  # metrics of which the largest counts; of all others, the sum or mean


def join(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """How two values of a metric become one: their maximum, or their sum."""
  return jnp.maximum if name in MAXIMA else jnp.add


def _most_rows(n_rows: int) -> int:
  """The largest useful microbatch of n packed rows.

  There are as many packed rows as examples, and most stay empty: a microbatch of more than a
  quarter of them would be computed for nothing.
  """
  return max(1, n_rows // 4)


def _largest_divisor(n: int, limit: int) -> int:
  """The largest divisor of n that is at most `limit`; 0 is no limit."""
  return max(b for b in range(1, n + 1) if n % b == 0 and (b <= limit or not limit))


def in_parts(rows: Any, limit: int) -> Any:
  """A pytree with leading axis B as [B / size, size, ...].

  The size is the largest divisor of B that is at most `limit` (0: B itself).
  """
  n = jax.tree.leaves(rows)[0].shape[0]
  size = _largest_divisor(n, limit)
  return jax.tree.map(lambda x: x.reshape((n // size, size) + x.shape[1:]), rows)


def smallest_microbatch(setup: Setup, n_rows: int) -> int:
  """The size that the number of packed rows has to be a multiple of."""
  return min(setup.microbatch_rows[-1], _most_rows(n_rows)) if setup.microbatch_rows else 1


def microbatches(setup: Setup, n_rows: int, n_active: Any) -> list[tuple[int, Any]]:
  """How the first `n_active` (may be traced) of `n_rows` rows are cut.

  Returns:
    `(size, count)` pairs in the order in which they are worked off: microbatches of the first size
    of `setup.microbatch_rows` as long as they can be filled, then of the next. The last microbatch
    of the last size is filled up with inactive rows.
  """
  if not setup.microbatch_rows:
    return [(n_rows, jnp.minimum(n_active, 1))]
  last = _largest_divisor(n_rows, smallest_microbatch(setup, n_rows))
  larger = {min(size, _most_rows(n_rows)) // last * last for size in setup.microbatch_rows[:-1]}
  cut = []
  for size in sorted(larger - {0, last}, reverse=True):
    cut.append((size, n_active // size))
    n_active = n_active % size
  return cut + [(last, ceil_div(n_active, last))]


def gradient(
  loss: Callable, params: Any, rows: Any, setup: Setup, n_active: jax.Array
) -> tuple[Any, dict[str, jax.Array]]:
  """Gradient of the sum of `loss` over this device's rows, microbatch after microbatch.

  Args:
    loss: `(params, rows) -> (float32[], metrics)`, both sums over the rows given (metrics in
      MAXIMA: the largest).
    params: where to differentiate.
    rows: pytree with a leading axis M.
    setup: decides the microbatches.
    n_active: int32[]; only this many leading rows matter, the others are skipped.

  Returns:
    `(grads, metrics)`, of all rows of this device. Where it has several parts, `rows`, `n_active`
    and these have a leading axis of them.
  """
  if not setup.devices.parts:
    return _of_rows(loss, params, rows, setup, n_active)
  return jax.lax.map(lambda part: _of_rows(loss, params, part[0], setup, part[1]), (rows, n_active))


def _of_rows(
  loss: Callable, params: Any, rows: Any, setup: Setup, n_active: jax.Array
) -> tuple[Any, dict[str, jax.Array]]:
  """`gradient` of the rows of one part."""
  params = setup.model.unstack(params)

  @functools.partial(jax.jit, static_argnums=1)  # traced once for its shapes and for the loop
  def one(first, size):
    microbatch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), rows)
    return jax.grad(loss, has_aux=True)(params, microbatch)

  first, sums = jnp.int32(0), None
  n_active = setup.devices.trips(n_active)
  for size, count in microbatches(setup, jax.tree.leaves(rows)[0].shape[0], n_active):
    if sums is None:
      shapes = jax.eval_shape(lambda i: one(i, size), first)
      sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(i, sums):
      (grads, metrics), (more_grads, more) = sums, one(first + i * size, size)
      metrics = {name: join(name)(metrics[name], more[name]) for name in metrics}
      return jax.tree.map(jnp.add, grads, more_grads), metrics

    sums = jax.lax.fori_loop(0, count, add, sums)
    first += count * size
  grads, metrics = sums
  return setup.model.stack(grads), metrics
