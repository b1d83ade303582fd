"""AdamW or Muon with gradient clipping, as one optax chain; schedules of the learning rate.

Every update is told its learning rate, so that stages that differ in it alone share a compiled
program.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from compgen_jax.learning.sharding import split_first
from compgen_jax.model.transformer import is_matrix

SCHEDULES = ('constant', 'cosine')
# Muon's (Jordan et al. 2024): polynomials a x + b x^3 + c x^5, applied one after the other, which
# bring singular values near 1.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Config section `optimizer`, shared by all stages.

  See configs/default.py for what each field means.
  """

  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  muon_scale: float = 5.0

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    """For each field that can be wrong: its name, whether its value can work, what is legal."""
    for name in ('b1', 'b2'):
      yield name, 0 <= getattr(self, name) < 1, '0 to below 1'
    for name in ('eps', 'clip_norm', 'muon_scale'):
      yield name, getattr(self, name) > 0, 'above 0'
    yield 'weight_decay', self.weight_decay >= 0, '0 or more'


def schedule(peak: float, warmup: int, steps: int, shape: str) -> optax.Schedule:
  """Learning rate by update: linear from 0 to `peak`, then constant or a cosine to a tenth of it.

  Args:
    peak: the highest learning rate.
    warmup: updates from 0 to the peak.
    steps: the update at which the cosine ends; what follows stays there.
    shape: one of SCHEDULES.
  """
  start = 0.0 if warmup else peak
  if shape == 'constant':
    return optax.linear_schedule(start, peak, max(warmup, 1))
  steps = max(steps, warmup + 1)
  return optax.warmup_cosine_decay_schedule(start, peak, warmup, steps, 0.1 * peak)


def _transposed(x: jax.Array) -> jax.Array:
  return jnp.swapaxes(x, 1, 2)


def orthogonalise(matrices: list[jax.Array]) -> list[jax.Array]:
  """Matrices X with their singular values brought near 1 by NEWTON_SCHULZ.

  A polynomial in X is q(X X^T) X, and the next X X^T is q X X^T q. So all products but the first
  and the last are between small square matrices ("Gram Newton-Schulz",
  dao-lab.ai/blog/2026/gram-newton-schulz): a third fewer operations than on X. They are float32
  whatever the platform's default: rounded further, eigenvalues near 0 turn negative and grow.

  Args:
    matrices: arrays [N, in, out], each matrix of norm 1 at most.
  """
  with jax.default_matmul_precision('float32'):
    wide = [x if x.shape[1] <= x.shape[2] else _transposed(x) for x in matrices]
    whole = _whole_polynomial([x @ _transposed(x) for x in wide])
    return [q @ w if w is x else _transposed(q @ w) for q, w, x in zip(whole, wide, matrices)]


def _whole_polynomial(grams: list[jax.Array]) -> list[jax.Array]:
  """The product of all q(X X^T), for each X X^T [N, side, side]; those of one side as one batch."""
  out = list(grams)
  for side in {gram.shape[1] for gram in grams}:
    members = [i for i, gram in enumerate(grams) if gram.shape[1] == side]
    gram, whole = split_first(jnp.concatenate([grams[i] for i in members])), None
    for i, (a, b, c) in enumerate(NEWTON_SCHULZ):
      q = a * jnp.eye(side) + b * gram + c * (gram @ gram)
      whole = q if whole is None else q @ whole
      if i + 1 < len(NEWTON_SCHULZ):
        gram = q @ (q @ gram)
    ends = np.cumsum([grams[i].shape[0] for i in members])
    for i, part in zip(members, jnp.split(whole, ends[:-1])):
      out[i] = part
  return out


def _clip(bound: float) -> optax.GradientTransformationExtraArgs:
  """`optax.clip_by_global_norm` that can be told the norm.

  A device that holds only some of the gradients can't compute it.
  """

  def update(grads, state, params=None, *, norm=None, **_):
    norm = optax.tree.norm(grads) if norm is None else norm
    scale = jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda g: g * scale, grads), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


# Optimizers ---------------------------------------------------------------------------------------
#
# To add one: a function of the config, and an entry in OPTIMIZERS.


def _descend(config: OptimizerConfig, scale: float = 1.0) -> optax.GradientTransformation:
  """Decoupled weight decay, and minus `scale` times the learning rate that the update is told."""

  def update(updates, state, params=None, *, learning_rate, **_):
    del params
    return jax.tree.map(lambda u: -scale * learning_rate * u, updates), state

  by_rate = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
  return optax.chain(optax.add_decayed_weights(config.weight_decay), by_rate)


def adamw(config: OptimizerConfig, nesterov: bool = False) -> optax.GradientTransformation:
  """Loshchilov & Hutter 2019, arXiv 1711.05101."""
  moments = optax.scale_by_adam(config.b1, config.b2, config.eps, nesterov=nesterov)
  return optax.chain(moments, _descend(config))


def muon(config: OptimizerConfig) -> optax.GradientTransformation:
  """Orthogonalised momentum for weight matrices, AdamW with Nesterov momentum for the rest.

  Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982. Matrices get `muon_scale` times the
  learning rate.
  """

  def labels(params):
    def label(path, leaf):
      return 'muon' if is_matrix(path, leaf) else 'adamw'

    return jax.tree.map_with_path(label, params)

  rest = adamw(config, nesterov=True)
  return optax.partition({'muon': _muon_matrices(config), 'adamw': rest}, labels)


def _muon_matrices(config: OptimizerConfig) -> optax.GradientTransformation:
  """`optax.contrib.muon` for matrices [N, in, out], with `orthogonalise`."""

  def dimensions(updates):
    return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(1, 2), updates)

  def orthogonal(updates, params):
    del params
    leaves, structure = jax.tree.flatten(updates)
    by_shape = [y * max(1.0, y.shape[2] / y.shape[1]) ** 0.5 for y in orthogonalise(leaves)]
    return jax.tree.unflatten(structure, by_shape)

  # Without iterations of its own, optax' Muon is the momentum, scaled to norm 1.
  momentum = contrib.scale_by_muon(ns_steps=0, eps=config.eps, weight_dimension_numbers=dimensions)
  descend = _descend(config, config.muon_scale)
  return optax.chain(momentum, optax.stateless(orthogonal), descend)


OPTIMIZERS = {f.__name__: f for f in (adamw, muon)}


@functools.cache  # the same object for the same arguments: programs are looked up by it
def make(config: OptimizerConfig, name: str) -> optax.GradientTransformationExtraArgs:
  """Gradient clipping by global norm, then the optimizer of that name.

  Its `update` takes the learning rate as `learning_rate` (float32[]) and, where the caller knows
  it, the gradient's norm as `norm`.
  """
  return optax.chain(_clip(config.clip_norm), OPTIMIZERS[name](config))
