"""The transformer: causal, blind to padding and absolute position, the same with its cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.model import transformer
from compgen_jax.model.modules import POSITIONS
from tests import models
from tests.models import N_CONTENT, N_INDICES, PAD, VOCAB, quick_jit

# Every kind of position with and without the convolution, tied and untied.
KINDS = [
  dict(positions='segment', conv_width=4, tied=True),
  dict(positions='segment', conv_width=0, tied=False),
  dict(positions='segment', conv_width=4, tied=True, address_markers=3),
  dict(positions='segment', conv_width=4, tied=True, address_markers=3, repeats=2),
  dict(positions='rope', conv_width=4, tied=False),
  dict(positions='rope', conv_width=0, tied=True),
  dict(positions='none', conv_width=4, tied=True),
  dict(positions='none', conv_width=0, tied=False),
]
of_every_kind = pytest.mark.parametrize(
  'kind', KINDS, ids=lambda kind: '-'.join(map(str, kind.values()))
)

# All calls of `apply` have this shape, so that it is compiled once per model.
ROWS, COLUMNS = 8, 16


@functools.cache
def _apply(m):
  return quick_jit(m.apply)


def logits_of(m, tokens) -> np.ndarray:
  assert tokens.shape == (ROWS, COLUMNS)
  return np.asarray(_apply(m)(models.params(m), tokens))


@functools.cache
def _cached(m, n_prompt, capacity):
  @quick_jit
  def run(params, tokens):
    first, cache = m.prefill(params, tokens[:, :n_prompt], capacity)

    def step(cache, token_B):
      logits, cache = m.decode_step(params, cache, token_B)
      return cache, logits

    _, rest = jax.lax.scan(step, cache, tokens[:, n_prompt:].T)
    return jnp.concatenate([first[:, None], jnp.swapaxes(rest, 0, 1)], axis=1)

  return run


def mixed_rows() -> np.ndarray:
  """Rows whose prompts (the first half) have 1 to 8 tokens; padding among later tokens too."""
  tokens = models.random_tokens(ROWS, COLUMNS)
  tokens[:, : COLUMNS // 2] = models.pad_left(tokens[:, : COLUMNS // 2], 1 + np.arange(ROWS))
  tokens[2, 11] = tokens[3, 9:12] = tokens[4, 12:] = PAD
  return tokens


# Causality ----------------------------------------------------------------------------------------


@of_every_kind
def test_causal_by_gradient(kind):
  """Catches a mask, convolution or address that looks ahead, or does not look back far enough.

  The gradient of column t's logits is exactly zero for the input of later columns, and not zero for
  any other.
  """
  m = models.model(**kind | dict(tied=False))
  params = models.params(m)
  # All different, so that a row of the embedding table is the input of one column.
  tokens = np.array([3, 6, 0, 7, 2, 5, 8, 1, 9, 4], np.int32)
  table = params['ends']['token']
  probe = np.random.default_rng(0).standard_normal(VOCAB).astype(np.float32)

  @quick_jit
  def gradients(table):
    def probed(table):
      ends = params['ends'] | {'token': table}
      return m.apply(params | {'ends': ends}, tokens[None])[0] @ probe

    return jax.jacrev(probed)(table)

  size = np.linalg.norm(np.asarray(gradients(table)), axis=-1)[:, tokens]
  later = np.triu(np.ones_like(size, bool), 1)
  assert np.all(size[later] == 0.0)
  assert np.all(size[~later] > 1e-5)


@of_every_kind
def test_causal_by_perturbation(kind):
  """Catches a way to see the future that carries no gradient, such as an address.

  Another token in column c leaves the bits of all earlier logits alone and changes all logits from
  c on.
  """
  m = models.model(**kind)
  tokens = np.tile(models.random_tokens(1, COLUMNS), (ROWS, 1))
  tokens[:, 0] = N_CONTENT
  changed_at = np.array([COLUMNS, 0, 2, 5, 7, 9, 12, 15])
  for row, column in enumerate(changed_at[1:], 1):
    tokens[row, column] = (tokens[0, column] + 1 + N_CONTENT) % PAD
  got = logits_of(m, tokens)
  for row, column in enumerate(changed_at[1:], 1):
    np.testing.assert_array_equal(got[row, :column], got[0, :column])
    assert np.all(np.max(np.abs(got[row, column:] - got[0, column:]), axis=-1) > 1e-5)


# Padding and position -----------------------------------------------------------------------------


@of_every_kind
def test_padding_on_the_left_is_invisible(kind):
  """Catches padding that attention, convolution or addresses see, and any use of absolute columns.

  The same tokens further to the right give the same logits.
  """
  m = models.model(**kind)
  n = COLUMNS - ROWS + 1
  content = models.random_tokens(1, n, seed=1)[0]
  content[0] = N_CONTENT  # as every prompt, it starts with a marker
  tokens = np.full((ROWS, COLUMNS), PAD, np.int32)
  for row in range(ROWS):
    tokens[row, row : row + n] = content
  got = logits_of(m, tokens)
  for row in range(1, ROWS):
    np.testing.assert_allclose(got[row, row : row + n], got[0, :n], atol=1e-5)
  assert np.max(np.abs(got[0, 1:n] - got[0, : n - 1])) > 0.1  # not because all columns are alike


@of_every_kind
def test_order_matters(kind):
  """Catches a convolution or positions that are not connected.

  In one block the causal mask alone says nothing of the order of earlier letters. So two of them
  swapped change the last logits if and only if something else tells their order.
  """
  m = models.model(**kind, n_layers=1)
  tokens = np.tile(models.random_tokens(1, COLUMNS, seed=2), (ROWS, 1))
  tokens[:, :4] = 7, 0, 1, 8
  tokens[1, 1:3] = 1, 0
  got = logits_of(m, tokens)
  told = kind['positions'] != 'none' or kind['conv_width'] > 0
  assert (np.max(np.abs(got[1, -1] - got[0, -1])) > 1e-4) == told


def test_addresses():
  """Catches an index off by one or without its limit, and a marker that is not the last one."""
  m = models.model()
  tokens = jnp.asarray([[6, 0, 1, 7, 8, 2, 3, 4], [PAD, PAD, 9, 5, 5, 5, 5, 5]])
  markers, indices = m.addresses(tokens)
  assert markers[..., 0].tolist() == [[6, 6, 6, 7, 8, 8, 8, 8], [PAD, PAD, 9, 9, 9, 9, 9, 9]]
  assert indices.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3], [0, 0, 0, 1, 2, 3, 4, N_INDICES - 1]]


def test_addresses_in_packed_rows():
  """Catches a marker, or an index, that comes from the document before."""
  tokens = jnp.asarray([[6, 0, 1, 2, 7, 3, PAD, PAD]])
  document = jnp.asarray([[1, 1, 2, 2, 2, 2, 0, 0]])
  markers, indices = models.model().addresses(tokens, document)
  assert markers[..., 0].tolist() == [[6, 6, PAD, PAD, 7, 7, PAD, PAD]]
  assert indices.tolist() == [[0, 1, 1, 2, 0, 1, 0, 0]]


def addresses_in_plain_python(tokens, document, n):
  """The last n markers (`pad` before the document's start) and the index, column by column."""
  out = []
  for t, owner in enumerate(document):
    start = t
    while start > 0 and document[start - 1] == owner:
      start -= 1
    at = [c for c in range(start, t + 1) if tokens[c] >= N_CONTENT]
    markers = [int(tokens[c]) for c in reversed(at)] + [PAD] * n
    index = t - at[-1] if at else t - start + 1
    out.append((markers[:n], min(index, N_INDICES - 1)))
  return out


@pytest.mark.parametrize('n', [1, 2, 3])
def test_addresses_equal_plain_python(n):
  """Catches a marker of another rank or of another document, and a start that is not `pad`."""
  tokens = models.random_tokens(ROWS, 24, seed=3)
  document = np.sort(np.random.default_rng(0).integers(1, 4, size=tokens.shape), axis=1)
  addresses = models.model(address_markers=n).addresses
  markers, indices = addresses(jnp.asarray(tokens), jnp.asarray(document))
  for row in range(ROWS):
    want = addresses_in_plain_python(tokens[row], document[row], n)
    assert markers[row].tolist() == [found for found, _ in want]
    assert indices[row].tolist() == [index for _, index in want]


@pytest.mark.parametrize('n', [1, 3])
def test_addresses_go_on_through_a_cache(n):
  """Catches addresses that start anew in decoding: in pieces of any size they are the whole's."""
  m = models.model(address_markers=n)
  tokens = jnp.asarray(
    [[6, 0, 1, 7, 8, 2, 3, 4, 4, 4, 4, 4, 9, 1], [6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 0]]
  )
  whole_markers, whole_indices = m.addresses(tokens)
  for cuts in ([7], [3, 4, 12], list(range(1, 14))):
    markers, indices, last = [], [], None
    for piece in jnp.split(tokens, cuts, axis=1):
      piece_markers, piece_indices = m.addresses(piece, last=last)
      last = piece_markers[:, -1], piece_indices[:, -1]
      markers.append(piece_markers)
      indices.append(piece_indices)
    np.testing.assert_array_equal(jnp.concatenate(markers, axis=1), whole_markers)
    np.testing.assert_array_equal(jnp.concatenate(indices, axis=1), whole_indices)


def test_every_marker_has_a_table_of_its_own():
  """Catches tables that are shared or not read, and parameters that one marker does not need."""
  m = models.model(address_markers=3)
  params = models.params(m)
  one = models.params(models.model(address_markers=1))['ends']
  assert set(params['ends']) - set(one) == {'marker_1', 'marker_2'}
  tokens = jnp.asarray([[6, 7, 8, 0, 9]])

  def loss(ends):
    return jnp.sum(m.apply(params | {'ends': ends}, tokens)[0, 3, :PAD] ** 2)

  gradient = jax.grad(loss)(params['ends'])
  read = [
    np.flatnonzero(np.any(np.asarray(gradient[f'marker_{i}']) != 0, axis=1)).tolist()
    for i in range(3)
  ]
  assert read == [[6, 7, 8], [6, 7, PAD], [6, PAD]]


def test_padding_is_no_token():
  """Catches a probability of padding: with or without a cache, tied or not."""
  for kind in KINDS[:2]:
    m, tokens = models.model(**kind), mixed_rows()
    for logits in (logits_of(m, tokens), _cached(m, 8, COLUMNS)(models.params(m), tokens)):
      assert np.all(np.exp(jax.nn.log_softmax(logits))[..., PAD] == 0.0)
      assert np.all(np.isfinite(logits)) and np.all(logits[..., :PAD] > -1e3)


# The cache ----------------------------------------------------------------------------------------


@of_every_kind
def test_cached_logits_equal_uncached(kind):
  """Catches everything that decoding can get wrong, at every column, for prompts of any length.

  That is: the column it writes, the mask, the convolution's tail, addresses and rotations after the
  prompt, and padding in the cache.
  """
  m = models.model(**kind)
  tokens, n_prompt = mixed_rows(), COLUMNS // 2
  got = _cached(m, n_prompt, COLUMNS)(models.params(m), tokens)
  np.testing.assert_allclose(got, logits_of(m, tokens)[:, n_prompt - 1 :], atol=1e-4)


def test_cached_logits_equal_uncached_with_one_tap():
  """Catches a convolution whose tail is empty, and which then reads nothing in decoding."""
  m = models.model(conv_width=1)
  tokens, n_prompt = mixed_rows(), COLUMNS // 2
  got = _cached(m, n_prompt, COLUMNS)(models.params(m), tokens)
  np.testing.assert_allclose(got, logits_of(m, tokens)[:, n_prompt - 1 :], atol=1e-4)


def test_cache_with_more_room_than_needed():
  """Catches logits that depend on the columns of the cache that nothing has been written to."""
  m = models.model(**KINDS[0])
  tokens, n_prompt = mixed_rows(), COLUMNS // 2
  got = _cached(m, n_prompt, COLUMNS + 5)(models.params(m), tokens)
  np.testing.assert_allclose(got, logits_of(m, tokens)[:, n_prompt - 1 :], atol=1e-4)


@pytest.mark.parametrize('positions', POSITIONS)
def test_cached_logits_equal_uncached_in_bfloat16(positions):
  """Catches a cache that rounds where the uncached path does not (or the other way round)."""
  m = models.model(positions=positions, dtype='bfloat16')
  tokens, n_prompt = mixed_rows(), COLUMNS // 2
  got = _cached(m, n_prompt, COLUMNS)(models.params(m), tokens)
  np.testing.assert_allclose(got, logits_of(m, tokens)[:, n_prompt - 1 :], atol=3e-2)


# Ways to compute the same thing -------------------------------------------------------------------


def test_start_gives_the_tail():
  """Catches an off-by-one of `start`, which would shift every label by one column."""
  m = models.model(**KINDS[0])
  tokens = mixed_rows()
  got = quick_jit(lambda p, t: m.apply(p, t, start=5))(models.params(m), tokens)
  assert got.shape == (ROWS, COLUMNS - 5, VOCAB)
  np.testing.assert_allclose(got, logits_of(m, tokens)[:, 5:], atol=1e-5)


@functools.cache
def _value_and_gradient(remat, scan_layers):
  m = models.model(remat=remat, scan_layers=scan_layers, n_layers=3)
  tokens = mixed_rows()

  def loss(params):
    return -jnp.mean(jax.nn.log_softmax(m.apply(params, tokens))[..., 3])

  program = str(jax.make_jaxpr(jax.grad(loss))(models.params(m)))
  return quick_jit(jax.value_and_grad(loss))(models.params(models.model(n_layers=3))), program


@pytest.mark.parametrize('remat,scan_layers', [(True, False), (False, True), (True, True)])
def test_remat_and_scan_change_nothing(remat, scan_layers):
  """Catches blocks in another order under `scan_layers`, and values that recomputation changes.

  Also catches flags that nothing reads: the programs must differ as the flags say.
  """
  (value, gradient), program = _value_and_gradient(remat, scan_layers)
  (plain_value, plain_gradient), plain_program = _value_and_gradient(False, False)
  assert ('remat' in program, 'scan[' in program) == (remat, scan_layers)
  assert ('remat' in plain_program, 'scan[' in plain_program) == (False, False)
  np.testing.assert_allclose(value, plain_value, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain_gradient), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)
  assert all(np.max(np.abs(leaf)) > 1e-5 for leaf in jax.tree.leaves(plain_gradient))


@pytest.mark.parametrize('scan_layers', [False, True])
def test_repeats_share_weights(scan_layers):
  """Catches blocks that are run too often, too seldom or in another order.

  Two blocks run twice are four blocks, of which the third is the first, and the fourth the second.
  """
  m = models.model(repeats=2, scan_layers=scan_layers)
  params = models.params(m)
  assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params['blocks']))
  four = params | {'blocks': jax.tree.map(lambda x: jnp.concatenate([x, x]), params['blocks'])}
  tokens = mixed_rows()
  want = quick_jit(models.model(n_layers=4).apply)(four, tokens)
  np.testing.assert_allclose(logits_of(m, tokens), want, atol=1e-5)
  once = quick_jit(models.model().apply)(params, tokens)
  assert np.max(np.abs(once - want)) > 0.1


def test_attended():
  """Catches chunks that overlap or leave a query out, and keys beyond a chunk's last query.

  The numbers are those of the attention that runs: the shapes of its biases.
  """
  chunks = {0: [(16, 16)], 100: [(16, 16)], 8: [(8, 8), (8, 16)], 5: [(6, 6), (6, 12), (4, 16)]}
  for chunk, want in chunks.items():
    m = dataclasses.replace(models.model(), chunk=chunk)
    assert m.attended(COLUMNS) == want
    biases = m._layout(jnp.ones((1, COLUMNS), jnp.int32)).biases
    assert [bias.shape[1:] for bias in biases] == want


# Parameters and precision -------------------------------------------------------------------------


def test_bfloat16_is_of_activations_only():
  """Catches parameters, gradients or logits in bfloat16, and a dtype that nothing reads."""
  m = models.model(dtype='bfloat16')
  params, tokens = models.params(m), mixed_rows()

  def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}

  def loss(params):
    return jnp.mean(m.apply(params, tokens) ** 2)

  assert dtypes(jax.eval_shape(m.init_params, jax.random.key(0))) == {'float32'}
  assert dtypes(jax.eval_shape(jax.grad(loss), params)) == {'float32'}
  half, full = logits_of(m, tokens), logits_of(models.model(), tokens)
  assert half.dtype == np.float32
  difference = np.abs(half - full)[tokens != PAD]
  assert 1e-4 < np.max(difference) < 0.2


def test_fresh_parameters():
  """Catches blocks that start alike, an unused key, and embeddings or matrices of a wrong scale."""
  m = models.model(d_model=32, d_ff=64)
  a, b = (quick_jit(m.init_params)(jax.random.key(seed)) for seed in (0, 1))
  assert a['blocks']['qkv'].shape == (2, 32, 96)
  for leaf_a, leaf_b, (path, _) in zip(
    jax.tree.leaves(a), jax.tree.leaves(b), jax.tree.leaves_with_path(a)
  ):
    if path[-1].key == 'scale':
      np.testing.assert_array_equal(leaf_a, 1.0)
      continue
    assert np.max(np.abs(leaf_a - leaf_b)) > 0.1
    if path[0].key == 'blocks':
      assert np.max(np.abs(leaf_a[0] - leaf_a[1])) > 0.1
    fan_in = leaf_a.shape[-2] if path[0].key == 'blocks' or path[-1].key == 'out' else 1
    assert np.std(leaf_a) == pytest.approx(fan_in**-0.5, rel=0.15)


def _names(is_one, tree):
  """The last key of each leaf that `is_one` accepts."""
  leaves = jax.tree.leaves_with_path(tree)
  return sorted(path[-1].key for path, leaf in leaves if is_one(path, leaf))


def test_block_leaves_and_matrices():
  """Catches a convolution, scale or embedding table among the matrices, or a matrix left out."""
  params = models.params(models.model())
  matrices = ['attention_out', 'ff_in', 'ff_out', 'qkv']
  assert _names(transformer.is_matrix, params) == matrices
  found = _names(lambda path, leaf: transformer.is_block_leaf(path), params)
  assert found == sorted([*matrices, 'conv', 'scale', 'scale'])


def test_block_leaves_of_optimizer_state():
  """Catches moments that are not found where the parameters lie deeper in a tree."""
  params = models.params(models.model())
  state = (params, optax.adam(1e-3).init(params))
  paths = [path for path, _ in jax.tree.leaves_with_path(state)]
  n_found = sum(transformer.is_block_leaf(path) for path in paths)
  assert n_found == 3 * len(jax.tree.leaves(params['blocks']))
