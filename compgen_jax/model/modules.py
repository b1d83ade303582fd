"""The Flax modules of the transformer: the block, and the ends (embedding and unembedding).

Shape letters: B rows, T columns (queries), K key columns, D width, H attention heads, A width of a
head, F feed-forward width, O taps of the convolution, V vocabulary entries, I markers of an
address.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from compgen_jax.model.kernels import attention, causal_convolution, embedding, matmul, squared_relu

POSITIONS = ('segment', 'rope', 'none')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Config section `model`: see configs/default.py for what each field means."""

  d_model: int = 64
  n_layers: int = 2
  repeats: int = 1
  n_heads: int = 2
  d_ff: int = 256
  positions: str = 'segment'
  address_markers: int = 1
  conv_width: int = 4
  tied: bool = True
  dtype: str = 'float32'
  remat: bool = False
  scan_layers: bool = False

  @property
  def depth(self) -> int:
    """Blocks that a token passes. With `repeats` > 1 all are run in order so many times, with
    the same weights (Dehghani et al. 2019, arXiv 1807.03819)."""
    return self.n_layers * self.repeats


class Layout(NamedTuple):
  """Which columns there are and which see which: the same for all blocks.

  Attributes:
    valid: bool[B, T], false for padding.
    column: int32[T], the number of each column in its row.
    near: bool[B, T, O], whether column t and the column o before it belong to one document.
    biases: the attention bias of each chunk of queries (`kernels.attention_bias`), float32[B,
      queries, keys]. The chunks follow each other and together hold the T queries. The keys of a
      chunk are the first columns of the row, up to the chunk's last query.
  """

  valid: jax.Array
  column: jax.Array
  near: jax.Array
  biases: tuple[jax.Array, ...]


class BlockCache(NamedTuple):
  """What a block keeps of earlier columns, in the dtype of activations.

  Attributes:
    keys: [B, H, K, A].
    values: [B, H, K, A].
    tail: [B, O - 1, D], the last inputs of the convolution, 0 for padding.
  """

  keys: jax.Array
  values: jax.Array
  tail: jax.Array


class RMSNorm(nn.Module):
  """x / rms(x) * scale, computed in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale_D = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(mean_square + 1e-6) * scale_D).astype(x.dtype)


class Block(nn.Module):
  """One transformer block, on whole rows (`cache` None) or on the one column after a cache."""

  config: ModelConfig

  def setup(self):
    cfg = self.config

    def weight(name, n_inputs, n_outputs):
      return self.param(name, nn.initializers.normal(n_inputs**-0.5), (n_inputs, n_outputs))

    # The order of these calls decides which random numbers each weight starts from.
    if cfg.conv_width:
      self.conv = weight('conv', cfg.conv_width, cfg.d_model)
    self.qkv = weight('qkv', cfg.d_model, 3 * cfg.d_model)
    self.attention_out = weight('attention_out', cfg.d_model, cfg.d_model)
    self.ff_in = weight('ff_in', cfg.d_model, cfg.d_ff)
    self.ff_out = weight('ff_out', cfg.d_ff, cfg.d_model)
    self.attention_norm = RMSNorm()
    self.ff_norm = RMSNorm()

  def __call__(
    self, x_BxTxD: jax.Array, layout: Layout, cache: BlockCache | None
  ) -> tuple[jax.Array, BlockCache]:
    """The block's output [B, T, D], and its cache with these columns in it."""
    residual_scale = (2 * self.config.depth) ** -0.5
    h_BxTxD, tail = self._convolve(self.attention_norm(x_BxTxD), layout, cache)
    mixed_BxTxD, keys, values = self._attend(h_BxTxD, layout, cache)
    x_BxTxD += mixed_BxTxD * residual_scale
    x_BxTxD += self._feed_forward(self.ff_norm(x_BxTxD)) * residual_scale
    return x_BxTxD, BlockCache(keys, values, tail)

  def _convolve(self, h_BxTxD, layout: Layout, cache: BlockCache | None):
    """The convolved input (the input itself without convolution), and the new `tail`."""
    n_taps = self.config.conv_width
    n_tail = max(n_taps - 1, 0)
    if cache is None:
      tail = jnp.zeros((h_BxTxD.shape[0], n_tail, self.config.d_model), h_BxTxD.dtype)
    else:
      tail = cache.tail
    if not n_taps:
      return h_BxTxD, tail
    kernel_OxD = self.conv.astype(h_BxTxD.dtype)
    inputs = jnp.concatenate([tail, h_BxTxD * layout.valid[..., None]], axis=1)
    new_tail = inputs[:, inputs.shape[1] - n_tail :]
    if cache is None:
      return causal_convolution(h_BxTxD, kernel_OxD, layout.near), new_tail
    # One column: its taps reach back into the tail.
    taps = sum(inputs[:, n_tail - o : n_tail - o + 1] * kernel_OxD[o] for o in range(n_taps))
    return h_BxTxD + taps, new_tail

  def _attend(self, h_BxTxD, layout: Layout, cache: BlockCache | None):
    """Multi-head attention: its output [B, T, D], and keys and values [B, H, K, A]."""
    cfg = self.config
    n_rows, n_columns, _ = h_BxTxD.shape
    d_head = cfg.d_model // cfg.n_heads

    # Queries, keys and values of each head. The gradient of `lax.split` is one concatenation, into
    # which XLA fuses the three transposes.
    qkv = _project(h_BxTxD, self.qkv).reshape(n_rows, n_columns, 3 * cfg.n_heads, d_head)
    n_heads_of_each = (cfg.n_heads, cfg.n_heads, cfg.n_heads)
    q_BxTxHxA, k_BxTxHxA, v_BxTxHxA = jax.lax.split(qkv, n_heads_of_each, axis=2)
    if cfg.positions == 'rope':
      q_BxTxHxA, k_BxTxHxA = _rope(q_BxTxHxA, layout.column), _rope(k_BxTxHxA, layout.column)
    q_BxHxTxA = jnp.swapaxes(q_BxTxHxA * d_head**-0.5, 1, 2)
    keys, values = jnp.swapaxes(k_BxTxHxA, 1, 2), jnp.swapaxes(v_BxTxHxA, 1, 2)
    if cache is not None:
      keys = _write(cache.keys, keys, layout.column[0])
      values = _write(cache.values, values, layout.column[0])

    # Chunk by chunk; each meets only the keys that its last query may see.
    mixed, first = [], 0
    for bias in layout.biases:
      _, n_queries, n_keys = bias.shape
      q = q_BxHxTxA[:, :, first : first + n_queries]
      out = attention(q, keys[:, :, :n_keys], values[:, :, :n_keys], bias)
      mixed.append(jnp.swapaxes(out, 1, 2))
      first += n_queries
    mixed_BxTxD = jnp.concatenate(mixed, axis=1).reshape(h_BxTxD.shape)
    return _project(mixed_BxTxD, self.attention_out), keys, values

  def _feed_forward(self, h_BxTxD):
    h_BxTxF = squared_relu(_project(h_BxTxD, self.ff_in))
    return _project(h_BxTxF, self.ff_out)


class Ends(nn.Module):
  """The embedding and the unembedding, which share a table where `tied`."""

  config: ModelConfig
  vocab_size: int
  n_indices: int

  def setup(self):
    normal, d = nn.initializers.normal(1.0), self.config.d_model
    self.token = self.param('token', normal, (self.vocab_size, d))
    if self.config.positions == 'segment':
      n_markers = range(self.config.address_markers)
      self.markers = [self.param(f'marker_{i}', normal, (self.vocab_size, d)) for i in n_markers]
      self.index = self.param('index', normal, (self.n_indices, d))
    self.norm = RMSNorm()
    if not self.config.tied:
      self.out = self.param('out', nn.initializers.normal(d**-0.5), (d, self.vocab_size))

  def __call__(self, tokens_BxT, markers_BxTxI, indices_BxT):
    """Both ends on the same tokens; only used to make the parameters."""
    return self.logits(self.embed(tokens_BxT, markers_BxTxI, indices_BxT))

  def embed(self, tokens_BxT, markers_BxTxI, indices_BxT) -> jax.Array:
    """[B, T, D] in the dtype of activations."""
    dtype = DTYPES[self.config.dtype]
    x_BxTxD = embedding(self.token.astype(dtype), tokens_BxT)
    if self.config.positions == 'segment':
      for i, table in enumerate(self.markers):
        x_BxTxD += embedding(table.astype(dtype), markers_BxTxI[..., i])
      x_BxTxD += embedding(self.index.astype(dtype), indices_BxT)
    return x_BxTxD

  def logits(self, x_BxTxD) -> jax.Array:
    """float32[B, T, V]."""
    x_BxTxD = self.norm(x_BxTxD)
    if not self.config.tied:
      return _project(x_BxTxD, self.out).astype(jnp.float32)
    logits_BxTxV = _project(x_BxTxD, self.token.T).astype(jnp.float32)
    return logits_BxTxV * self.config.d_model**-0.5


def _project(x: jax.Array, weight: jax.Array) -> jax.Array:
  return matmul(x, weight.astype(x.dtype))


def _write(whole_BxHxKxA: jax.Array, new_BxHx1xA: jax.Array, column: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(whole_BxHxKxA, new_BxHx1xA, column, axis=2)


def _rope(x_BxTxHxA: jax.Array, column_T: jax.Array) -> jax.Array:
  """Rotates each pair (a, a + A / 2) of entries by an angle that is proportional to the column."""
  half = x_BxTxHxA.shape[-1] // 2
  angle = column_T[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
  cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
  a, b = x_BxTxHxA[..., :half].astype(jnp.float32), x_BxTxHxA[..., half:].astype(jnp.float32)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BxTxHxA.dtype)
