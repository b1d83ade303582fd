"""On-policy policy gradient on an exact-match reward.

What is left out of PPO and why: no value network and no GAE (one reward at the end of a short trace; the group mean is
the baseline), no reward model (the answer is checked), no replay (samples are used at once, `epochs` times).
The KL term is off by default: from-scratch models have no prior worth staying close to beyond their own start.
"""

import dataclasses

import jax
import jax.numpy as jnp

from compgen_jax.learning import losses
from compgen_jax.learning.exploration import explore, summary
from compgen_jax.learning.state import Setup, TrainState, gradient, update


@dataclasses.dataclass(frozen=True)
class RLConfig:
  """Config section `rl`: see configs/default.py for what each field means."""

  prompts: int
  group: int
  temperature: float
  optimizer: str
  lr: float
  warmup: int
  schedule: str
  estimator: str
  average: str
  epochs: int
  clip_low: float
  clip_high: float
  kl: float
  entropy: float
  drop_no_signal: bool


def step(
  state: TrainState, key: jax.Array, setup: Setup, config: RLConfig, reference
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One batch of prompts: explore, judge, and `epochs` updates. `reference`: the stage's initial parameters (for KL)."""
  key = jax.random.fold_in(key, state.step)

  # Explore.
  e = explore(setup, state.params, key, group=config.group, temperature=config.temperature)

  # Judge.
  reward_B = e.verdict.answer.astype(jnp.float32)
  advantage_B = losses.advantages(reward_B, config.group, config.estimator, setup.mean(reward_B))
  signal_B = losses.has_signal(reward_B, config.group)
  used_BxC = e.rollout.mask & (signal_B[:, None] | (not config.drop_no_signal))
  weight_BxC = losses.weights(used_BxC, config.average, setup.sum)

  # Learn. Samples whose gradient is zero are left out: a group that is all right or all wrong has no signal.
  matters_B = (advantage_B != 0) | (config.kl > 0) | (config.entropy > 0)
  advantage_BxC = jnp.broadcast_to(advantage_B[:, None], weight_BxC.shape)
  columns = dict(old_log_prob=e.rollout.log_probs, advantage=advantage_BxC, weight=weight_BxC)
  rows, n_rows = setup.pack(
    e.prompts, e.rollout.tokens, (weight_BxC > 0) & matters_B[:, None], columns
  )

  def epoch(state, _):
    loss = lambda p, block: surrogate(p, block, setup, config, reference)
    grads, metrics = gradient(loss, state.params, rows, setup, n_rows)
    new, more = update(state, grads, setup)
    gap = setup.largest(metrics.pop('log_prob_gap'))
    return new._replace(step=state.step), setup.sum(metrics) | more | {'log_prob_gap': gap}

  new, metrics = jax.lax.scan(epoch, state, None, length=config.epochs)
  finite, gap = jnp.min(metrics['finite']), metrics['log_prob_gap'][0]
  metrics = {name: jnp.mean(value) for name, value in metrics.items()} | summary(e, setup)
  return new._replace(step=state.step + 1), metrics | {
    'finite': finite,
    'log_prob_gap': gap,
    'signal': setup.mean(signal_B),
  }


def surrogate(params, block: dict[str, jax.Array], setup: Setup, config: RLConfig, reference):
  """The weighted sum over a block of packed rows of the per-token objective: clipped policy gradient, KL, entropy bonus."""
  counts_NxW = block['weight'] > 0

  def judge(p):
    logits_NxWxV = (
      setup.model.apply(p, block['token'], document_BxT=block['document']) / config.temperature
    )
    # Targets without weight (prompts, padding) may be as good as impossible: kept away from every exp.
    return logits_NxWxV, jnp.where(
      counts_NxW, losses.token_log_probs(logits_NxWxV, block['target']), 0.0
    )

  logits_NxWxV, log_prob_NxW = judge(params)
  old, low, high = block['old_log_prob'], config.clip_low, config.clip_high
  loss_NxW = losses.policy_gradient(log_prob_NxW, old, block['advantage'], low, high)
  outside_NxW = (
    jnp.abs(jnp.clip(jnp.exp(log_prob_NxW - old), 1 - low, 1 + high) - jnp.exp(log_prob_NxW - old))
    > 0
  )
  # Between who samples and who learns; 0 but for rounding on the first update of a batch.
  gap_NxW = jnp.where(counts_NxW, jnp.abs(log_prob_NxW - old), 0.0)
  metrics = {
    'clipped': jnp.sum(outside_NxW * block['weight']),
    'log_prob_gap': jax.lax.stop_gradient(jnp.max(gap_NxW)),
  }
  if config.kl:
    kl_NxW = losses.kl_penalty(log_prob_NxW, jax.lax.stop_gradient(judge(reference)[1]))
    loss_NxW += config.kl * kl_NxW
    metrics['kl'] = jnp.sum(kl_NxW * block['weight'])
  if config.entropy:
    loss_NxW -= config.entropy * losses.entropy(logits_NxWxV)
  loss = jnp.sum(loss_NxW * block['weight'])
  return loss, metrics | {'loss': loss}
