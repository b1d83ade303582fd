"""Matrix product, squared ReLU, embedding, attention and convolution with gradients written by hand; argmax.

Autodiff is right about all but the last and slow: it transposes weight gradients through strided copies, scatters the
gradient of an embedding row by row, keeps several arrays of the size of the attention scores, and keeps every shifted copy of
a convolution's input. These save the least and reuse it. Tests hold each equal to the plain formula, values and gradients.

Shape letters as in transformer.py: B rows, T query columns, S key columns, D width, H heads, K head width, C taps, V entries.
"""

import jax
import jax.numpy as jnp


def _rows(x: jax.Array) -> jax.Array:
  return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def matmul(x_NxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
  """x @ w over the last axis of x."""
  return _product(x_NxI, w_IxO)


def _product(x_NxI, w_IxO):
  # As one matrix, not a batch of them: decoding has one column a row.
  y = jnp.dot(_rows(x_NxI), w_IxO, preferred_element_type=jnp.float32).astype(x_NxI.dtype)
  return y.reshape(*x_NxI.shape[:-1], w_IxO.shape[1])


def _matmul_backward(saved, dy_NxO):
  x_NxI, w_IxO = saved
  # The longer axis of the weight last: on CPU up to twice as fast as the other way round.
  a, b = (x_NxI, dy_NxO) if w_IxO.shape[0] <= w_IxO.shape[1] else (dy_NxO, x_NxI)
  dw = jax.lax.dot_general(
    _rows(a), _rows(b), (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
  )
  dw = dw.astype(w_IxO.dtype)
  # (The barrier keeps XLA from turning a product and a transpose into the other product.)
  return _product(dy_NxO, w_IxO.T), dw if a is x_NxI else jax.lax.optimization_barrier(dw).T


matmul.defvjp(lambda x, w: (_product(x, w), (x, w)), _matmul_backward)


@jax.custom_vjp
def squared_relu(x: jax.Array) -> jax.Array:
  """max(x, 0)^2. Its gradient is made from its value, so that x need not be kept."""
  return jnp.square(jax.nn.relu(x))


squared_relu.defvjp(lambda x: (squared_relu(x),) * 2, lambda y, dy: (2.0 * jnp.sqrt(y) * dy,))


@jax.custom_vjp
def embedding(table_VxD: jax.Array, ids: jax.Array) -> jax.Array:
  """table[ids]."""
  return table_VxD[ids]


def _embedding_backward(saved, dy):
  table_VxD, ids = saved
  # A product, because a scatter adds row after row.
  chosen_NxV = jax.nn.one_hot(ids.reshape(-1), table_VxD.shape[0], dtype=dy.dtype)
  return jax.lax.dot_general(chosen_NxV, _rows(dy), (((0,), (0,)), ((), ()))), None


embedding.defvjp(lambda table, ids: (table[ids], (table, ids)), _embedding_backward)


def barrier(mask: jax.Array) -> jax.Array:
  """float32: 0 where the mask is true, 1e19 (more than any score) elsewhere.

  As a root, because XLA does not repeat an expensive operation at each use: it makes this array once for all layers and
  heads, where a comparison would be fused into, and computed anew in, every one of them.
  """
  return jnp.sqrt(jnp.where(mask, 0.0, 1e38))


def _attend(q_BxHxTxK, k_BxHxSxK, v_BxHxSxK, barrier_BxTxS):
  scores_BxHxTxS = jnp.einsum(
    'bhtk,bhsk->bhts', q_BxHxTxK, k_BxHxSxK, preferred_element_type=jnp.float32
  )
  scores_BxHxTxS -= barrier_BxTxS[:, None]
  exp_BxHxTxS = jnp.exp(scores_BxHxTxS - jnp.max(scores_BxHxTxS, axis=-1, keepdims=True))
  total_BxHxTx1 = jnp.sum(exp_BxHxTxS, axis=-1, keepdims=True)
  # Divided after the product: K columns, not S.
  mixed = jnp.einsum(
    'bhts,bhsk->bhtk',
    exp_BxHxTxS.astype(v_BxHxSxK.dtype),
    v_BxHxSxK,
    preferred_element_type=jnp.float32,
  )
  return exp_BxHxTxS, total_BxHxTx1, mixed / total_BxHxTx1


@jax.custom_vjp
def attention(
  q_BxHxTxK: jax.Array, k_BxHxSxK: jax.Array, v_BxHxSxK: jax.Array, barrier_BxTxS: jax.Array
) -> jax.Array:
  """softmax(q k^T - barrier) v, as [B, H, T, K] in the dtype of v; the softmax is float32. Queries come scaled.

  `barrier_BxTxS` float32, without a gradient: `barrier` of a mask. A query that sees nothing gets the mean
  of all values, and nothing may depend on it.
  """
  return _attend(q_BxHxTxK, k_BxHxSxK, v_BxHxSxK, barrier_BxTxS)[2].astype(v_BxHxSxK.dtype)


def _attention_forward(q, k, v, barrier):
  exp, total, out = _attend(q, k, v, barrier)
  return out.astype(v.dtype), (q, k, v, exp, total, out)


def _attention_backward(saved, dout_BxHxTxK):
  """With p = exp / total: dv = p^T dout, dscores = p (dout v^T - sum(dout out)), as in FlashAttention (arXiv 2205.14135)."""
  q, k, v, exp_BxHxTxS, total_BxHxTx1, out_BxHxTxK = saved
  dot = lambda spec, a, b: jnp.einsum(
    spec, a.astype(v.dtype), b.astype(v.dtype), preferred_element_type=jnp.float32
  )
  dv = dot('bhts,bhtk->bhsk', exp_BxHxTxS, dout_BxHxTxK / total_BxHxTx1)
  # From dout as it came in: rounded in one term and not in the other, the two would not cancel in bfloat16.
  mean_BxHxTx1 = jnp.sum(dout_BxHxTxK * out_BxHxTxK, axis=-1, keepdims=True)
  dscores = exp_BxHxTxS * ((dot('bhtk,bhsk->bhts', dout_BxHxTxK, v) - mean_BxHxTx1) / total_BxHxTx1)
  dq, dk = dot('bhts,bhsk->bhtk', dscores, k), dot('bhts,bhtk->bhsk', dscores, q)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


attention.defvjp(_attention_forward, _attention_backward)


def _shifts(x_NxD: jax.Array, n: int) -> list[jax.Array]:
  """x moved down by 0, 1, ... n - 1 rows; zeros come in. All are views of one padded copy, which the barrier makes real."""
  padded = jax.lax.optimization_barrier(jnp.pad(x_NxD, ((n - 1, 0), (0, 0))))
  return [padded[n - 1 - b : n - 1 - b + x_NxD.shape[0]] for b in range(n)]


def _convolve(x_BxTxD, kernel_CxD, near_BxTxC):
  near_NxC = _rows(near_BxTxC).astype(x_BxTxD.dtype)
  shifted = _shifts(_rows(x_BxTxD), kernel_CxD.shape[0])
  taps = sum(moved * near_NxC[:, b, None] * kernel_CxD[b] for b, moved in enumerate(shifted))
  return x_BxTxD + taps.reshape(x_BxTxD.shape)


@jax.custom_vjp
def causal_convolution(
  x_BxTxD: jax.Array, kernel_CxD: jax.Array, near_BxTxC: jax.Array
) -> jax.Array:
  """x plus, for each tap b < C, kernel[b] * x[t - b]: depthwise, residual.

  `near_BxTxC` bool: whether column t may look at the column b before it (never one of the row before).
  """
  return _convolve(x_BxTxD, kernel_CxD, near_BxTxC)


def _convolution_backward(saved, dy_BxTxD):
  x_BxTxD, kernel_CxD, near_BxTxC = saved
  n_taps = kernel_CxD.shape[0]
  near_NxC, dy_NxD = _rows(near_BxTxC).astype(dy_BxTxD.dtype), _rows(dy_BxTxD)
  shifted = _shifts(_rows(x_BxTxD), n_taps)
  dkernel_CxD = jnp.stack([near_NxC[:, b] @ (dy_NxD * moved) for b, moved in enumerate(shifted)])
  # Shifts the other way: the same on reversed rows.
  back = lambda a: [moved[::-1] for moved in _shifts(a[::-1], n_taps)]
  seen_by = zip(back(dy_NxD), back(near_NxC))
  dx_NxD = dy_NxD + sum(
    dy * near[:, b, None] * kernel_CxD[b] for b, (dy, near) in enumerate(seen_by)
  )
  return dx_NxD.reshape(x_BxTxD.shape), dkernel_CxD.astype(kernel_CxD.dtype), None


causal_convolution.defvjp(
  lambda x, kernel, near: (_convolve(x, kernel, near), (x, kernel, near)), _convolution_backward
)


def argmax(x: jax.Array) -> jax.Array:
  """int32: the first of the largest along the last axis (the last entry where that is NaN).

  Two plain reductions, which on CPU are vectorised; `jnp.argmax`, a reduction of pairs, is not.
  """
  n = x.shape[-1]
  is_largest = x >= jnp.max(x, axis=-1, keepdims=True)
  return jnp.min(jnp.where(is_largest, jnp.arange(n), n - 1), axis=-1).astype(jnp.int32)


def ceil_div(a, b):
  return -(-a // b)
