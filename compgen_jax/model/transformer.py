"""Decoder-only Flax transformer with an explicit decode cache.

RMS norm, no biases, squared-ReLU feed-forward (So et al. 2021, arXiv 2109.08668). Nothing in it knows a column's
absolute position, so nothing in it is new at an unseen depth; what it has instead is chosen by config:

* `conv_width` > 0: a short causal depthwise convolution over the normalised input of every attention layer, which
  tells a token its neighbours (as in H3 / Mamba blocks; So et al. use the same on queries, keys and values).
* `positions`: `segment` addresses a token by the last non-content token (the name of its segment) and by its index in
  that segment (the index part is the Abacus embedding of McLeish et al. 2024, arXiv 2405.17399); `rope` rotates queries
  and keys (Su et al. 2021, arXiv 2104.09864); `none` adds nothing (Kazemnejad et al. 2023, arXiv 2305.19466).

The module library stays in this file: callers see `Model.init_params`, `apply`, `prefill`, `decode_step`.

Shape letters: B batch rows, T columns, S cache columns, D model width, H heads, K head width, V vocabulary,
C convolution width, N layers.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

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
  the next column to write. `segment_head`, `segment_index` int32[B]: address of the last token (positions `segment`).
  """

  layers: tuple[LayerCache, ...]
  valid: jax.Array
  column: jax.Array
  segment_head: jax.Array
  segment_index: jax.Array


@jax.custom_vjp
def matmul(x_NxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
  """x @ w over the last axis of x, whose weight gradient is one product in the layout of w.

  The default transpose rule multiplies the other way round and transposes, which on CPU costs a strided copy of the
  activations as large as the product itself.
  """
  return x_NxI @ w_IxO


def _matmul_backward(saved, dy_NxO):
  x_NxI, w_IxO = saved
  rows = lambda a: a.reshape(-1, a.shape[-1])
  dw_IxO = jax.lax.dot_general(rows(x_NxI), rows(dy_NxO), (((0,), (0,)), ((), ())))
  return dy_NxO @ w_IxO.T, dw_IxO


matmul.defvjp(lambda x, w: (x @ w, (x, w)), _matmul_backward)


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
    return (x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6) * scale_D).astype(x.dtype)


class Block(nn.Module):
  """One pre-norm layer, on a whole sequence (`cache` None) or on the one column that follows a cache."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BxTxD, valid_BxT, mask_BxTxS, column_T, cache: LayerCache | None):
    cfg = self.config
    d_head = cfg.d_model // cfg.n_heads
    dense = lambda name, shape, fan_in: self.param(
        name, nn.initializers.normal(fan_in**-0.5), shape
    ).astype(x_BxTxD.dtype)
    residual_scale = (2 * cfg.n_layers) ** -0.5
    n_tail = max(cfg.conv_width - 1, 0)

    h_BxTxD = RMSNorm(name='attention_norm')(x_BxTxD) * valid_BxT[..., None]
    tail = jnp.zeros((x_BxTxD.shape[0], n_tail, cfg.d_model), h_BxTxD.dtype) if cache is None else cache.tail
    if cfg.conv_width:
      window = jnp.concatenate([tail, h_BxTxD], axis=1)
      kernel_CxD = self.param('conv', nn.initializers.normal(cfg.conv_width**-0.5), (cfg.conv_width, cfg.d_model))
      n = h_BxTxD.shape[1]
      h_BxTxD = h_BxTxD + sum(
          window[:, n_tail - back : n_tail - back + n] * kernel_CxD[back].astype(h_BxTxD.dtype)
          for back in range(cfg.conv_width)
      )
      tail = window[:, window.shape[1] - n_tail :]

    qkv_w = dense('qkv', (cfg.d_model, 3 * cfg.d_model), cfg.d_model)
    qkv = matmul(h_BxTxD, qkv_w).reshape(*h_BxTxD.shape[:2], 3, cfg.n_heads, d_head)
    q_BxTxHxK, k_BxTxHxK, v_BxTxHxK = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    if cfg.positions == 'rope':
      q_BxTxHxK, k_BxTxHxK = _rope(q_BxTxHxK, column_T), _rope(k_BxTxHxK, column_T)
    keys, values = jnp.swapaxes(k_BxTxHxK, 1, 2), jnp.swapaxes(v_BxTxHxK, 1, 2)
    if cache is not None:
      write = lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, column_T[0], axis=2)
      keys, values = write(cache.keys, keys), write(cache.values, values)
    scores_BxHxTxS = jnp.einsum('bthk,bhsk->bhts', q_BxTxHxK * d_head**-0.5, keys).astype(jnp.float32)
    scores_BxHxTxS = jnp.where(mask_BxTxS[:, None], scores_BxHxTxS, -1e30)
    attention_BxHxTxS = jax.nn.softmax(scores_BxHxTxS, axis=-1).astype(x_BxTxD.dtype)
    mixed = jnp.einsum('bhts,bhsk->bthk', attention_BxHxTxS, values).reshape(h_BxTxD.shape)
    x_BxTxD += matmul(mixed, dense('attention_out', (cfg.d_model, cfg.d_model), cfg.d_model)) * residual_scale

    h_BxTxD = RMSNorm(name='ff_norm')(x_BxTxD)
    h_BxTxF = jnp.square(jax.nn.relu(matmul(h_BxTxD, dense('ff_in', (cfg.d_model, cfg.d_ff), cfg.d_model))))
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
    self.norm = RMSNorm()
    if not self.config.tied:
      self.out = self.param('out', nn.initializers.normal(d**-0.5), (d, self.vocab_size))

  def __call__(self, tokens, heads, indices):
    """Both ends on the same tokens (used to make the parameters)."""
    return self.logits(self.embed(tokens, heads, indices))

  def embed(self, tokens, heads, indices):
    # One-hot products, not gathers: the gradient of a gather is a scatter, which is slow on every platform here.
    dtype = DTYPES[self.config.dtype]
    pick = lambda ids, table: matmul(jax.nn.one_hot(ids, table.shape[0], dtype=dtype), table.astype(dtype))
    x = pick(tokens, self.token)
    if self.config.positions == 'segment':
      x += pick(heads, self.head) + pick(indices, self.index)
    return x

  def logits(self, x_BxTxD):
    x_BxTxD = self.norm(x_BxTxD)
    if self.config.tied:
      return matmul(x_BxTxD, self.token.T.astype(x_BxTxD.dtype)).astype(jnp.float32) * self.config.d_model**-0.5
    return matmul(x_BxTxD, self.out.astype(x_BxTxD.dtype)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Model:
  """A transformer as pure functions of its parameters.

  `n_content`: token ids below it are content, all others start a segment. `n_indices`: distinct indices in a segment.
  `pad`: the token that stands for no token; columns that hold it are invisible, wherever they are.
  """

  config: ModelConfig
  vocab_size: int
  n_content: int
  n_indices: int
  pad: int

  @property
  def _ends(self) -> Ends:
    return Ends(self.config, self.vocab_size, self.n_indices)

  def init_params(self, key: jax.Array) -> dict:
    """Fresh float32 parameters: `ends`, and `blocks` with a leading axis N."""
    ends_key, blocks_key = jax.random.split(key)
    one = jnp.zeros((1, 1), jnp.int32)
    ends = self._ends.init(ends_key, one, one, one)['params']
    x, valid = jnp.zeros((1, 1, self.config.d_model)), jnp.ones((1, 1), bool)
    init = lambda k: Block(self.config).init(k, x, valid, valid[..., None], jnp.arange(1), None)['params']
    blocks = jax.vmap(init)(jax.random.split(blocks_key, self.config.n_layers))
    return {'ends': ends, 'blocks': blocks}

  def _segments(self, tokens_BxT, head_B=None, index_B=None):
    """Address of each column: its segment's head token and its index in the segment, both from the tokens alone."""
    column_T = jnp.arange(tokens_BxT.shape[1])
    is_head = tokens_BxT >= self.n_content
    at_BxT = jax.lax.cummax(jnp.where(is_head, column_T, -1), axis=1)
    heads_BxT = jnp.where(at_BxT < 0, self.pad, jnp.take_along_axis(tokens_BxT, jnp.maximum(at_BxT, 0), axis=1))
    indices_BxT = column_T - at_BxT
    if head_B is not None:
      before = at_BxT < 0
      heads_BxT = jnp.where(before, head_B[:, None], heads_BxT)
      indices_BxT = jnp.where(before, index_B[:, None] + column_T + 1, indices_BxT)
    return heads_BxT, jnp.minimum(indices_BxT, self.n_indices - 1)

  def _run(self, params, tokens_BxT, valid_BxT, mask_BxTxS, column_T, cache: Cache | None, keep: bool):
    """The layers on T columns; returns activations, the layers' caches where `keep`, and the columns' addresses."""
    cfg = self.config
    heads_BxT, indices_BxT = self._segments(
        tokens_BxT, *((cache.segment_head, cache.segment_index) if cache is not None else ())
    )
    x = self._ends.apply({'params': params['ends']}, tokens_BxT, heads_BxT, indices_BxT, method=Ends.embed)

    def block(p, x, layer_cache):
      return Block(cfg).apply({'params': p}, x, valid_BxT, mask_BxTxS, column_T, layer_cache)

    if cfg.remat and not keep:
      block = jax.checkpoint(block)
    if cfg.scan_layers and not keep:
      x, _ = jax.lax.scan(lambda x, p: (block(p, x, None)[0], None), x, params['blocks'])
      return x, (), (heads_BxT, indices_BxT)
    layers = []
    for i in range(cfg.n_layers):
      p = jax.tree.map(lambda leaf: leaf[i], params['blocks'])
      x, layer = block(p, x, cache.layers[i] if cache is not None else None)
      layers.append(layer)
    return x, tuple(layers), (heads_BxT, indices_BxT)

  def _logits(self, params, x):
    return self._ends.apply({'params': params['ends']}, x, method=Ends.logits)

  def _causal(self, tokens_BxT):
    valid_BxT = tokens_BxT != self.pad
    column_T = jnp.arange(tokens_BxT.shape[1])
    return valid_BxT, (column_T[:, None] >= column_T) & valid_BxT[:, None, :], column_T

  def apply(self, params, tokens_BxT: jax.Array, start: int = 0) -> jax.Array:
    """float32 logits [B, T - start, V] of the token after each column from `start` on."""
    x, _, _ = self._run(params, tokens_BxT, *self._causal(tokens_BxT), None, keep=False)
    return self._logits(params, x[:, start:])

  def prefill(self, params, tokens_BxP: jax.Array, capacity: int) -> tuple[jax.Array, Cache]:
    """Runs prompts (padded on the left) in one pass.

    Returns the logits [B, V] of the token after the prompt, and a cache with room for `capacity` columns in all.
    """
    valid_BxP, mask, column_P = self._causal(tokens_BxP)
    x, layers, (heads, indices) = self._run(params, tokens_BxP, valid_BxP, mask, column_P, None, keep=True)
    n = tokens_BxP.shape[1]
    room = lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, capacity - n), (0, 0)))
    layers = tuple(LayerCache(room(c.keys), room(c.values), c.tail) for c in layers)
    valid_BxS = jnp.pad(valid_BxP, ((0, 0), (0, capacity - n)))
    cache = Cache(layers, valid_BxS, jnp.int32(n), heads[:, -1], indices[:, -1])
    return self._logits(params, x[:, -1:])[:, 0], cache

  def decode_step(self, params, cache: Cache, token_B: jax.Array) -> tuple[jax.Array, Cache]:
    """Writes one token per row into the cache; returns the logits [B, V] of the next, and the cache."""
    tokens_Bx1 = token_B[:, None]
    valid_Bx1 = tokens_Bx1 != self.pad
    valid_BxS = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid_Bx1, cache.column, axis=1)
    column_1 = cache.column[None]
    x, layers, (heads, indices) = self._run(
        params, tokens_Bx1, valid_Bx1, valid_BxS[:, None], column_1, cache, keep=True
    )
    cache = Cache(layers, valid_BxS, cache.column + 1, heads[:, -1], indices[:, -1])
    return self._logits(params, x)[:, 0], cache
