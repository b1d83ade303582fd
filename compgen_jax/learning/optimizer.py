"""AdamW or Muon, with gradient clipping and warm-up, as one optax chain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

SCHEDULES = ('constant', 'cosine')
OPTIMIZERS = ('adamw', 'muon')
# Muon's (Jordan et al. 2024): polynomials a x + b x^3 + c x^5, one after the other, which bring singular values near 1.
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


def is_matrix(path, leaf) -> bool:
  """Muon takes the layers' weight matrices [N, in, out]; everything else (embeddings, scales, convolutions) is AdamW's."""
  return path[0].key == 'blocks' and leaf.ndim == 3 and path[-1].key != 'conv'


def orthogonalise(matrices: list[jax.Array]) -> list[jax.Array]:
  """Matrices X (arrays [N, in, out]), of norm 1 at most, with their singular values brought near 1 by NEWTON_SCHULZ.

  A polynomial in X is q(X X^T) X, and the next X X^T is q X X^T q: so all products but the first and the last are between
  small square matrices ("Gram Newton-Schulz", dao-lab.ai/blog/2026/gram-newton-schulz), a third fewer operations than on X.
  In float32 whatever the platform's default: rounded further, eigenvalues near 0 turn negative and grow.
  """
  swap = lambda x: jnp.swapaxes(x, 1, 2)
  with jax.default_matmul_precision('float32'):
    wide = [x if x.shape[1] <= x.shape[2] else swap(x) for x in matrices]
    whole = _whole_polynomial([x @ swap(x) for x in wide])
    return [q @ w if w is x else swap(q @ w) for q, w, x in zip(whole, wide, matrices)]


def _whole_polynomial(grams: list[jax.Array]) -> list[jax.Array]:
  """The product of all q(X X^T), for each X X^T [N, side, side]; those of one side as one batch."""
  out = list(grams)
  for side in {gram.shape[1] for gram in grams}:
    members = [i for i, gram in enumerate(grams) if gram.shape[1] == side]
    gram, whole = jnp.concatenate([grams[i] for i in members]), None
    for i, (a, b, c) in enumerate(NEWTON_SCHULZ):
      q = a * jnp.eye(side) + b * gram + c * (gram @ gram)
      whole = q if whole is None else q @ whole
      if i + 1 < len(NEWTON_SCHULZ):
        gram = q @ (q @ gram)
    ends = np.cumsum([grams[i].shape[0] for i in members])
    for i, part in zip(members, jnp.split(whole, ends[:-1])):
      out[i] = part
  return out


def _muon(config: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
  """`optax.contrib.muon` for matrices [N, in, out], with `orthogonalise`."""
  dimensions = lambda updates: jax.tree.map(lambda _: contrib.MuonDimensionNumbers(1, 2), updates)

  def orthogonal(updates, params):
    del params
    leaves, structure = jax.tree.flatten(updates)
    by_shape = [y * max(1.0, y.shape[2] / y.shape[1]) ** 0.5 for y in orthogonalise(leaves)]
    return jax.tree.unflatten(structure, by_shape)

  return optax.chain(
    contrib.scale_by_muon(
      ns_steps=0, eps=config.eps, weight_dimension_numbers=dimensions
    ),  # momentum, of norm 1
    optax.stateless(orthogonal),
    optax.add_decayed_weights(config.weight_decay),
    optax.scale_by_learning_rate(lambda step: config.muon_scale * learning_rate(step)),
  )


def _clip(bound: float) -> optax.GradientTransformationExtraArgs:
  """`optax.clip_by_global_norm` that can be told the norm, by who holds only some of the gradients."""

  def update(grads, state, params=None, *, norm=None, **_):
    norm = optax.tree.norm(grads) if norm is None else norm
    scale = jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda g: g * scale, grads), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def make(
  config: OptimizerConfig, name: str, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """Gradient clipping by global norm, then the optimizer.

  `adamw`: Loshchilov & Hutter 2019, arXiv 1711.05101. `muon`: orthogonalised momentum for the weight matrices at
  `muon_scale` times the learning rate, AdamW with Nesterov momentum for the rest
  (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982).
  """
  adamw = lambda nesterov: optax.adamw(
    learning_rate,
    config.b1,
    config.b2,
    config.eps,
    weight_decay=config.weight_decay,
    nesterov=nesterov,
  )
  if name == 'muon':
    label = lambda path, leaf: 'muon' if is_matrix(path, leaf) else 'adamw'
    parts = {'muon': _muon(config, learning_rate), 'adamw': adamw(nesterov=True)}
    tx = optax.partition(parts, lambda params: jax.tree.map_with_path(label, params))
  else:
    tx = adamw(nesterov=False)
  return optax.chain(_clip(config.clip_norm), tx)
