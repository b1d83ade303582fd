"""Decoder-only Flax transformer with an explicit decode cache.

RMS norm, no biases, squared-ReLU feed-forward (So et al. 2021, arXiv 2109.08668). Nothing in it knows a column's
absolute position, so nothing in it is new at an unseen depth; what it has instead is chosen by config:

* `conv_width` > 0: a short causal depthwise convolution over the normalised input of every attention layer, which
  tells a token its neighbours (as in H3 / Mamba blocks; So et al. use the same on queries, keys and values).
* `positions`: `segment` addresses a token by its index in its segment (the Abacus embedding of
  McLeish et al. 2024, arXiv 2405.17399) and by its last `address_markers` markers, i.e. tokens that
  are not content: the marker that starts its own segment, the marker before that one, and so on,
  each by a table of its own; `rope` rotates queries and keys (Su et al. 2021, arXiv 2104.09864);
  `none` adds nothing (Kazemnejad et al. 2023, arXiv 2305.19466).

The module library stays in this file: callers see `Model.init_params`, `apply`, `prefill`, `decode_step`.

Shape letters: B batch rows, T columns, S cache columns, D model width, H heads, K head width, V vocabulary,
C convolution width, N layers, M markers of an address.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from compgen_jax.model.kernels import (
  attention,
  barrier,
  causal_convolution,
  embedding,
  matmul,
  squared_relu,
)

POSITIONS = ('segment', 'rope', 'none')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Config section `model`: see configs/default.py for what each field means."""

  d_model: int
  n_layers: int
  n_heads: int
  d_ff: int
  positions: str
  address_markers: int
  conv_width: int
  tied: bool
  dtype: str
  remat: bool
  scan_layers: bool


class LayerCache(NamedTuple):
  """What one layer keeps of the past: `keys`, `values` [B, H, S, K] and the convolution's last inputs [B, C - 1, D]."""

  keys: jax.Array
  values: jax.Array
  tail: jax.Array


class Cache(NamedTuple):
  """The decode cache, a pytree.

  `layers`: a LayerCache per layer. `valid` bool[B, S]: columns that hold a token other than padding. `column` int32[]:
  the next column to write. `segment_head` int32[B, M], `segment_index` int32[B]: address of the
  last token (positions `segment`).
  """

  layers: tuple[LayerCache, ...]
  valid: jax.Array
  column: jax.Array
  segment_head: jax.Array
  segment_index: jax.Array


def _rope(x_BxTxHxK: jax.Array, column_T: jax.Array) -> jax.Array:
  half = x_BxTxHxK.shape[-1] // 2
  angle_TxF = column_T[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
  cos, sin = jnp.cos(angle_TxF)[:, None], jnp.sin(angle_TxF)[:, None]
  a, b = x_BxTxHxK[..., :half].astype(jnp.float32), x_BxTxHxK[..., half:].astype(jnp.float32)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BxTxHxK.dtype)


class RMSNorm(nn.Module):
  """x / rms(x) * scale, computed in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale_D = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    return (
      x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6) * scale_D
    ).astype(x.dtype)


class Columns(NamedTuple):
  """What a layer knows of the T columns that it runs on, other than their activations.

  `valid` bool[B, T]: no padding. `number` int32[T]: the column's number in its row. `near` bool[B, T, C]: whether the
  column b < C before it is of the same document. `visible`: the attention mask as `kernels.barrier`,
  float32[B, queries, keys], in pieces: queries in their order, and as many keys, from the first on, as the last of them
  can reach.
  """

  valid: jax.Array
  number: jax.Array
  near: jax.Array
  visible: tuple[jax.Array, ...]


class Block(nn.Module):
  """One pre-norm layer, on a whole sequence (`cache` None) or on the one column that follows a cache."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BxTxD, columns: Columns, cache: LayerCache | None):
    cfg = self.config
    n_rows, n_columns, _ = x_BxTxD.shape
    d_head = cfg.d_model // cfg.n_heads
    dense = lambda name, shape, fan_in: self.param(
      name, nn.initializers.normal(fan_in**-0.5), shape
    ).astype(x_BxTxD.dtype)
    residual_scale = (2 * cfg.n_layers) ** -0.5
    n_tail = max(cfg.conv_width - 1, 0)

    h_BxTxD = RMSNorm(name='attention_norm')(x_BxTxD)
    tail = jnp.zeros((n_rows, n_tail, cfg.d_model), h_BxTxD.dtype) if cache is None else cache.tail
    if cfg.conv_width:
      kernel_CxD = self.param(
        'conv', nn.initializers.normal(cfg.conv_width**-0.5), (cfg.conv_width, cfg.d_model)
      )
      kernel_CxD = kernel_CxD.astype(h_BxTxD.dtype)
      recent = (h_BxTxD * columns.valid[..., None])[:, -n_tail:] if n_tail else h_BxTxD[:, :0]
      window = jnp.concatenate([tail, recent], axis=1)
      if cache is None:
        h_BxTxD = causal_convolution(h_BxTxD, kernel_CxD, columns.near)
      else:
        h_BxTxD += sum(
          window[:, n_tail - b : n_tail - b + 1] * kernel_CxD[b] for b in range(cfg.conv_width)
        )
      tail = window[:, window.shape[1] - n_tail :]

    qkv = matmul(h_BxTxD, dense('qkv', (cfg.d_model, 3 * cfg.d_model), cfg.d_model))
    # Split by heads, by `lax.split`: its gradient is then one concatenation, which takes up the transposes of the three.
    qkv = qkv.reshape(n_rows, n_columns, 3 * cfg.n_heads, d_head)
    q_BxTxHxK, k_BxTxHxK, v_BxTxHxK = jax.lax.split(qkv, (cfg.n_heads,) * 3, axis=2)
    if cfg.positions == 'rope':
      q_BxTxHxK, k_BxTxHxK = _rope(q_BxTxHxK, columns.number), _rope(k_BxTxHxK, columns.number)
    q, keys, values = (
      jnp.swapaxes(a, 1, 2) for a in (q_BxTxHxK * d_head**-0.5, k_BxTxHxK, v_BxTxHxK)
    )
    if cache is not None:
      write = lambda whole, new: jax.lax.dynamic_update_slice_in_dim(
        whole, new, columns.number[0], axis=2
      )
      keys, values = write(cache.keys, keys), write(cache.values, values)
    pieces, first = [], 0
    for mask in columns.visible:
      behind, reach = first + mask.shape[1], mask.shape[2]
      mixed = attention(q[:, :, first:behind], keys[:, :, :reach], values[:, :, :reach], mask)
      pieces.append(jnp.swapaxes(mixed, 1, 2))
      first = behind
    mixed = jnp.concatenate(pieces, axis=1).reshape(h_BxTxD.shape)
    x_BxTxD += (
      matmul(mixed, dense('attention_out', (cfg.d_model, cfg.d_model), cfg.d_model))
      * residual_scale
    )

    h_BxTxD = RMSNorm(name='ff_norm')(x_BxTxD)
    h_BxTxF = squared_relu(matmul(h_BxTxD, dense('ff_in', (cfg.d_model, cfg.d_ff), cfg.d_model)))
    x_BxTxD += matmul(h_BxTxF, dense('ff_out', (cfg.d_ff, cfg.d_model), cfg.d_ff)) * residual_scale
    return x_BxTxD, LayerCache(keys, values, tail)


class Ends(nn.Module):
  """The input embedding and the output head, which share a table where `tied`."""

  config: ModelConfig
  vocab_size: int
  n_indices: int

  def setup(self):
    normal, d = nn.initializers.normal(1.0), self.config.d_model
    self.token = self.param('token', normal, (self.vocab_size, d))
    if self.config.positions == 'segment':
      self.head = self.param('segment_head', normal, (self.vocab_size, d))
      self.index = self.param('segment_index', normal, (self.n_indices, d))
      self.earlier_heads = [
        self.param(f'segment_head_{i}', normal, (self.vocab_size, d))
        for i in range(1, self.config.address_markers)
      ]
    self.norm = RMSNorm()
    if not self.config.tied:
      self.out = self.param('out', nn.initializers.normal(d**-0.5), (d, self.vocab_size))

  def __call__(self, tokens, heads, indices):
    """Both ends on the same tokens (used to make the parameters)."""
    return self.logits(self.embed(tokens, heads, indices))

  def embed(self, tokens, heads, indices):
    pick = lambda ids, table: embedding(table.astype(DTYPES[self.config.dtype]), ids)
    x = pick(tokens, self.token)
    if self.config.positions == 'segment':
      x += pick(heads[..., 0], self.head) + pick(indices, self.index)
      for i, table in enumerate(self.earlier_heads, 1):
        x += pick(heads[..., i], table)
    return x

  def logits(self, x_BxTxD):
    x_BxTxD = self.norm(x_BxTxD)
    if self.config.tied:
      return (
        matmul(x_BxTxD, self.token.T.astype(x_BxTxD.dtype)).astype(jnp.float32)
        * self.config.d_model**-0.5
      )
    return matmul(x_BxTxD, self.out.astype(x_BxTxD.dtype)).astype(jnp.float32)


def _layer(params, i: int):
  blocks = params['blocks']
  return blocks[i] if isinstance(blocks, tuple) else jax.tree.map(lambda leaf: leaf[i], blocks)


@dataclasses.dataclass(frozen=True)
class Model:
  """A transformer as pure functions of its parameters.

  `n_content`: token ids below it are content, all others start a segment. `n_indices`: distinct indices in a segment.
  `pad`: the token that stands for no token; columns that hold it are invisible, wherever they are.
  `chunk`: about how many queries are attended for together, 0 all at once; a chunk does not look at columns that no causal
  mask would let it see, so small ones save work (and large ones are what an accelerator wants).
  """

  config: ModelConfig
  vocab_size: int
  n_content: int
  n_indices: int
  pad: int
  chunk: int = 0

  @property
  def _ends(self) -> Ends:
    return Ends(self.config, self.vocab_size, self.n_indices)

  def init_params(self, key: jax.Array) -> dict:
    """Fresh float32 parameters: `ends`, and `blocks` with a leading axis N."""
    ends_key, blocks_key = jax.random.split(key)
    one = jnp.zeros((1, 1), jnp.int32)
    heads = jnp.zeros((1, 1, self.config.address_markers), jnp.int32)
    ends = self._ends.init(ends_key, one, heads, one)['params']
    x, columns = jnp.zeros((1, 1, self.config.d_model)), self._columns(jnp.ones((1, 1), jnp.int32))
    init = lambda k: Block(self.config).init(k, x, columns, None)['params']
    blocks = jax.vmap(init)(jax.random.split(blocks_key, self.config.n_layers))
    return {'ends': ends, 'blocks': blocks}

  def unstack(self, params) -> dict:
    """The parameters with a tuple of layers as `blocks`, which all methods take as well: slices them once, not in every turn
    of a loop. (Left as they are where layers are scanned.)"""
    if self.config.scan_layers or isinstance(params['blocks'], tuple):
      return params
    return params | {'blocks': tuple(_layer(params, i) for i in range(self.config.n_layers))}

  def stack(self, params) -> dict:
    """Undoes `unstack`."""
    if not isinstance(params['blocks'], tuple):
      return params
    return params | {'blocks': jax.tree.map(lambda *leaves: jnp.stack(leaves), *params['blocks'])}

  def _segments(self, tokens_BxT, head_BxM=None, index_B=None, document_BxT=None):
    """Address of each column: its last M markers (the last one first), its index in its segment.

    `head_BxM`, `index_B`: the address of the column before the first one, where there is one.
    Markers before the start of a document, or before padding, are `pad`.
    """
    column_T = jnp.arange(tokens_BxT.shape[1])
    is_head = tokens_BxT >= self.n_content
    own_BxT = jax.lax.cummax(jnp.where(is_head, column_T, -1), axis=1)
    before_BxT = jnp.full_like(
      tokens_BxT, -1
    )  # the column before the first that a segment can begin in
    if document_BxT is not None:
      last_BxT = jnp.where(
        document_BxT[:, 1:] != document_BxT[:, :-1], column_T[:-1], -1
      )  # of a document
      before_BxT = jax.lax.cummax(jnp.pad(last_BxT, ((0, 0), (1, 0)), constant_values=-1), axis=1)
    headless_BxT = own_BxT <= before_BxT
    heads_BxT = jnp.where(
      headless_BxT, self.pad, jnp.take_along_axis(tokens_BxT, jnp.maximum(own_BxT, 0), axis=1)
    )
    at_BxT = jnp.maximum(own_BxT, before_BxT)
    indices_BxT = column_T - at_BxT
    if head_BxM is not None:
      before = at_BxT < 0
      heads_BxT = jnp.where(before, head_BxM[:, :1], heads_BxT)
      indices_BxT = jnp.where(before, index_B[:, None] + column_T + 1, indices_BxT)
    markers = [heads_BxT]
    for i in range(1, self.config.address_markers):
      # Marker i of a column is marker i - 1 of the last column before its segment.
      read_BxT = jnp.take_along_axis(markers[-1], jnp.maximum(own_BxT - 1, 0), axis=1)
      read_BxT = jnp.where(own_BxT - 1 <= before_BxT, self.pad, read_BxT)
      if head_BxM is not None:
        read_BxT = jnp.where(own_BxT == 0, head_BxM[:, i - 1 : i], read_BxT)
        read_BxT = jnp.where(own_BxT < 0, head_BxM[:, i : i + 1], read_BxT)
      markers.append(jnp.where(markers[-1] == self.pad, self.pad, read_BxT))
    return jnp.stack(markers, axis=2), jnp.minimum(indices_BxT, self.n_indices - 1)

  def _run(
    self, params, tokens_BxT, columns: Columns, cache: Cache | None, keep: bool, document_BxT=None
  ):
    """The layers on T columns; returns activations, the layers' caches where `keep`, and the columns' addresses."""
    cfg = self.config
    heads_BxT, indices_BxT = self._segments(
      tokens_BxT,
      *((cache.segment_head, cache.segment_index) if cache is not None else (None, None)),
      document_BxT,
    )
    x = self._ends.apply(
      {'params': params['ends']}, tokens_BxT, heads_BxT, indices_BxT, method=Ends.embed
    )

    def block(p, x, layer_cache):
      return Block(cfg).apply({'params': p}, x, columns, layer_cache)

    if cfg.remat and not keep:
      block = jax.checkpoint(block)
    if cfg.scan_layers and not keep:
      x, _ = jax.lax.scan(lambda x, p: (block(p, x, None)[0], None), x, params['blocks'])
      return x, (), (heads_BxT, indices_BxT)
    layers = []
    for i in range(cfg.n_layers):
      x, layer = block(_layer(params, i), x, cache.layers[i] if cache is not None else None)
      layers.append(layer)
    return x, tuple(layers), (heads_BxT, indices_BxT)

  def _logits(self, params, x):
    """Logits of the next token. Padding stands for no token, so it has no probability."""
    logits = self._ends.apply({'params': params['ends']}, x, method=Ends.logits)
    return jnp.where(jnp.arange(self.vocab_size) == self.pad, -1e30, logits)

  def _columns(self, document_BxT: jax.Array) -> Columns:
    """Columns that see those of their own document, up to themselves. (Padding sees all documents, and nothing sees it.)"""
    n = document_BxT.shape[1]
    number_T = jnp.arange(n)
    sees = lambda query, key: (key > 0) & ((query == key) | (query == 0))
    before = lambda b: jnp.pad(document_BxT, ((0, 0), (b, 0)))[:, :n]
    near_BxTxC = jnp.stack(
      [sees(document_BxT, before(b)) for b in range(max(self.config.conv_width, 1))], axis=2
    )
    visible = []
    chunk = -(-n // max(1, round(n / (self.chunk or n))))
    for first in range(0, n, chunk):
      behind = min(first + chunk, n)
      same = sees(document_BxT[:, first:behind, None], document_BxT[:, None, :behind])
      visible.append(barrier(same & (number_T[first:behind, None] >= number_T[:behind])))
    return Columns(document_BxT > 0, number_T, near_BxTxC, tuple(visible))

  def apply(
    self, params, tokens_BxT: jax.Array, start: int = 0, document_BxT: jax.Array | None = None
  ) -> jax.Array:
    """float32 logits [B, T - start, V] of the token after each column from `start` on.

    `document_BxT` int32: which of the documents packed into a row each column belongs to, 0 for padding; a document's
    columns are neighbours and see nothing of other documents. None: one document a row.
    """
    if document_BxT is None:
      document_BxT = (tokens_BxT != self.pad).astype(jnp.int32)
    x, _, _ = self._run(
      params, tokens_BxT, self._columns(document_BxT), None, keep=False, document_BxT=document_BxT
    )
    return self._logits(params, x[:, start:])

  def prefill(self, params, tokens_BxP: jax.Array, capacity: int) -> tuple[jax.Array, Cache]:
    """Runs prompts (padded on the left) in one pass.

    Returns the logits [B, V] of the token after the prompt, and a cache with room for `capacity` columns in all.
    """
    valid_BxP = tokens_BxP != self.pad
    columns = self._columns(valid_BxP.astype(jnp.int32))
    x, layers, (heads, indices) = self._run(params, tokens_BxP, columns, None, keep=True)
    cache = Cache(layers, valid_BxP, jnp.int32(tokens_BxP.shape[1]), heads[:, -1], indices[:, -1])
    return self._logits(params, x[:, -1:])[:, 0], self.extend(cache, capacity)

  def extend(self, cache: Cache, capacity: int) -> Cache:
    """The cache with room for `capacity` columns in all (at least as many as it has room for)."""
    more = capacity - cache.valid.shape[1]
    room = lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, more), (0, 0)))
    layers = tuple(LayerCache(room(c.keys), room(c.values), c.tail) for c in cache.layers)
    return cache._replace(layers=layers, valid=jnp.pad(cache.valid, ((0, 0), (0, more))))

  def decode_step(self, params, cache: Cache, token_B: jax.Array) -> tuple[jax.Array, Cache]:
    """Writes one token per row into the cache; returns the logits [B, V] of the next, and the cache."""
    tokens_Bx1 = token_B[:, None]
    valid_Bx1 = tokens_Bx1 != self.pad
    valid_BxS = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid_Bx1, cache.column, axis=1)
    columns = Columns(
      valid_Bx1, cache.column[None], valid_Bx1[..., None], (barrier(valid_BxS[:, None]),)
    )
    x, layers, (heads, indices) = self._run(params, tokens_Bx1, columns, cache, keep=True)
    cache = Cache(layers, valid_BxS, cache.column + 1, heads[:, -1], indices[:, -1])
    return self._logits(params, x)[:, 0], cache
