"""On-policy policy gradient on the reward of sampled traces.

What is left out of PPO and why: no value network and no GAE (one reward at the end of a short
trace; the group mean is the baseline), no reward model (the answer is checked), no replay (samples
are used at once, `epochs` times). The KL term is off by default: a model trained from scratch has
no prior worth staying close to, beyond its own start.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp

from compgen_jax.learning import anchor, batches, exploration, losses
from compgen_jax.learning.gradients import gradient
from compgen_jax.learning.section import ExploringSection, one_of
from compgen_jax.learning.setup import Setup
from compgen_jax.learning.state import Given, TrainState, update


@dataclasses.dataclass(frozen=True)
class RLConfig(ExploringSection):
  """Config section `rl`: see configs/default.py for what each field means."""

  estimator: str = 'rloo'
  average: str = 'token'
  epochs: int = 1
  clip_low: float = 0.2
  clip_high: float = 0.28
  kl: float = 0.0
  entropy: float = 0.0
  drop_no_signal: bool = False

  smallest_group: ClassVar[int] = 2

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    yield from super().checks()
    yield 'estimator', self.estimator in losses.ESTIMATORS, one_of(losses.ESTIMATORS)
    yield 'average', self.average in losses.AVERAGES, one_of(losses.AVERAGES)
    yield 'epochs', self.epochs >= 1, '1 or more'
    yield 'clip_low', 0 <= self.clip_low <= 1, '0 to 1'
    for name in ('clip_high', 'kl', 'entropy'):
      yield name, getattr(self, name) >= 0, '0 or more'


def step(
  state: TrainState, given: Given, setup: Setup, config: RLConfig
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One batch of prompts: explore, estimate advantages, and `epochs` updates."""
  key, learning_rate, devices = given.key_of(state), given.learning_rate_of(state), setup.devices

  # Explore.
  e = exploration.explore(
    setup,
    state.params,
    key,
    given.samplers,
    group=config.group,
    temperature=config.temperature,
    reward=config.reward,
  )

  # Estimate advantages.
  advantage_B = losses.advantages(e.reward, config.group, config.estimator, devices.mean(e.reward))
  signal_B = losses.has_signal(e.reward, config.group)
  used_BxC = e.rollout.mask & (signal_B[:, None] | (not config.drop_no_signal))
  weight_BxC = losses.weights(used_BxC, config.average, devices.sum)

  # Pack. Samples whose gradient is zero are left out: all samples of a group earned the same.
  matters_B = (advantage_B != 0) | (config.kl > 0) | (config.entropy > 0)
  advantage_BxC = jnp.broadcast_to(advantage_B[:, None], weight_BxC.shape)
  features = dict(old_log_prob=e.rollout.log_probs, advantage=advantage_BxC, weight=weight_BxC)
  counts_BxC = (weight_BxC > 0) & matters_B[:, None]
  rows, n_rows = batches.pack(setup, e.prompts, e.rollout.tokens, counts_BxC, features)

  # Learn.
  of_batch = exploration.metrics(e, setup) | {'signal': devices.mean(signal_B)}

  def loss(params, part):
    return surrogate(params, part, setup, config, given.parent)

  def epoch(state, _):
    grads, metrics = gradient(loss, state.params, rows, setup, n_rows)
    gap = devices.max(jnp.max(metrics.pop('log_prob_gap')))
    grads, of_anchor = anchor.add(grads, state.params, key, given, setup, config)
    finite_too = (gap, *of_batch.values())
    new, metrics = update(state, grads, metrics | of_anchor, setup, learning_rate, finite_too)
    return new._replace(step=state.step), metrics | {'log_prob_gap': gap}

  new, metrics = jax.lax.scan(epoch, state, None, length=config.epochs)
  finite, gap = jnp.min(metrics['finite']), metrics['log_prob_gap'][0]
  metrics = {name: jnp.mean(value) for name, value in metrics.items()}
  metrics |= of_batch | {'finite': finite, 'log_prob_gap': gap}
  return new._replace(step=state.step + 1), metrics


def surrogate(
  params, rows: dict[str, jax.Array], setup: Setup, config: RLConfig, parent
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted sum over packed rows of the per-token objective: clipped policy gradient, KL, entropy.

  Args:
    params: the policy's.
    rows: packed rows [M, T] (see `packing.pack_traces`) with `old_log_prob`, `advantage`, `weight`
      float32.
    setup: holds the model.
    config: the stage's settings.
    parent: the stage's initial parameters, for the KL term.

  Returns:
    The loss, and metrics: weighted sums `loss`, `clipped` and (where used) `kl`; `log_prob_gap`,
    the largest difference between sampler and learner in the log-probability of a token, in nats.
    (On the first update of a batch it is rounding. Were it more, the gradient would be of other
    samples.)
  """
  counts_MxT = rows['weight'] > 0

  def of_targets(params):
    logits_MxTxV = setup.model.apply(params, rows['token'], document_BxT=rows['document'])
    logits_MxTxV = logits_MxTxV / config.temperature
    # A target without weight (prompt, padding) may have a log-probability of -1e30, which no exp
    # survives.
    log_prob_MxT = losses.token_log_probs(logits_MxTxV, rows['target'])
    return logits_MxTxV, jnp.where(counts_MxT, log_prob_MxT, 0.0)

  logits_MxTxV, log_prob_MxT = of_targets(params)
  old, low, high = rows['old_log_prob'], config.clip_low, config.clip_high
  loss_MxT = losses.policy_gradient(log_prob_MxT, old, rows['advantage'], low, high)
  ratio_MxT = jnp.exp(log_prob_MxT - old)
  clipped_MxT = jnp.abs(jnp.clip(ratio_MxT, 1 - low, 1 + high) - ratio_MxT) > 0
  gap_MxT = jnp.where(counts_MxT, jnp.abs(log_prob_MxT - old), 0.0)
  metrics = {
    'clipped': jnp.sum(clipped_MxT * rows['weight']),
    'log_prob_gap': jax.lax.stop_gradient(jnp.max(gap_MxT)),
  }
  if config.kl:
    parent_log_prob_MxT = jax.lax.stop_gradient(of_targets(parent)[1])
    kl_MxT = losses.kl_penalty(log_prob_MxT, parent_log_prob_MxT)
    loss_MxT += config.kl * kl_MxT
    metrics['kl'] = jnp.sum(kl_MxT * rows['weight'])
  if config.entropy:
    loss_MxT -= config.entropy * losses.entropy(logits_MxTxV)
  loss = jnp.sum(loss_MxT * rows['weight'])
  return loss, metrics | {'loss': loss}
