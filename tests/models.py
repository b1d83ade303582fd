"""Tiny models for tests: parameters without compilation, and a jit that compiles fast, not well."""

import functools

import jax
import numpy as np

from compgen_jax.model.modules import ModelConfig
from compgen_jax.model.transformer import Model

# Letters are 0 .. 5; markers are 6 .. 11, among them `end` and `pad`.
N_CONTENT, END, PAD, VOCAB = 6, 10, 11, 12
N_INDICES = 5

_FAST_TO_COMPILE = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
  'xla_cpu_use_fusion_emitters': False,
}
FAST_XLA_FLAGS = ' '.join(
  f'--{name}={str(value).lower()}' for name, value in _FAST_TO_COMPILE.items()
)


def quick_jit(function, **kwargs):
  return jax.jit(function, compiler_options=_FAST_TO_COMPILE, **kwargs)


def config(**changes) -> ModelConfig:
  fields = dict(
    d_model=16, n_layers=2, n_heads=2, d_ff=32, positions='segment', conv_width=4, tied=False
  )
  fields['address_markers'] = 1
  return ModelConfig(
    **{**fields, 'dtype': 'float32', 'remat': False, 'scan_layers': False, **changes}
  )


def model(**changes) -> Model:
  return Model(config(**changes), VOCAB, N_CONTENT, N_INDICES, PAD)


@functools.cache
def params(m: Model, seed: int = 0):
  """Random parameters of the usual size; unlike fresh ones, the scales of the norms are not 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape).astype(np.float32)
    if path[-1].key == 'scale':
      return 1.0 + 0.2 * noise
    embedding = path[0].key == 'ends' and path[-1].key != 'out'
    return noise if embedding else noise * leaf.shape[-2] ** -0.5

  return jax.tree.map_with_path(draw, jax.eval_shape(m.init_params, jax.random.key(0)))


def random_tokens(rows: int, columns: int, seed: int = 0) -> np.ndarray:
  """Any tokens but padding."""
  return np.random.default_rng(seed).integers(0, PAD, size=(rows, columns)).astype(np.int32)


def pad_left(tokens: np.ndarray, lengths) -> np.ndarray:
  """Row i keeps its last lengths[i] tokens."""
  return np.where(
    np.arange(tokens.shape[1]) < tokens.shape[1] - np.asarray(lengths)[:, None], PAD, tokens
  )
