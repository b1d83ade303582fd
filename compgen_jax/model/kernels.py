"""Operations of the model with hand-written gradients: matrix product, squared ReLU, embedding,
attention, convolution. Also argmax and integer division.

JAX's automatic gradients of the five are correct but slow. It transposes weight gradients through
strided copies. It adds up the gradient of an embedding row by row. It keeps several arrays of the
size of the attention scores, and every shifted copy of a convolution's input. The gradients here
keep as little as they can. Tests compare each with its plain formula, values and gradients.

Shape letters: B rows, T columns (queries), K key columns, D width, H attention heads, A width of a
head, O taps of the convolution, V vocabulary entries. Where any leading axes are allowed, N stands
for all of them; I and J are the inputs and outputs of a product.
"""

import jax
import jax.numpy as jnp


def ceil_div(a, b):
  """a / b rounded up, for whole numbers or integer arrays."""
  return -(-a // b)


def _rows(x: jax.Array) -> jax.Array:
  return x.reshape(-1, x.shape[-1])


# Matrix product -----------------------------------------------------------------------------------


@jax.custom_vjp
def matmul(x_NxI: jax.Array, w_IxJ: jax.Array) -> jax.Array:
  """x @ w over the last axis of x, in the dtype of x; sums are float32."""
  return _product(x_NxI, w_IxJ)


def _product(x_NxI, w_IxJ):
  # As one matrix, not a batch of them: in decoding a row has one column.
  y = jnp.dot(_rows(x_NxI), w_IxJ, preferred_element_type=jnp.float32).astype(x_NxI.dtype)
  return y.reshape(*x_NxI.shape[:-1], w_IxJ.shape[1])


def _transposed_product(a_NxI, b_NxJ):
  """a^T b, float32."""
  dimensions = (((0,), (0,)), ((), ()))
  a, b = _rows(a_NxI), _rows(b_NxJ)
  return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _matmul_forward(x_NxI, w_IxJ):
  return _product(x_NxI, w_IxJ), (x_NxI, w_IxJ)


def _matmul_backward(saved, dy_NxJ):
  x_NxI, w_IxJ = saved
  # The longer axis of the weight comes last: on CPU up to twice as fast as the other way round.
  if w_IxJ.shape[0] <= w_IxJ.shape[1]:
    dw_IxJ = _transposed_product(x_NxI, dy_NxJ).astype(w_IxJ.dtype)
  else:
    dw_JxI = _transposed_product(dy_NxJ, x_NxI).astype(w_IxJ.dtype)
    # Without the barrier XLA would merge the transpose into the product and undo the choice.
    dw_IxJ = jax.lax.optimization_barrier(dw_JxI).T
  return _product(dy_NxJ, w_IxJ.T), dw_IxJ


matmul.defvjp(_matmul_forward, _matmul_backward)


# Squared ReLU -------------------------------------------------------------------------------------


@jax.custom_vjp
def squared_relu(x: jax.Array) -> jax.Array:
  """max(x, 0)^2. The gradient is computed from the value, so x need not be kept."""
  return jnp.square(jax.nn.relu(x))


def _squared_relu_forward(x):
  y = squared_relu(x)
  return y, y


def _squared_relu_backward(y, dy):
  return (2.0 * jnp.sqrt(y) * dy,)


squared_relu.defvjp(_squared_relu_forward, _squared_relu_backward)


# Embedding ----------------------------------------------------------------------------------------


@jax.custom_vjp
def embedding(table_VxD: jax.Array, ids: jax.Array) -> jax.Array:
  """table[ids], for int32 ids of any shape."""
  return table_VxD[ids]


def _embedding_forward(table_VxD, ids):
  return table_VxD[ids], (table_VxD, ids)


def _embedding_backward(saved, dy):
  table_VxD, ids = saved
  # A product with one-hot rows, because a scatter adds one row after the other.
  chosen_NxV = jax.nn.one_hot(ids.reshape(-1), table_VxD.shape[0], dtype=dy.dtype)
  return jax.lax.dot_general(chosen_NxV, _rows(dy), (((0,), (0,)), ((), ()))), None


embedding.defvjp(_embedding_forward, _embedding_backward)


# Attention ----------------------------------------------------------------------------------------


def attention_bias(mask: jax.Array) -> jax.Array:
  """float32: 0 where the mask is true, -1e19 (larger than any score) elsewhere.

  It is computed as a square root because XLA does not repeat an expensive operation at each use.
  So XLA makes this array once for all blocks and heads. It would fuse a comparison into each of
  them, and compute it anew every time.
  """
  return -jnp.sqrt(jnp.where(mask, 0.0, 1e38))


def _attend(q_BxHxTxA, k_BxHxKxA, v_BxHxKxA, bias_BxTxK):
  """exp(scores), 1 / their sums, and the output; all float32.

  One over the sums, because the compiler may or may not turn divisions by them into it: then
  rounding would depend on the rest of the program, such as the number of devices.
  """
  scores_BxHxTxK = jnp.einsum(
    'bhta,bhka->bhtk', q_BxHxTxA, k_BxHxKxA, preferred_element_type=jnp.float32
  )
  scores_BxHxTxK += bias_BxTxK[:, None]
  exp_BxHxTxK = jnp.exp(scores_BxHxTxK - jnp.max(scores_BxHxTxK, axis=-1, keepdims=True))
  share_BxHxTx1 = 1.0 / jnp.sum(exp_BxHxTxK, axis=-1, keepdims=True)
  mixed_BxHxTxA = jnp.einsum(
    'bhtk,bhka->bhta',
    exp_BxHxTxK.astype(v_BxHxKxA.dtype),
    v_BxHxKxA,
    preferred_element_type=jnp.float32,
  )
  # Normalised after the product: A numbers a query, not K.
  return exp_BxHxTxK, share_BxHxTx1, mixed_BxHxTxA * share_BxHxTx1


@jax.custom_vjp
def attention(
  q_BxHxTxA: jax.Array, k_BxHxKxA: jax.Array, v_BxHxKxA: jax.Array, bias_BxTxK: jax.Array
) -> jax.Array:
  """softmax(q k^T + bias) v, as [B, H, T, A] in the dtype of v. The softmax is float32.

  Queries come scaled. `bias_BxTxK` is the float32 `attention_bias` of a mask, without a gradient.
  A query that may attend to no key gets the mean of all values; nothing may depend on it.
  """
  return _attend(q_BxHxTxA, k_BxHxKxA, v_BxHxKxA, bias_BxTxK)[2].astype(v_BxHxKxA.dtype)


def _attention_forward(q, k, v, bias):
  exp, share, out = _attend(q, k, v, bias)
  return out.astype(v.dtype), (q, k, v, exp, share, out)


def _attention_backward(saved, dout_BxHxTxA):
  """As in FlashAttention (Dao et al. 2022, arXiv 2205.14135). With p = exp * share:

  dv = p^T dout, dscores = p (dout v^T - sum(dout out)).
  """
  q, k, v, exp_BxHxTxK, share_BxHxTx1, out_BxHxTxA = saved

  def product(spec, a, b):
    return jnp.einsum(
      spec, a.astype(v.dtype), b.astype(v.dtype), preferred_element_type=jnp.float32
    )

  dv = product('bhtk,bhta->bhka', exp_BxHxTxK, dout_BxHxTxA * share_BxHxTx1)
  # Both terms of dscores take dout as it came in. If only one rounded it, they would not cancel in
  # bfloat16.
  mean_BxHxTx1 = jnp.sum(dout_BxHxTxA * out_BxHxTxA, axis=-1, keepdims=True)
  dp_BxHxTxK = product('bhta,bhka->bhtk', dout_BxHxTxA, v)
  dscores_BxHxTxK = exp_BxHxTxK * ((dp_BxHxTxK - mean_BxHxTx1) * share_BxHxTx1)
  dq = product('bhtk,bhka->bhta', dscores_BxHxTxK, k)
  dk = product('bhtk,bhta->bhka', dscores_BxHxTxK, q)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


attention.defvjp(_attention_forward, _attention_backward)


# Convolution --------------------------------------------------------------------------------------


def _shifts(x_NxD: jax.Array, n: int) -> list[jax.Array]:
  """x moved down by 0, 1, ... n - 1 rows; zeros come in at the top."""
  # All are views of one padded copy. The barrier makes XLA store that copy.
  padded = jax.lax.optimization_barrier(jnp.pad(x_NxD, ((n - 1, 0), (0, 0))))
  return [padded[n - 1 - o : n - 1 - o + x_NxD.shape[0]] for o in range(n)]


def _shifts_up(x_NxD: jax.Array, n: int) -> list[jax.Array]:
  """x moved up by 0, 1, ... n - 1 rows; zeros come in at the bottom."""
  return [moved[::-1] for moved in _shifts(x_NxD[::-1], n)]


def _convolve(x_BxTxD, kernel_OxD, near_BxTxO):
  near_NxO = _rows(near_BxTxO).astype(x_BxTxD.dtype)
  shifted = _shifts(_rows(x_BxTxD), kernel_OxD.shape[0])
  taps = sum(moved * near_NxO[:, o, None] * kernel_OxD[o] for o, moved in enumerate(shifted))
  return x_BxTxD + taps.reshape(x_BxTxD.shape)


@jax.custom_vjp
def causal_convolution(
  x_BxTxD: jax.Array, kernel_OxD: jax.Array, near_BxTxO: jax.Array
) -> jax.Array:
  """x[t] plus kernel[o] * x[t - o] for each tap o: depthwise, with a residual connection.

  `near_BxTxO` bool: whether column t reads the column o before it, which must be one of its row.
  """
  return _convolve(x_BxTxD, kernel_OxD, near_BxTxO)


def _convolution_forward(x_BxTxD, kernel_OxD, near_BxTxO):
  return _convolve(x_BxTxD, kernel_OxD, near_BxTxO), (x_BxTxD, kernel_OxD, near_BxTxO)


def _convolution_backward(saved, dy_BxTxD):
  x_BxTxD, kernel_OxD, near_BxTxO = saved
  n_taps = kernel_OxD.shape[0]
  near_NxO, dy_NxD = _rows(near_BxTxO).astype(dy_BxTxD.dtype), _rows(dy_BxTxD)
  shifted = _shifts(_rows(x_BxTxD), n_taps)
  dkernel_OxD = jnp.stack([near_NxO[:, o] @ (dy_NxD * moved) for o, moved in enumerate(shifted)])
  # Column t gets its gradient from the columns t + o that read it.
  readers = zip(_shifts_up(dy_NxD, n_taps), _shifts_up(near_NxO, n_taps))
  dx_NxD = dy_NxD + sum(
    dy * near[:, o, None] * kernel_OxD[o] for o, (dy, near) in enumerate(readers)
  )
  return dx_NxD.reshape(x_BxTxD.shape), dkernel_OxD.astype(kernel_OxD.dtype), None


causal_convolution.defvjp(_convolution_forward, _convolution_backward)


# Argmax -------------------------------------------------------------------------------------------


def argmax(x: jax.Array) -> jax.Array:
  """int32: index of the first maximum along the last axis; the last index where there is a NaN.

  It is made of two plain reductions, which XLA vectorises on CPU. `jnp.argmax` reduces pairs,
  which XLA does not vectorise.
  """
  n = x.shape[-1]
  is_largest = x >= jnp.max(x, axis=-1, keepdims=True)
  return jnp.min(jnp.where(is_largest, jnp.arange(n), n - 1), axis=-1).astype(jnp.int32)
