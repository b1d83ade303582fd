"""Kernels equal the formulas they stand for, in values and in gradients.

The formulas are written out plainly here and differentiated by JAX. Documents are numbers from 1
on, as in packed rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.model import kernels
from tests.models import quick_jit


def normal(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def value_and_gradients(f, args, dy):
  """f(*args), and the gradients of sum(f(*args) * dy) with respect to each of `args`."""

  @quick_jit
  def run(args, dy):
    y, pull = jax.vjp(f, *args)
    return y, pull(dy)

  return run(args, dy)


def assert_close(got, want, atol=1e-5, rtol=1e-5):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a, b, atol=atol, rtol=rtol)


def cast(tree, dtype):
  return jax.tree.map(lambda x: x.astype(dtype), tree)


def assert_bfloat16_is_close(f, args, dy):
  """f in bfloat16 gives bfloat16 values and gradients, which differ from float32 by rounding."""
  args, dy = cast((args, dy), jnp.bfloat16)
  got = value_and_gradients(f, args, dy)
  want = value_and_gradients(f, cast(args, jnp.float32), cast(dy, jnp.float32))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == jnp.bfloat16 and b.dtype == jnp.float32
    difference = np.abs(a.astype(jnp.float32) - b)
    assert 0.0 < np.max(difference) < 1e-2 * np.max(np.abs(b))


# Matrix product -----------------------------------------------------------------------------------

PRODUCTS = {
  'wide': ((5, 3), (3, 7)),
  'square': ((2, 3, 5), (5, 5)),
  'high_and_one_column': ((3, 1, 7), (7, 3)),
  'one_output': ((1, 1, 6), (6, 1)),
  'one_input': ((4, 1), (1, 5)),
  'one_row': ((3,), (3, 2)),
  'many_axes': ((2, 1, 3, 4), (4, 5)),
}


@pytest.mark.parametrize('name', PRODUCTS)
def test_matmul(name):
  """Catches a weight gradient that is transposed in the wrong one of the two ways to compute it."""
  shape_x, shape_w = PRODUCTS[name]
  *args, dy = normal(shape_x, shape_w, (*shape_x[:-1], shape_w[1]))

  def plain(x, w):
    return jnp.einsum('...i,ij->...j', x, w)

  assert_close(value_and_gradients(kernels.matmul, args, dy), value_and_gradients(plain, args, dy))


@pytest.mark.parametrize('shape_w', [(5, 9), (9, 5)])
def test_matmul_in_bfloat16(shape_w):
  """Catches a product or a gradient in another dtype than its arguments."""
  *args, dy = normal((2, 7, shape_w[0]), shape_w, (2, 7, shape_w[1]))
  assert_bfloat16_is_close(kernels.matmul, args, dy)


# Squared ReLU -------------------------------------------------------------------------------------


def test_squared_relu():
  """Catches a gradient that is not 2 max(x, 0), or NaN at 0, where the square root has none."""
  (dy,) = normal((3, 5))
  x = jnp.concatenate([*normal((2, 5)), jnp.array([[0.0, -0.0, 1e-12, -1e-12, 1e9]])])

  def plain(x):
    return jnp.where(x > 0, x, 0.0) ** 2

  got = value_and_gradients(kernels.squared_relu, [x], dy)
  assert_close(got, value_and_gradients(plain, [x], dy))


def test_squared_relu_in_bfloat16():
  """Catches a value or a gradient in another dtype than its argument."""
  x, dy = normal((2, 7, 5), (2, 7, 5))
  assert_bfloat16_is_close(kernels.squared_relu, [x], dy)


# Embedding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(2, 5), (1,), (3, 1)])
def test_embedding(shape):
  """Catches the row of another id, and a gradient that forgets an id's second use.

  Also catches a gradient in a row that no id names.
  """
  table, dy = normal((7, 4), (*shape, 4))
  ids = np.random.default_rng(0).integers(0, 3, shape)

  def plain(table):
    return jnp.einsum('...v,vd->...d', jax.nn.one_hot(ids, 7), table)

  got, (gradient,) = value_and_gradients(lambda table: kernels.embedding(table, ids), [table], dy)
  assert_close((got, (gradient,)), value_and_gradients(plain, [table], dy))
  assert np.all(gradient[3:] == 0.0)


def test_embedding_in_bfloat16():
  """Catches a gradient in another dtype than its table."""
  table, dy = normal((7, 4), (9, 4))
  ids = np.arange(9) % 4
  table, dy = cast((table, dy), jnp.bfloat16)
  value, (gradient,) = value_and_gradients(lambda t: kernels.embedding(t, ids), [table], dy)
  assert value.dtype == gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(value, table[ids])


# Attention ----------------------------------------------------------------------------------------


def attention_under(mask):
  """The kernel as a function of (q, k, v)."""
  return lambda q, k, v: kernels.attention(q, k, v, kernels.attention_bias(mask))


def plain_attention_under(mask):
  def plain(q, k, v):
    scores = jnp.where(mask[:, None], jnp.einsum('bhta,bhka->bhtk', q, k), -1e30)
    return jnp.einsum('bhtk,bhka->bhta', jax.nn.softmax(scores), v)

  return plain


def causal(n_queries, n_keys):
  """The queries are the last columns of the keys."""
  return np.arange(n_keys) <= (n_keys - n_queries + np.arange(n_queries))[:, None]


def documents(*rows):
  number = np.array(rows)
  return (number[:, :, None] == number[:, None, :]) & causal(number.shape[1], number.shape[1])


def at_random(n_rows, n_queries, n_keys):
  mask = np.random.default_rng(7).random((n_rows, n_queries, n_keys)) < 0.4
  mask[:, np.arange(n_queries), np.arange(n_queries)] = True
  return mask


# bool[B, T, K] each.
MASKS = {
  'all': np.ones((2, 3, 5), bool),
  'causal': np.tile(causal(7, 7), (3, 1, 1)),
  'chunk': np.tile(causal(3, 8), (2, 1, 1)),
  'one_query': np.tile(causal(1, 5), (3, 1, 1)),
  'one_key': np.ones((1, 1, 1), bool),
  'documents': documents([1, 1, 1, 2, 2, 3, 3, 3, 3], [4, 4, 4, 4, 4, 4, 4, 5, 6]),
  'at_random': at_random(3, 5, 9),
}


def attention_arguments(mask, scale=1.0, seed=0):
  """[q, k, v] and a cotangent, for two heads of width 3."""
  n_rows, n_queries, n_keys = mask.shape
  q_shape, k_shape = (n_rows, 2, n_queries, 3), (n_rows, 2, n_keys, 3)
  q, k, v, dy = normal(q_shape, k_shape, k_shape, q_shape, seed=seed)
  return [scale * q, k, v], dy


@pytest.mark.parametrize('name', MASKS)
def test_attention(name):
  """Catches a column that is seen though the mask hides it, or hidden though it is seen.

  Also catches a softmax along the wrong axis, and a gradient that forgets the normaliser or goes to
  another row, head or column.
  """
  args, dy = attention_arguments(MASKS[name])
  got = value_and_gradients(attention_under(MASKS[name]), args, dy)
  assert_close(got, value_and_gradients(plain_attention_under(MASKS[name]), args, dy))


def test_attention_with_large_scores():
  """Catches an exp that overflows, and a bias that large scores outweigh (they are hundreds)."""
  mask = MASKS['documents']
  args, dy = attention_arguments(mask, scale=100.0)
  got = value_and_gradients(attention_under(mask), args, dy)
  assert_close(got, value_and_gradients(plain_attention_under(mask), args, dy), atol=1e-3)


def test_attention_keeps_documents_apart():
  """Catches the smallest leak between documents.

  Values, keys and cotangents of one document, however large, leave the bits of the other's output
  and gradients alone.
  """
  f = attention_under(documents([1, 1, 1, 2, 2, 2, 2]))
  args, dy = attention_arguments(np.ones((1, 7, 7), bool))
  want = value_and_gradients(f, args, dy)
  for own, other in ((slice(0, 3), slice(3, 7)), (slice(3, 7), slice(0, 3))):
    changed = jax.tree.map(lambda x: x.at[:, :, other].multiply(1e6), (args, dy))
    got = value_and_gradients(f, *changed)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
      np.testing.assert_array_equal(a[:, :, own], b[:, :, own])
    assert np.max(np.abs(got[0][:, :, other] - want[0][:, :, other])) > 0.1


def test_a_query_that_sees_nothing_is_harmless():
  """Catches 0 / 0 in such a query, and gradients from it though nothing depends on it.

  It gets the mean of all values.
  """
  mask = np.tile(causal(5, 5), (2, 1, 1))
  mask[0, :2] = mask[1, 3] = False
  args, dy = attention_arguments(mask)
  dy *= np.any(mask, axis=2)[:, None, :, None]
  got = value_and_gradients(attention_under(mask), args, dy)
  assert_close(got, value_and_gradients(plain_attention_under(mask), args, dy))
  np.testing.assert_allclose(got[0][1, :, 3], jnp.mean(args[2][1], axis=1), atol=1e-6)


def test_attention_has_no_gradient_for_its_bias():
  """Catches a gradient of the bias: it would be as large as that of the scores, for nothing."""
  mask = MASKS['causal']
  args, dy = attention_arguments(mask)
  _, gradients = value_and_gradients(kernels.attention, [*args, kernels.attention_bias(mask)], dy)
  assert gradients[3].shape == mask.shape
  np.testing.assert_array_equal(gradients[3], 0.0)


def test_attention_bias():
  """Catches a bias of the wrong sign, infinite (inf - inf is not a number), or not float32."""
  got = kernels.attention_bias(np.array([[True, False]]))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [[0.0, -1e19]], rtol=1e-6)


@pytest.mark.parametrize('name', ['documents', 'chunk'])
def test_attention_in_bfloat16(name):
  """Catches an output or a gradient in float32, or with fewer digits than its arguments have."""
  args, dy = attention_arguments(MASKS[name])
  assert_bfloat16_is_close(attention_under(MASKS[name]), args, dy)


def test_softmax_is_in_float32():
  """Catches scores in bfloat16: 200 and 199.25 would be 1 apart, with weights 0.73 and 0.27."""
  q, k, v = [[16, 0.75]], [[12.5, 0], [12.5, -1]], [[1, 0], [0, 1]]
  args = [jnp.asarray([[x]], jnp.bfloat16) for x in (q, k, v)]
  got = kernels.attention(*args, jnp.zeros((1, 1, 2)))
  first = 1 / (1 + np.exp(-0.75))
  np.testing.assert_allclose(got[0, 0, 0].astype(jnp.float32), [first, 1 - first], atol=5e-3)


# Convolution --------------------------------------------------------------------------------------


def plain_convolution(x, kernel, near):
  """`causal_convolution` column by column, as its docstring says it."""
  columns = []
  for t in range(x.shape[1]):
    taps = [
      jnp.where(near[:, t, o, None], kernel[o] * x[:, t - o], 0.0)
      for o in range(min(t + 1, len(kernel)))
    ]
    columns.append(x[:, t] + sum(taps))
  return jnp.stack(columns, axis=1)


def near_in_documents(*rows, n_taps):
  number = np.array(rows)
  before = [np.pad(number, ((0, 0), (o, 0)))[:, : number.shape[1]] for o in range(n_taps)]
  return np.stack([(number == other) & (other > 0) for other in before], axis=2)


def near_at_random(n_rows, n_columns, n_taps):
  near = np.random.default_rng(3).random((n_rows, n_columns, n_taps)) < 0.5
  return near & (np.arange(n_taps) <= np.arange(n_columns)[:, None])


# bool[B, T, O] each.
NEAR = {
  'rows': near_in_documents([1] * 6, [1] * 6, [1] * 6, n_taps=4),
  'documents': near_in_documents(
    [1, 1, 1, 2, 2, 3, 4, 4, 4], [5, 6, 6, 6, 6, 6, 0, 0, 0], n_taps=4
  ),
  'at_random': near_at_random(3, 7, 3),
  'one_tap': near_in_documents([1, 1, 1], [0, 2, 2], n_taps=1),
  'more_taps_than_columns': near_in_documents([1, 1], [1, 1], [1, 2], n_taps=5),
}


def convolution_under(near):
  """The kernel as a function of (x, kernel)."""
  return lambda x, kernel: kernels.causal_convolution(x, kernel, near)


def convolution_arguments(near, width=3):
  """[x, kernel] and a cotangent."""
  n_rows, n_columns, n_taps = near.shape
  shape = (n_rows, n_columns, width)
  *args, dy = normal(shape, (n_taps, width), shape)
  return args, dy


@pytest.mark.parametrize('name', NEAR)
def test_convolution(name):
  """Catches taps in the reverse order, one too many or too few, and a tap of the row before.

  Also catches a mask that moves along with the input, and a gradient that flows the same way as the
  input.
  """
  args, dy = convolution_arguments(NEAR[name])
  got = value_and_gradients(convolution_under(NEAR[name]), args, dy)
  want = value_and_gradients(lambda x, kernel: plain_convolution(x, kernel, NEAR[name]), args, dy)
  assert_close(got, want)


def test_convolution_keeps_rows_apart():
  """Catches a row that sees the end of the row before, in values or gradients.

  The middle row is the same bits with any neighbours.
  """
  f = convolution_under(NEAR['rows'])
  (x, kernel), dy = convolution_arguments(NEAR['rows'])
  others = np.array([1e6, 1.0, 1e6], np.float32)[:, None, None]
  got, (got_dx, _) = value_and_gradients(f, [x * others, kernel], dy * others)
  want, (want_dx, _) = value_and_gradients(f, [x, kernel], dy)
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_array_equal(got_dx[1], want_dx[1])


def test_convolution_in_bfloat16():
  """Catches an output or a gradient in float32."""
  args, dy = convolution_arguments(NEAR['documents'])
  assert_bfloat16_is_close(convolution_under(NEAR['documents']), args, dy)


# All of them --------------------------------------------------------------------------------------


# Each kernel with the shapes of its arguments and of its result.
KERNELS = {
  'matmul': (kernels.matmul, [(2, 3, 5), (5, 4)], (2, 3, 4)),
  'attention': (attention_under(MASKS['causal']), [(3, 2, 7, 3)] * 3, (3, 2, 7, 3)),
  'convolution': (convolution_under(NEAR['documents']), [(2, 9, 3), (4, 3)], (2, 9, 3)),
}


@pytest.mark.parametrize('name', KERNELS)
def test_side_by_side_is_one_after_the_other(name):
  """Catches a rule that mixes up axes when several copies (seeds) run in one program."""
  f, shapes, dy_shape = KERNELS[name]
  copies = [normal(*shapes, dy_shape, seed=seed) for seed in range(3)]

  def run(*args):
    y, pull = jax.vjp(f, *args[:-1])
    return y, pull(args[-1])

  want = jax.tree.map(lambda *xs: jnp.stack(xs), *[quick_jit(run)(*copy) for copy in copies])
  got = quick_jit(jax.vmap(run))(*(jnp.stack(xs) for xs in zip(*copies)))
  assert_close(got, want)


# Argmax -------------------------------------------------------------------------------------------


def test_argmax():
  """Catches another entry than the first of equals, and an index out of range at a NaN."""
  x = np.array([[[1.0, 3.0, 3.0], [-2.0, -5.0, -3.0]], [[0.0, 0.0, 0.0], [-np.inf, -np.inf, 1.0]]])
  got = kernels.argmax(jnp.asarray(x))
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, np.argmax(x, axis=-1))
  assert kernels.argmax(jnp.asarray([np.nan, 1.0])) == 1


# Integer division ---------------------------------------------------------------------------------


def test_ceil_div():
  """Catches rounding down, and rounding up where the division leaves no remainder."""
  assert [kernels.ceil_div(a, 4) for a in (0, 1, 4, 5)] == [0, 1, 1, 2]
  np.testing.assert_array_equal(kernels.ceil_div(jnp.array([0, 1, 4, 5]), 4), [0, 1, 1, 2])
