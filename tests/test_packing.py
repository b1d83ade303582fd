"""Packed rows: everything in them once and whole, and learnt from as if each example had a row of
its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.learning import packing, sft
from compgen_jax.learning.gradients import gradient
from compgen_jax.learning.setup import Setup
from tests import models
from tests.models import N_CONTENT, PAD, quick_jit
from tests.test_transformer import of_every_kind

# Packing ------------------------------------------------------------------------------------------


@functools.cache
def _pack(width, multiple):
  return quick_jit(
    lambda features, first, length: packing.pack(features, first, length, width, multiple)
  )


def packed(first, length, n_columns, width, multiple=1):
  """(features, packed as numpy): `id` tells every cell of every example apart and is never 0;
  `flag` is of another dtype."""
  shape = (len(length), n_columns)
  features = dict(
    id=1 + np.arange(np.prod(shape), dtype=np.int32).reshape(shape), flag=np.ones(shape, bool)
  )
  return features, jax.device_get(
    _pack(width, multiple)(features, np.int32(first), np.int32(length))
  )


def assert_packed_whole(features, first, length, got, width, multiple):
  """Reads the rows back: each example once, whole, in order, in one row; nothing else; rows in use
  are the first ones."""
  n_rows, document = int(got.n_rows), got.document
  assert document.shape == got.features['id'].shape and document.shape[1] == width
  assert document.shape[0] % multiple == 0 and document.shape[0] - multiple < len(length)
  used = np.any(document > 0, axis=1)
  assert used.tolist() == [True] * n_rows + [False] * (len(document) - n_rows)
  assert n_rows <= np.sum(length > 0)
  for name, a in got.features.items():
    assert a.dtype == features[name].dtype
    assert not np.any(a[document == 0])
  assert np.all(got.features['flag'][document > 0])
  seen = []
  for row, numbers in zip(got.features['id'], document):
    starts = np.flatnonzero(np.diff(numbers, prepend=0) != 0)
    for start, end in zip(starts, [*starts[1:], width]):
      if numbers[start]:
        seen.append((int(numbers[start]), tuple(row[start:end].tolist())))
  assert len({number for number, _ in seen}) == len(seen)  # a number of its own for each
  whole = [tuple(ids[f : f + n].tolist()) for ids, f, n in zip(features['id'], first, length) if n]
  assert sorted(ids for _, ids in seen) == sorted(whole)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(
  'n_examples,multiple', [(1, 1), (7, 1), (12, 8), (130, 3), (131, 4), (256, 1)]
)
def test_pack_loses_and_doubles_nothing(n_examples, multiple, seed):
  """Catches examples that are cut, overlap, share a document number, lie in two rows or none; rows
  in use behind empty ones; groups (there are several beyond 128 examples) that write into each
  other's rows; a leftover of an empty example."""
  rng = np.random.default_rng([seed, n_examples])
  n_columns, width = 11, 17
  length = rng.integers(0, n_columns + 1, n_examples)
  length[rng.random(n_examples) < (0.0, 0.2, 0.5, 0.9)[seed]] = 0
  first = rng.integers(0, n_columns - length + 1)
  features, got = packed(first, length, n_columns, width, multiple)
  assert_packed_whole(features, first, length, got, width, multiple)


@pytest.mark.parametrize(
  'lengths', [[0] * 6, [6] * 6, [1] * 6, [0, 0, 0, 3, 3, 0], [6, 1, 5, 2, 4, 3]], ids=str
)
def test_pack_exactly_full_and_empty(lengths):
  """Catches an off-by-one at a full row, and the edges: nothing at all, one example a row, all in
  one row."""
  lengths, width = np.array(lengths), 6
  features, got = packed(np.zeros(6, int), lengths, 6, width)
  assert_packed_whole(features, np.zeros(6, int), lengths, got, width, 1)
  assert got.n_rows == -(-np.sum(lengths) // width)


def test_rows_are_well_filled():
  """Catches rows that are left half empty: of lengths from 40 to 77 in rows of 144, over 85 % of
  the cells are used; and short examples that do not find their way into the gaps that long ones
  leave."""
  rng = np.random.default_rng(0)
  fills = []
  for _ in range(20):
    length = rng.integers(40, 78, 64)
    features, got = packed(np.zeros(64, int), length, 77, 144)
    fills.append(np.sum(length) / (got.n_rows * 144))
  assert np.min(fills) > 0.85
  length = np.array([100, 44] * 32)
  assert packed(np.zeros(64, int), length, 100, 144)[1].n_rows == 32


@pytest.mark.parametrize(
  'n_examples,shards,multiple', [(64, 2, 1), (130, 4, 3), (10, 4, 1), (256, 3, 2)]
)
def test_rows_are_dealt_out_evenly(n_examples, shards, multiple):
  """Catches a device that works while others wait, and rows that two devices get or none: all
  shards together are what one shard would be."""
  rng = np.random.default_rng(n_examples)
  length = rng.integers(0, 12, n_examples)
  length[: n_examples // 3] = 0  # one device's examples may all be of no use
  first = np.zeros(n_examples, int)
  features, whole = packed(first, length, 11, 17)
  deal = quick_jit(lambda shard, *examples: packing.pack(*examples, 17, multiple, shard, shards))
  dealt = [jax.device_get(deal(shard, features, first, length)) for shard in range(shards)]
  n_rows = [int(shard.n_rows) for shard in dealt]
  assert max(n_rows) - min(n_rows) <= 1 and sum(n_rows) == whole.n_rows
  for shard, n in zip(dealt, n_rows):
    assert len(shard.document) % multiple == 0 and np.any(
      shard.document > 0, axis=1
    ).sum() == n <= len(shard.document)
  got = np.concatenate([shard.features['id'][:n] for shard, n in zip(dealt, n_rows)])
  want = whole.features['id'][: whole.n_rows]
  assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, want.tolist()))


# Packed is unpacked -------------------------------------------------------------------------------

WIDTH = 13
# Documents by length; row by row, with padding behind some, and a last row of nothing.
ROWS = [[7, 3, 2], [5, 1, 6, 1], [13], [1, 4], []]
LENGTHS = [n for row in ROWS for n in row]


def packed_documents(seed=0):
  """(tokens, document numbers) of the rows and (tokens, lengths) of each document in a row of its
  own."""
  alone = models.random_tokens(len(LENGTHS), WIDTH, seed)
  alone[::2, 0] = N_CONTENT + 1  # some begin with a marker, some in the midst of one
  alone[1::2, 0] = 2
  alone = np.where(np.arange(WIDTH) < np.array(LENGTHS)[:, None], alone, PAD)
  tokens, document = (
    np.full((len(ROWS), WIDTH), PAD, np.int32),
    np.zeros((len(ROWS), WIDTH), np.int32),
  )
  i = 0
  for row, lengths in enumerate(ROWS):
    column = 0
    for n in lengths:
      tokens[row, column : column + n], document[row, column : column + n] = alone[i, :n], i + 1
      i, column = i + 1, column + n
  return tokens, document, alone


@functools.cache
def _apply(m):
  return quick_jit(lambda params, tokens, document: m.apply(params, tokens, document_BxT=document))


@pytest.mark.parametrize('chunk', [0, 5])
@of_every_kind
def test_packed_logits_are_those_of_each_document_alone(kind, chunk):
  """Catches whatever tells a document that it is not alone: attention, a convolution or a segment's
  address that reaches into the one before, a rotation by the column in the row; also in chunks that
  end within documents."""
  m = dataclasses.replace(models.model(**kind), chunk=chunk)
  params = models.params(models.model(**kind))
  tokens, document, alone = packed_documents()
  got = np.asarray(_apply(m)(params, tokens, document))
  want = np.asarray(quick_jit(models.model(**kind).apply)(params, alone))
  assert np.all(np.isfinite(got))
  for i, n in enumerate(LENGTHS):
    np.testing.assert_allclose(got[document == i + 1], want[i, :n], atol=1e-4)


@of_every_kind
def test_documents_do_not_see_each_other(kind):
  """Catches a leak smaller than any tolerance: other tokens in one document leave the bits of all
  others' logits alone."""
  m = dataclasses.replace(models.model(**kind), chunk=5)
  params = models.params(models.model(**kind))
  tokens, document, _ = packed_documents()
  want = np.asarray(_apply(m)(params, tokens, document))
  for i in (0, 1, 4):
    changed = document == i + 1
    got = np.asarray(_apply(m)(params, np.where(changed, (tokens + 3) % PAD, tokens), document))
    others = ~changed & (document > 0)
    np.testing.assert_array_equal(got[others], want[others])
    assert np.all(np.max(np.abs(got - want)[changed], axis=-1) > 1e-4)


# Learning from packed rows ------------------------------------------------------------------------

MODEL = models.model()
PROMPT, TRACE = 6, 8
N_WRITTEN = np.array([8, 1, 5, 8, 2, 7, 3, 4, 6, 1, 2, 3])
N_PROMPT = np.array([3, 6, 4, 5, 1, 2, 6, 6, 3, 4, 2, 5])


def examples():
  """(prompts, traces, mask, features): prompts and traces of all lengths; masks with holes, some of
  which end before their trace does (examples 0 and 5), one with nothing before its last token (8),
  and two that are empty (3 and 9)."""
  rng = np.random.default_rng(5)
  prompts = models.pad_left(models.random_tokens(len(N_PROMPT), PROMPT, 1), N_PROMPT)
  written = np.arange(TRACE) < N_WRITTEN[:, None]
  traces = np.where(written, models.random_tokens(len(N_PROMPT), TRACE, 2), PAD)
  mask = written & (rng.random(written.shape) < 0.7)
  mask[np.arange(len(mask)), N_WRITTEN - 1] = True
  mask[0, 4:] = mask[5, 1:] = mask[8, :5] = mask[3] = mask[9] = False
  mask[0, 3] = mask[5, 0] = True
  weight = np.where(mask, 0.5 + rng.random(mask.shape), 0.0).astype(np.float32)
  markers_only = mask & (traces >= N_CONTENT) & (rng.random(mask.shape) < 0.5)
  assert np.any(markers_only) and np.any(written & ~mask)
  return prompts, traces, mask, dict(weight=weight, markers_only=markers_only)


@functools.cache
def _packed_examples(width, multiple):
  prompts, traces, mask, features = examples()
  pack = quick_jit(lambda *args: packing.pack_traces(*args, PAD, width, multiple))
  return jax.device_get(pack(prompts, traces, mask, features))


@pytest.mark.parametrize('width,multiple', [(13, 1), (0, 1), (20, 8)])
def test_pack_traces(width, multiple):
  """Catches a target or a column of the loss moved by one, padding that is learnt as a prompt,
  tokens behind the last that counts (they cost time), a width that the longest example does not fit
  into or that leaves room beside several of them, and empty examples that take room."""
  prompts, traces, mask, features = examples()
  rows, n_rows = _packed_examples(width, multiple)
  n, w = rows['token'].shape
  longest = PROMPT + TRACE - 1
  assert w % longest == 0 and (w == longest or abs(w - width) <= longest / 2)
  assert n % multiple == 0 and 0 < n_rows <= n
  assert set(rows) == {'token', 'target', 'document', 'weight', 'markers_only'}
  assert np.all(np.any(rows['document'], axis=1) == (np.arange(n) < n_rows))
  for i in range(len(mask)):
    here = rows['document'] == i + 1
    n_trace = np.max(np.flatnonzero(mask[i]) + 1, initial=0)
    if not n_trace:
      assert not np.any(here)
      continue
    tokens = np.concatenate([prompts[i, PROMPT - N_PROMPT[i] :], traces[i, :n_trace]])
    assert (
      rows['token'][here].tolist() == tokens[:-1].tolist()
      and rows['target'][here].tolist() == tokens[1:].tolist()
    )
    for name, a in features.items():
      before = [0] * (N_PROMPT[i] - 1)
      assert (
        rows[name][here].tolist() == before + a[i, :n_trace].tolist()
        and rows[name].dtype == a.dtype
      )


def plain_cross_entropy(params):
  """The weighted sum, row by row: each prompt with its trace, alone; for `markers_only`, by the
  choice among markers."""
  prompts, traces, _, features = examples()
  logits = MODEL.apply(params, np.concatenate([prompts, traces], axis=1))[:, PROMPT - 1 : -1]

  def over(f):
    return jnp.where(features['markers_only'], f(logits[..., N_CONTENT:]), f(logits))

  chosen = jnp.take_along_axis(logits, traces[..., None], axis=-1)[..., 0]
  log_probs = chosen - over(lambda x: jax.nn.logsumexp(x, axis=-1))
  correct = chosen == over(lambda x: jnp.max(x, axis=-1))
  return -jnp.sum(log_probs * features['weight']), jnp.sum(correct * features['weight'])


@functools.cache
def _plain():
  return quick_jit(jax.value_and_grad(plain_cross_entropy, has_aux=True))(models.params(MODEL))


@pytest.mark.parametrize(
  'width,microbatch_rows,chunk', [(13, (1,), 0), (0, (2,), 5), (20, (4,), 0), (13, (2, 1), 5)]
)
def test_sft_on_packed_rows_is_sft_row_by_row(width, microbatch_rows, chunk):
  """Catches anything that packing changes about learning: loss, accuracy and gradient are those of
  each example in a row of its own, at once and in microbatches, of which those not in use are
  skipped."""
  (want_loss, want_correct), want = _plain()
  rows, n_rows = _packed_examples(width, microbatch_rows[-1])
  setup = Setup(
    None, dataclasses.replace(MODEL, chunk=chunk), None, (), microbatch_rows=microbatch_rows
  )
  params = models.params(MODEL)

  def loss(params, part):
    return sft.cross_entropy(params, part, setup)

  @quick_jit
  def run(params, rows, n_rows):
    return jax.grad(loss, has_aux=True)(params, rows), gradient(loss, params, rows, setup, n_rows)

  assert len(rows['token']) - n_rows >= microbatch_rows[-1]  # there is a microbatch to skip
  for got, metrics in run(params, rows, n_rows):
    assert metrics['loss'] == pytest.approx(float(want_loss), rel=1e-5)
    assert (
      metrics['token_accuracy'] == pytest.approx(float(want_correct), rel=1e-5) and want_correct > 0
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got, want)
  assert all(np.max(np.abs(leaf)) > 1e-2 for leaf in jax.tree.leaves(want))


# Ways to compute the same thing -------------------------------------------------------------------


@functools.cache
def _value_and_gradient(kind, chunk, unstacked):
  m = dataclasses.replace(models.model(**dict(kind)), chunk=chunk)
  probe = (
    np.random.default_rng(0).standard_normal((len(ROWS), WIDTH, models.VOCAB)).astype(np.float32)
  )
  tokens, document, _ = packed_documents()
  probe[document == 0] = 0.0  # what padding says is nobody's business

  @quick_jit
  def run(params):
    def loss(p):
      logits = m.apply(p, tokens, document_BxT=document)
      return jnp.sum(jax.nn.log_softmax(logits) * probe), logits

    if unstacked:
      (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(m.unstack(params))
      return logits, m.stack(gradient)
    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, gradient

  logits, gradient = jax.device_get(run(models.params(models.model(**dict(kind)))))
  return logits[document > 0], gradient


@pytest.mark.parametrize('chunk,unstacked', [(5, False), (1, False), (100, False), (0, True)])
@pytest.mark.parametrize(
  'kind',
  [
    dict(positions='segment', conv_width=4),
    dict(positions='segment', conv_width=4, address_markers=3),
    dict(positions='rope', conv_width=0),
  ],
  ids=str,
)
def test_chunks_and_unstacked_layers_change_nothing(kind, chunk, unstacked):
  """Catches queries that are lost or doubled between chunks, keys that a chunk should have seen,
  and layers in another order: values and gradients are those of the whole."""
  kind = tuple(kind.items())
  got, got_gradient = _value_and_gradient(kind, chunk, unstacked)
  want, want_gradient = _value_and_gradient(kind, 0, False)
  np.testing.assert_allclose(got, want, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got_gradient, want_gradient
  )
  assert all(np.max(np.abs(leaf)) > 1e-3 for leaf in jax.tree.leaves(want_gradient))


def test_stack_undoes_unstack():
  """Catches layers that are lost, reversed or transposed; also twice, and where layers are scanned
  (and so stay stacked)."""
  m = models.model(n_layers=3)
  params = models.params(m)
  loose = m.unstack(params)
  assert isinstance(loose['blocks'], tuple) and len(loose['blocks']) == 3
  assert m.unstack(loose) is loose and m.stack(params) is params
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b[1]), loose['blocks'][1], params['blocks']
  )
  jax.tree.map(np.testing.assert_array_equal, m.stack(loose), params)
  assert models.model(n_layers=3, scan_layers=True).unstack(params) is params
