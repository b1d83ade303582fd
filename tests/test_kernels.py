"""Products, squared ReLU, embedding, attention and convolution: equal to the formulas they stand for, in values and in gradients.

The formulas are written out plainly here and differentiated by autodiff. Documents are numbers from 1 on, as in packed rows.
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


def assert_bfloat16_is_close(f, args, dy):
  """f in bfloat16 gives bfloat16, values and gradients, that differ from those in float32 by rounding, and do differ."""
  half = lambda tree: jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
  single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
  got = value_and_gradients(f, half(args), half(dy))
  want = value_and_gradients(f, single(half(args)), single(half(dy)))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == jnp.bfloat16 and b.dtype == jnp.float32
    difference = np.abs(a.astype(jnp.float32) - b)
    assert 0.0 < np.max(difference) < 1e-2 * np.max(np.abs(b))


# Matrix product -----------------------------------------------------------------------------------------------

# Weights wider than high, as high as wide, higher than wide; one column of a row (decoding), one row, one number.
PRODUCTS = [
    ((5, 3), (3, 7)), ((2, 3, 5), (5, 5)), ((3, 1, 7), (7, 3)), ((1, 1, 6), (6, 1)), ((4, 1), (1, 5)), ((3,), (3, 2)),
]  # fmt: skip


@pytest.mark.parametrize('shape_x,shape_w', PRODUCTS)
def test_matmul(shape_x, shape_w):
  """Catches a weight gradient transposed, or not transposed, in one of the two ways to compute it."""
  *args, dy = normal(shape_x, shape_w, (*shape_x[:-1], shape_w[1]))
  plain = lambda x, w: jnp.einsum('...i,io->...o', x, w)
  assert_close(value_and_gradients(kernels.matmul, args, dy), value_and_gradients(plain, args, dy))


@pytest.mark.parametrize('shape_w', [(5, 9), (9, 5)])
def test_matmul_in_bfloat16(shape_w):
  """Catches a product or a gradient in another dtype than its arguments."""
  *args, dy = normal((2, 7, shape_w[0]), shape_w, (2, 7, shape_w[1]))
  assert_bfloat16_is_close(kernels.matmul, args, dy)


# Squared ReLU -------------------------------------------------------------------------------------------------


def test_squared_relu():
  """Catches a gradient that is not 2 max(x, 0), or NaN at 0, where the square root has none."""
  (dy,) = normal((3, 5))
  x = jnp.concatenate([*normal((2, 5)), jnp.array([[0.0, -0.0, 1e-12, -1e-12, 1e9]])])
  plain = lambda x: jnp.where(x > 0, x, 0.0) ** 2
  assert_close(
    value_and_gradients(kernels.squared_relu, [x], dy), value_and_gradients(plain, [x], dy)
  )


def test_squared_relu_in_bfloat16():
  """Catches a value or a gradient in another dtype than its argument."""
  x, dy = normal((2, 7, 5), (2, 7, 5))
  assert_bfloat16_is_close(kernels.squared_relu, [x], dy)


# Embedding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(2, 5), (1,), (3, 1)])
def test_embedding(shape):
  """Catches a row that is not the id's, and a gradient that forgets an id that comes twice or touches a row that no id names."""
  table, dy = normal((7, 4), (*shape, 4))
  ids = np.random.default_rng(0).integers(0, 3, shape)
  plain = lambda table: jnp.einsum('...v,vd->...d', jax.nn.one_hot(ids, 7), table)
  got, (gradient,) = value_and_gradients(lambda table: kernels.embedding(table, ids), [table], dy)
  assert_close((got, (gradient,)), value_and_gradients(plain, [table], dy))
  assert np.all(gradient[3:] == 0.0)


def test_embedding_in_bfloat16():
  """Catches a gradient in another dtype than its table."""
  table, dy = normal((7, 4), (9, 4))
  ids = np.arange(9) % 4
  value, (gradient,) = value_and_gradients(
    lambda table: kernels.embedding(table, ids),
    [table.astype(jnp.bfloat16)],
    dy.astype(jnp.bfloat16),
  )
  assert value.dtype == gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(value, table.astype(jnp.bfloat16)[ids])


# Attention ----------------------------------------------------------------------------------------------------


def plain_attention(q, k, v, mask):
  scores = jnp.where(mask[:, None], jnp.einsum('bhtk,bhsk->bhts', q, k), -1e30)
  return jnp.einsum('bhts,bhsk->bhtk', jax.nn.softmax(scores), v)


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


# Masks [B, T, S], a bool each.
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
  """(q, k, v), mask and cotangent for two heads of width 3."""
  n_rows, n_queries, n_keys = mask.shape
  q_shape, k_shape = (n_rows, 2, n_queries, 3), (n_rows, 2, n_keys, 3)
  q, k, v, dy = normal(q_shape, k_shape, k_shape, q_shape, seed=seed)
  return [scale * q, k, v], dy


@pytest.mark.parametrize('name', MASKS)
def test_attention(name):
  """Catches columns that are seen though the mask hides them, or the other way round; a softmax along the wrong axis; a
  gradient that forgets the normaliser or goes to another row, head or column."""
  args, dy = attention_arguments(MASKS[name])
  got = value_and_gradients(
    lambda q, k, v: kernels.attention(q, k, v, kernels.barrier(MASKS[name])), args, dy
  )
  want = value_and_gradients(lambda q, k, v: plain_attention(q, k, v, MASKS[name]), args, dy)
  assert_close(got, want)


def test_attention_with_large_scores():
  """Catches an exp that overflows (scores are in the hundreds), and a barrier that scores climb over."""
  mask = MASKS['documents']
  args, dy = attention_arguments(mask, scale=100.0)
  got = value_and_gradients(
    lambda q, k, v: kernels.attention(q, k, v, kernels.barrier(mask)), args, dy
  )
  want = value_and_gradients(lambda q, k, v: plain_attention(q, k, v, mask), args, dy)
  assert_close(got, want, atol=1e-3)


def test_attention_keeps_documents_apart():
  """Catches the smallest leak: values, keys and cotangents of one document, however large, leave the bits of the other's
  output and gradients alone."""
  mask = documents([1, 1, 1, 2, 2, 2, 2])
  run = lambda args, dy: value_and_gradients(
    lambda q, k, v: kernels.attention(q, k, v, kernels.barrier(mask)), args, dy
  )
  args, dy = attention_arguments(mask)
  for own, other in ((slice(0, 3), slice(3, 7)), (slice(3, 7), slice(0, 3))):
    changed = jax.tree.map(lambda x: x.at[:, :, other].multiply(1e6), (args, dy))
    got, want = run(*changed), run(args, dy)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, :, own], b[:, :, own]), got, want)
    assert np.max(np.abs(got[0][:, :, other] - want[0][:, :, other])) > 0.1


def test_a_query_that_sees_nothing_is_harmless():
  """Catches 0 / 0 in it, and gradients that come from it though nothing depends on it: it gets the mean of all values."""
  mask = np.tile(causal(5, 5), (2, 1, 1))
  mask[0, :2] = mask[1, 3] = False
  args, dy = attention_arguments(mask)
  dy *= np.any(mask, axis=2)[:, None, :, None]
  got = value_and_gradients(
    lambda q, k, v: kernels.attention(q, k, v, kernels.barrier(mask)), args, dy
  )
  want = value_and_gradients(lambda q, k, v: plain_attention(q, k, v, mask), args, dy)
  assert_close(got, want)
  np.testing.assert_allclose(got[0][1, :, 3], jnp.mean(args[2][1], axis=1), atol=1e-6)


def test_attention_has_no_gradient_for_its_mask():
  """Catches a gradient of the barrier, which would be as large as the scores' and is no parameter's."""
  mask = MASKS['causal']
  args, dy = attention_arguments(mask)
  _, gradients = value_and_gradients(kernels.attention, [*args, kernels.barrier(mask)], dy)
  assert gradients[3].shape == mask.shape
  np.testing.assert_array_equal(gradients[3], 0.0)


def test_barrier():
  """Catches a barrier that is upside down, infinite (inf - inf is not a number), or not float32."""
  got = kernels.barrier(np.array([[True, False]]))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [[0.0, 1e19]], rtol=1e-6)


@pytest.mark.parametrize('name', ['documents', 'chunk'])
def test_attention_in_bfloat16(name):
  """Catches an output or a gradient in float32, and one that loses more digits than its arguments have lost."""
  args, dy = attention_arguments(MASKS[name])
  assert_bfloat16_is_close(
    lambda q, k, v: kernels.attention(q, k, v, kernels.barrier(MASKS[name])), args, dy
  )


def test_softmax_is_in_float32():
  """Catches scores in bfloat16: 200 and 199.25 would be a whole apart, and their weights 0.73 and 0.27."""
  half = lambda *rows: jnp.asarray([[rows]], jnp.bfloat16)
  got = kernels.attention(
    half([16, 0.75]), half([12.5, 0], [12.5, -1]), half([1, 0], [0, 1]), jnp.zeros((1, 1, 2))
  )
  first = 1 / (1 + np.exp(-0.75))
  np.testing.assert_allclose(got[0, 0, 0].astype(jnp.float32), [first, 1 - first], atol=5e-3)


# Convolution --------------------------------------------------------------------------------------------------


def plain_convolution(x, kernel, near):
  """Column by column: what `causal_convolution` says that it is."""
  columns = []
  for t in range(x.shape[1]):
    taps = [
      jnp.where(near[:, t, b, None], kernel[b] * x[:, t - b], 0.0)
      for b in range(min(t + 1, len(kernel)))
    ]
    columns.append(x[:, t] + sum(taps))
  return jnp.stack(columns, axis=1)


def near_in_documents(*rows, n_taps):
  number = np.array(rows)
  before = [np.pad(number, ((0, 0), (b, 0)))[:, : number.shape[1]] for b in range(n_taps)]
  return np.stack([(number == other) & (other > 0) for other in before], axis=2)


def near_at_random(n_rows, n_columns, n_taps):
  near = np.random.default_rng(3).random((n_rows, n_columns, n_taps)) < 0.5
  return near & (np.arange(n_taps) <= np.arange(n_columns)[:, None])


# Masks [B, T, C].
NEAR = {
  'rows': near_in_documents([1] * 6, [1] * 6, [1] * 6, n_taps=4),
  'documents': near_in_documents(
    [1, 1, 1, 2, 2, 3, 4, 4, 4], [5, 6, 6, 6, 6, 6, 0, 0, 0], n_taps=4
  ),
  'at_random': near_at_random(3, 7, 3),
  'one_tap': near_in_documents([1, 1, 1], [0, 2, 2], n_taps=1),
  'more_taps_than_columns': near_in_documents([1, 1], [1, 1], [1, 2], n_taps=5),
}


def convolution_arguments(near, n_features=3):
  n_rows, n_columns, n_taps = near.shape
  shape = (n_rows, n_columns, n_features)
  *args, dy = normal(shape, (n_taps, n_features), shape)
  return args, dy


@pytest.mark.parametrize('name', NEAR)
def test_convolution(name):
  """Catches taps in the reverse order, one too many or too few, a column taken from the row before, a mask that moves along
  with the input, and a gradient that flows the same way as the input."""
  args, dy = convolution_arguments(NEAR[name])
  got = value_and_gradients(
    lambda x, kernel: kernels.causal_convolution(x, kernel, NEAR[name]), args, dy
  )
  want = value_and_gradients(lambda x, kernel: plain_convolution(x, kernel, NEAR[name]), args, dy)
  assert_close(got, want)


def test_convolution_keeps_rows_apart():
  """Catches a row that sees the end of the row before, in values or gradients: the middle row is the same bits with any
  neighbours."""
  near = NEAR['rows']
  run = lambda args, dy: value_and_gradients(
    lambda x, kernel: kernels.causal_convolution(x, kernel, near), args, dy
  )
  (x, kernel), dy = convolution_arguments(near)
  others = np.array([1e6, 1.0, 1e6], np.float32)[:, None, None]
  (got, (got_dx, _)), (want, (want_dx, _)) = (
    run([x * others, kernel], dy * others),
    run([x, kernel], dy),
  )
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_array_equal(got_dx[1], want_dx[1])


def test_convolution_in_bfloat16():
  """Catches an output or a gradient in float32."""
  args, dy = convolution_arguments(NEAR['documents'])
  assert_bfloat16_is_close(
    lambda x, kernel: kernels.causal_convolution(x, kernel, NEAR['documents']), args, dy
  )


# All of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('which', ['matmul', 'attention', 'convolution'])
def test_side_by_side_is_one_after_the_other(which):
  """Catches a rule that mixes up axes when several copies (seeds) run in one program."""
  if which == 'matmul':
    f, shapes, dy_shape = kernels.matmul, [(2, 3, 5), (5, 4)], (2, 3, 4)
  elif which == 'attention':
    barrier = kernels.barrier(MASKS['causal'])
    f, shapes, dy_shape = (
      lambda q, k, v: kernels.attention(q, k, v, barrier),
      [(3, 2, 7, 3)] * 3,
      (3, 2, 7, 3),
    )
  else:
    near = NEAR['documents']
    f, shapes, dy_shape = (
      lambda x, kernel: kernels.causal_convolution(x, kernel, near),
      [(2, 9, 3), (4, 3)],
      (2, 9, 3),
    )
  copies = [normal(*shapes, dy_shape, seed=seed) for seed in range(3)]

  def run(*args):
    y, pull = jax.vjp(f, *args[:-1])
    return y, pull(args[-1])

  want = jax.tree.map(lambda *xs: jnp.stack(xs), *[quick_jit(run)(*copy) for copy in copies])
  got = quick_jit(jax.vmap(run))(*(jnp.stack(xs) for xs in zip(*copies)))
  assert_close(got, want)


# Argmax -------------------------------------------------------------------------------------------------------


def test_argmax():
  """Catches another entry than the first of equals, and an index beyond the last where nothing compares."""
  x = np.array([[[1.0, 3.0, 3.0], [-2.0, -5.0, -3.0]], [[0.0, 0.0, 0.0], [-np.inf, -np.inf, 1.0]]])
  got = kernels.argmax(jnp.asarray(x))
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, np.argmax(x, axis=-1))
  assert kernels.argmax(jnp.asarray([np.nan, 1.0])) == 1
