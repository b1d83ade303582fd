"""AdamW or Muon, with gradient clipping and warm-up, as one optax chain."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from optax import contrib

SCHEDULES = ('constant', 'cosine')
OPTIMIZERS = ('adamw', 'muon')
# optax's own (Jordan et al. 2024), a row per iteration: rows are looped over; one for all would be unrolled, and compile longer.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Config section `optimizer`, shared by all stages: see configs/default.py for what each field means."""

  b1: float
  b2: float
  eps: float
  weight_decay: float
  clip_norm: float
  muon_scale: float


def schedule(peak: float, warmup: int, steps: int, shape: str) -> optax.Schedule:
  """Learning rate by update: linear from 0 over `warmup` updates, then constant or a cosine down to a tenth of it."""
  start = 0.0 if warmup else peak
  if shape == 'constant':
    return optax.linear_schedule(start, peak, max(warmup, 1))
  return optax.warmup_cosine_decay_schedule(start, peak, warmup, max(steps, warmup + 1), 0.1 * peak)


def _muon_dimensions(params):
  """Muon takes the layers' weight matrices [N, in, out]; everything else (embeddings, scales, convolutions) is AdamW's."""

  def dimensions(path, leaf):
    matrix = path[0].key == 'blocks' and leaf.ndim == 3 and path[-1].key != 'conv'
    return contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2) if matrix else None

  return jax.tree.map_with_path(dimensions, params)


def _clip(bound: float) -> optax.GradientTransformationExtraArgs:
  """`optax.clip_by_global_norm` that can be told the norm, by who holds only some of the gradients."""

  def update(grads, state, params=None, *, norm=None, **_):
    norm = optax.tree.norm(grads) if norm is None else norm
    scale = jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda g: g * scale, grads), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def make(config: OptimizerConfig, name: str, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """Gradient clipping by global norm, then the optimizer.

  `adamw`: Loshchilov & Hutter 2019, arXiv 1711.05101. `muon`: orthogonalised momentum for the weight matrices at
  `muon_scale` times the learning rate, AdamW with Nesterov momentum for the rest
  (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982).
  """
  if name == 'muon':
    scaled = lambda step: config.muon_scale * learning_rate(step)
    tx = contrib.muon(
        scaled, NEWTON_SCHULZ, weight_decay=config.weight_decay, eps=config.eps,
        muon_weight_dimension_numbers=_muon_dimensions,
        adam_b1=config.b1, adam_b2=config.b2, adam_weight_decay=config.weight_decay, adam_learning_rate=learning_rate,
    )  # fmt: skip
  else:
    tx = optax.adamw(learning_rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay)
  return optax.chain(_clip(config.clip_norm), tx)
