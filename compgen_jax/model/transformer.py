"""Decoder-only Flax transformer with an explicit decode cache.

RMS norm, no additive parameters, squared-ReLU feed-forward (So et al. 2021, arXiv 2109.08668). The
model does not know a column's absolute position, so no position is new to it at an unseen depth.
The config chooses what it knows instead:

* `conv_width` > 0: a short causal depthwise convolution over the normalised input of attention
  tells a token its neighbours (as in H3 and Mamba blocks; So et al. convolve queries, keys and
  values).
* `positions`: `segment` embeds the address of a token: its index in its segment (the Abacus
  embedding of McLeish et al. 2024, arXiv 2405.17399) and its last `address_markers` markers, each
  by a table of its own: the marker of its own segment, the one before, and so on. With three, a
  letter of an operand knows label, routing mechanism and skill of its step without attention.
  `rope` rotates queries and keys (Su et al. 2021, arXiv 2104.09864). `none` adds nothing
  (Kazemnejad et al. 2023, arXiv 2305.19466).

Callers use `Model`. The Flax modules behind it are in modules.py. Shape letters: B rows, T columns,
K key columns (of the cache), P prompt columns, D width, H attention heads, A width of a head, O
taps of the convolution, N blocks, V vocabulary entries, I markers of an address.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.model.kernels import attention_bias, ceil_div
from compgen_jax.model.modules import Block, BlockCache, Ends, Layout, ModelConfig


def is_block_leaf(path) -> bool:
  """Whether a leaf with this JAX key path is a stack of all blocks, with a leading axis N.

  True for the blocks' leaves in stacked parameters, and in optimizer state of the same structure.
  """
  return any(getattr(key, 'key', None) == 'blocks' for key in path)


def is_matrix(path, leaf: jax.Array) -> bool:
  """Whether a leaf of stacked parameters holds the blocks' weight matrices [N, in, out].

  Embeddings, scales and the convolution's kernels [N, O, D] are not.
  """
  return is_block_leaf(path) and leaf.ndim == 3 and path[-1].key != 'conv'


class Cache(NamedTuple):
  """The decode cache, a pytree.

  Attributes:
    blocks: the cache of each block, one for each time that it is run.
    valid: bool[B, K], columns that hold a token other than padding.
    column: int32[], the next column to write.
    markers: int32[B, I], the last markers, that of the last token's segment first.
    index: int32[B], the last token's index in its segment.
  """

  blocks: tuple[BlockCache, ...]
  valid: jax.Array
  column: jax.Array
  markers: jax.Array
  index: jax.Array


@dataclasses.dataclass(frozen=True)
class Model:
  """A transformer as pure functions of its parameters.

  Attributes:
    config: shapes and choices.
    vocab_size: V.
    n_content: token ids below it are letters, all others are markers.
    n_indices: rows of the table of indices; larger indices in a segment use its last row.
    pad: the token for padding; no column sees a column that holds it.
    chunk: queries whose attention is computed together, about; 0 is all. A chunk leaves out the
      keys that causality hides from all its queries. So small chunks save work, and large ones
      keep an accelerator busy.
  """

  config: ModelConfig
  vocab_size: int
  n_content: int
  n_indices: int
  pad: int
  chunk: int = 0

  # Parameters -------------------------------------------------------------------------------------

  @property
  def _ends(self) -> Ends:
    return Ends(self.config, self.vocab_size, self.n_indices)

  def init_params(self, key: jax.Array) -> dict:
    """Fresh float32 parameters: `ends`, and `blocks` with a leading axis N."""
    ends_key, blocks_key = jax.random.split(key)
    one = jnp.zeros((1, 1), jnp.int32)
    markers = jnp.zeros((1, 1, self.config.address_markers), jnp.int32)
    ends = self._ends.init(ends_key, one, markers, one)['params']
    x = jnp.zeros((1, 1, self.config.d_model))
    layout = self._layout(jnp.ones((1, 1), jnp.int32))

    def init_block(block_key):
      return Block(self.config).init(block_key, x, layout, None)['params']

    blocks = jax.vmap(init_block)(jax.random.split(blocks_key, self.config.n_layers))
    return {'ends': ends, 'blocks': blocks}

  def unstack(self, params) -> dict:
    """The parameters with a tuple of N blocks as `blocks`, which all methods take too.

    Done before a loop, it slices the blocks once and not in every turn. Where `scan_layers`, the
    parameters stay as they are.
    """
    if self.config.scan_layers or isinstance(params['blocks'], tuple):
      return params
    return params | {'blocks': tuple(_block(params, i) for i in range(self.config.n_layers))}

  def stack(self, params) -> dict:
    """Undoes `unstack`."""
    if not isinstance(params['blocks'], tuple):
      return params
    return params | {'blocks': jax.tree.map(lambda *leaves: jnp.stack(leaves), *params['blocks'])}

  # What columns know of each other ----------------------------------------------------------------

  def addresses(
    self, tokens_BxT: jax.Array, document_BxT: jax.Array | None = None, last=None
  ) -> tuple[jax.Array, jax.Array]:
    """The address of each column, from the tokens alone.

    Args:
      tokens_BxT: int32.
      document_BxT: int32, the document of each column; None is one document a row.
      last: the address before the first column, int32[B, I] and int32[B], where rows continue from
        a cache.

    Returns:
      Markers int32[B, T, I]: that of the column's segment, the one before it, and so on; `pad`
      where its document has none. And int32[B, T], the column's index in the segment (in the
      document, before its first marker), at most `n_indices` - 1.
    """
    column_T = jnp.arange(tokens_BxT.shape[1])
    marker_at_BxT = jax.lax.cummax(jnp.where(tokens_BxT >= self.n_content, column_T, -1), axis=1)
    # The column before the document's first.
    before_BxT = jnp.full_like(tokens_BxT, -1)
    if document_BxT is not None:
      ends = document_BxT[:, 1:] != document_BxT[:, :-1]
      end_at = jnp.where(ends, column_T[:-1], -1)
      before_BxT = jax.lax.cummax(jnp.pad(end_at, ((0, 0), (1, 0)), constant_values=-1), axis=1)
    found_BxT = jnp.take_along_axis(tokens_BxT, jnp.maximum(marker_at_BxT, 0), axis=1)
    marker_BxT = jnp.where(marker_at_BxT > before_BxT, found_BxT, self.pad)
    indices_BxT = column_T - jnp.maximum(marker_at_BxT, before_BxT)
    if last is not None:
      last_markers_BxI, last_index_B = last
      marker_BxT = jnp.where(marker_at_BxT < 0, last_markers_BxI[:, :1], marker_BxT)
      continued_BxT = last_index_B[:, None] + column_T + 1
      indices_BxT = jnp.where(marker_at_BxT < 0, continued_BxT, indices_BxT)
    markers = [marker_BxT]
    for i in range(1, self.config.address_markers):
      # Marker i of a column is marker i - 1 of the column before its segment.
      read_BxT = jnp.take_along_axis(markers[-1], jnp.maximum(marker_at_BxT - 1, 0), axis=1)
      read_BxT = jnp.where(marker_at_BxT - 1 <= before_BxT, self.pad, read_BxT)
      if last is not None:
        read_BxT = jnp.where(marker_at_BxT == 0, last_markers_BxI[:, i - 1 : i], read_BxT)
        read_BxT = jnp.where(marker_at_BxT < 0, last_markers_BxI[:, i : i + 1], read_BxT)
      markers.append(jnp.where(markers[-1] == self.pad, self.pad, read_BxT))
    return jnp.stack(markers, axis=2), jnp.minimum(indices_BxT, self.n_indices - 1)

  def attended(self, n_columns: int) -> list[tuple[int, int]]:
    """(queries, keys) of each chunk of attention in a row: how many, and how many they meet."""
    n_chunks = max(1, round(n_columns / (self.chunk or n_columns)))
    size = ceil_div(n_columns, n_chunks)
    ends = [min(first + size, n_columns) for first in range(0, n_columns, size)]
    return [(end - first, end) for first, end in zip([0, *ends], ends)]

  def _layout(self, document_BxT: jax.Array) -> Layout:
    """Columns see the columns of their own document, up to themselves.

    Padding (document 0) sees all documents, and nothing sees padding.
    """
    n = document_BxT.shape[1]
    column_T = jnp.arange(n)

    def sees(query, key):
      return (key > 0) & ((query == key) | (query == 0))

    def moved(offset):
      return jnp.pad(document_BxT, ((0, 0), (offset, 0)))[:, :n]

    near = [sees(document_BxT, moved(o)) for o in range(max(self.config.conv_width, 1))]
    biases = []
    for n_queries, n_keys in self.attended(n):
      query = slice(n_keys - n_queries, n_keys)
      same = sees(document_BxT[:, query, None], document_BxT[:, None, :n_keys])
      biases.append(attention_bias(same & (column_T[query, None] >= column_T[:n_keys])))
    return Layout(document_BxT > 0, column_T, jnp.stack(near, axis=2), tuple(biases))

  # Running the model ------------------------------------------------------------------------------

  def _embed(self, params, tokens_BxT, addresses):
    ends = {'params': params['ends']}
    return self._ends.apply(ends, tokens_BxT, *addresses, method=Ends.embed)

  def _logits(self, params, x_BxTxD):
    """Logits of the next token. Padding is no token: it has no probability."""
    logits_BxTxV = self._ends.apply({'params': params['ends']}, x_BxTxD, method=Ends.logits)
    return jnp.where(jnp.arange(self.vocab_size) == self.pad, -1e30, logits_BxTxV)

  def _run_blocks(self, params, x, layout: Layout):
    """The activations [B, T, D] after all blocks, without a cache."""

    def block(block_params, x):
      return Block(self.config).apply({'params': block_params}, x, layout, None)[0]

    if self.config.remat:
      block = jax.checkpoint(block)
    if self.config.scan_layers:
      for _ in range(self.config.repeats):
        x = jax.lax.scan(lambda x, p: (block(p, x), None), x, params['blocks'])[0]
      return x
    for i in range(self.config.depth):
      x = block(_block(params, i), x)
    return x

  def _run_cached(self, params, x, layout: Layout, caches):
    """As `_run_blocks`, and the cache of each block.

    `caches`: of the earlier columns, one each time that a block is run, or None.
    """
    new_caches = []
    for i, cache in enumerate(caches):
      x, new = Block(self.config).apply({'params': _block(params, i)}, x, layout, cache)
      new_caches.append(new)
    return x, tuple(new_caches)

  def apply(
    self, params, tokens_BxT: jax.Array, start: int = 0, document_BxT: jax.Array | None = None
  ) -> jax.Array:
    """float32[B, T - start, V]: logits of the token after each column from `start` on.

    `document_BxT` int32: the document of each column of a packed row, 0 for padding. The columns of
    a document follow each other and see nothing of other documents. None is one document a row.
    """
    if document_BxT is None:
      document_BxT = (tokens_BxT != self.pad).astype(jnp.int32)
    x = self._embed(params, tokens_BxT, self.addresses(tokens_BxT, document_BxT))
    x = self._run_blocks(params, x, self._layout(document_BxT))
    return self._logits(params, x[:, start:])

  def prefill(self, params, tokens_BxP: jax.Array, capacity: int) -> tuple[jax.Array, Cache]:
    """Runs prompts (int32, padded on the left) in one pass.

    Returns the float32 logits [B, V] of the token after the prompt, and a cache with room for
    `capacity` columns in all.
    """
    valid_BxP = tokens_BxP != self.pad
    markers_BxPxI, indices_BxP = self.addresses(tokens_BxP)
    x = self._embed(params, tokens_BxP, (markers_BxPxI, indices_BxP))
    layout = self._layout(valid_BxP.astype(jnp.int32))
    x, blocks = self._run_cached(params, x, layout, [None] * self.config.depth)
    column = jnp.int32(tokens_BxP.shape[1])
    cache = Cache(blocks, valid_BxP, column, markers_BxPxI[:, -1], indices_BxP[:, -1])
    return self._logits(params, x[:, -1:])[:, 0], self.extend(cache, capacity)

  def extend(self, cache: Cache, capacity: int) -> Cache:
    """The cache with room for `capacity` columns in all, which must not be less than it has."""
    more = capacity - cache.valid.shape[1]

    def room(block: BlockCache) -> BlockCache:
      widths = ((0, 0), (0, 0), (0, more), (0, 0))
      return block._replace(keys=jnp.pad(block.keys, widths), values=jnp.pad(block.values, widths))

    blocks = tuple(room(block) for block in cache.blocks)
    return cache._replace(blocks=blocks, valid=jnp.pad(cache.valid, ((0, 0), (0, more))))

  def decode_step(self, params, cache: Cache, token_B: jax.Array) -> tuple[jax.Array, Cache]:
    """Writes one token per row (int32) into the cache.

    Returns the float32 logits [B, V] of the next token, and the cache.
    """
    tokens_Bx1 = token_B[:, None]
    valid_Bx1 = tokens_Bx1 != self.pad
    valid_BxK = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid_Bx1, cache.column, axis=1)
    markers_Bx1xI, index_Bx1 = self.addresses(tokens_Bx1, last=(cache.markers, cache.index))
    x = self._embed(params, tokens_Bx1, (markers_Bx1xI, index_Bx1))
    bias_Bx1xK = attention_bias(valid_BxK[:, None])
    layout = Layout(valid_Bx1, cache.column[None], valid_Bx1[..., None], (bias_Bx1xK,))
    x, blocks = self._run_cached(params, x, layout, cache.blocks)
    cache = Cache(blocks, valid_BxK, cache.column + 1, markers_Bx1xI[:, 0], index_Bx1[:, 0])
    return self._logits(params, x)[:, 0], cache


def _block(params, i: int):
  """The parameters of the block that is run as number i, from stacked or unstacked ones."""
  blocks = params['blocks']
  if isinstance(blocks, tuple):
    return blocks[i % len(blocks)]
  return jax.tree.map(lambda leaf: leaf[i % len(leaf)], blocks)
