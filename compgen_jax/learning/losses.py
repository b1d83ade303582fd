"""Losses and advantages, on plain arrays.

A loss is a sum over tokens, each with a weight fixed over the whole batch (`weights`), so its scale
does not depend on how the batch is laid out, cut into microbatches, or sharded.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

AVERAGES = ('token', 'sequence', 'constant')


def token_log_probs(logits_BxCxV: jax.Array, tokens_BxC: jax.Array) -> jax.Array:
  """float32[B, C]: log-probability of each token under its logits."""
  chex.assert_rank([logits_BxCxV, tokens_BxC], [3, 2])
  chex.assert_type(logits_BxCxV, jnp.float32)
  # A comparison and a sum: the gradient of a gather would be a scatter.
  chosen = tokens_BxC[..., None] == jnp.arange(logits_BxCxV.shape[-1])
  chosen_logit_BxC = jnp.sum(jnp.where(chosen, logits_BxCxV, 0.0), axis=-1)
  return chosen_logit_BxC - jax.nn.logsumexp(logits_BxCxV, axis=-1)


def entropy(logits_BxCxV: jax.Array) -> jax.Array:
  """float32[B, C]: entropy of each column's distribution, in nats."""
  log_probs = jax.nn.log_softmax(logits_BxCxV)
  return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def _as_is(x: jax.Array) -> jax.Array:
  return x


def weights(
  mask_BxC: jax.Array, how: str, all_sum: Callable[[jax.Array], jax.Array] = _as_is
) -> jax.Array:
  """float32[B, C]: token weights with which a weighted sum over the whole batch is its average.

  `token`: mean over all tokens (DAPO, Yu et al. 2025, arXiv 2503.14476). `sequence`: mean over rows
  of the mean over a row's tokens (GRPO, Shao et al. 2024, arXiv 2402.03300, eq. 3). `constant`: the
  sum over tokens divided by the constant B * C (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783). Rows
  without a token are left out of all three; without any token all weights are 0.

  Args:
    mask_BxC: bool, the tokens that count.
    how: one of AVERAGES.
    all_sum: sums a scalar over the devices that hold other rows of the batch.
  """
  chex.assert_rank(mask_BxC, 2)
  mask_BxC = mask_BxC.astype(jnp.float32)
  n_tokens_B = jnp.sum(mask_BxC, axis=1)
  if how == 'token':
    return mask_BxC / jnp.maximum(all_sum(jnp.sum(n_tokens_B)), 1.0)
  n_rows = jnp.maximum(all_sum(jnp.sum(n_tokens_B > 0)), 1)
  if how == 'sequence':
    return mask_BxC / jnp.maximum(n_tokens_B, 1.0)[:, None] / n_rows
  assert how == 'constant', how
  return mask_BxC / (n_rows * mask_BxC.shape[1])


# Advantage estimators -----------------------------------------------------------------------------
#
# To add one: a function of the rewards float32[Q, G] and their mean over the whole batch, and an
# entry in ESTIMATORS. In their docstrings r is one of the G rewards of a prompt.


def reinforce(reward_QxG: jax.Array, batch_mean: jax.Array) -> jax.Array:
  """r - mean over the batch (Williams 1992)."""
  return reward_QxG - batch_mean


def rloo(reward_QxG: jax.Array, batch_mean: jax.Array) -> jax.Array:
  """r - mean of the other G - 1 (Ahmadian et al. 2024, arXiv 2402.14740)."""
  group = reward_QxG.shape[1]
  return dr_grpo(reward_QxG, batch_mean) * (group / (group - 1))


def grpo(reward_QxG: jax.Array, batch_mean: jax.Array) -> jax.Array:
  """(r - mean) / (std + 1e-4) over the G, std of the population (Shao et al. 2024, arXiv
  2402.03300)."""
  std_Qx1 = jnp.std(reward_QxG, axis=1, keepdims=True)
  return dr_grpo(reward_QxG, batch_mean) / (std_Qx1 + 1e-4)


def dr_grpo(reward_QxG: jax.Array, batch_mean: jax.Array) -> jax.Array:
  """r - mean over the G (Liu et al. 2025, arXiv 2503.20783)."""
  del batch_mean
  return reward_QxG - jnp.mean(reward_QxG, axis=1, keepdims=True)


ESTIMATORS = {f.__name__: f for f in (reinforce, rloo, grpo, dr_grpo)}


def advantages(reward_B: jax.Array, group: int, estimator: str, batch_mean: jax.Array) -> jax.Array:
  """float32[B]: the advantage of each sample.

  Args:
    reward_B: float32; the `group` samples of a prompt are neighbours.
    group: G.
    estimator: a name in ESTIMATORS.
    batch_mean: float32[], the mean reward over the whole batch, all devices.
  """
  chex.assert_rank(reward_B, 1)
  chex.assert_type(reward_B, jnp.float32)
  return ESTIMATORS[estimator](reward_B.reshape(-1, group), batch_mean).reshape(-1)


def has_signal(reward_B: jax.Array, group: int) -> jax.Array:
  """bool[B]: the sample's group holds different rewards, so its advantages are not all zero."""
  reward_QxG = reward_B.reshape(-1, group)
  mixed_Q = jnp.max(reward_QxG, axis=1) > jnp.min(reward_QxG, axis=1)
  return jnp.repeat(mixed_Q, group)


def policy_gradient(
  log_prob_BxC: jax.Array,
  old_log_prob_BxC: jax.Array,
  advantage_BxC: jax.Array,
  clip_low: float,
  clip_high: float,
) -> jax.Array:
  """float32[B, C]: per-token surrogate -min(w A, clip(w, 1 - low, 1 + high) A), w = pi / pi_old.

  PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347, eq. 7) with DAPO's separate upper
  bound. On the first update of a batch w = 1 and the gradient is the plain policy gradient -A grad
  log pi.
  """
  chex.assert_equal_shape([log_prob_BxC, old_log_prob_BxC, advantage_BxC])
  ratio = jnp.exp(log_prob_BxC - jax.lax.stop_gradient(old_log_prob_BxC))
  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  return -jnp.minimum(ratio * advantage_BxC, clipped * advantage_BxC)


def kl_penalty(log_prob_BxC: jax.Array, parent_log_prob_BxC: jax.Array) -> jax.Array:
  """float32[B, C]: exp(d) - d - 1 with d = log parent - log pi.

  Unbiased for KL(pi || parent) and never negative (Schulman's k3).
  """
  chex.assert_equal_shape([log_prob_BxC, parent_log_prob_BxC])
  d = parent_log_prob_BxC - log_prob_BxC
  return jnp.exp(d) - d - 1.0
