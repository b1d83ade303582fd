"""Supervised fine-tuning: masked cross-entropy on golden traces. One golden trace per prompt; prompts are not predicted.

Of dry steps (letters are noise) only the format is learned: their letters carry no loss, and where
a head token follows (a name, a module, `=`, `end`) the loss is the cross-entropy *among head
tokens*, so that nothing is said about when a string ends. Dry steps stand in for what a pretrained
model brings along: writing a list of steps of any length in order.
"""

import dataclasses

import jax
import jax.numpy as jnp

from compgen_jax.learning import losses
from compgen_jax.learning.state import Setup, TrainState, gradient, sample_problems, update
from compgen_jax.model.kernels import argmax


@dataclasses.dataclass(frozen=True)
class SFTConfig:
  """Config section `sft`: see configs/default.py for what each field means."""

  batch: int
  optimizer: str
  lr: float
  warmup: int
  schedule: str


def cross_entropy(
  params, block: dict[str, jax.Array], setup: Setup
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted sum of the cross-entropy of traces given prompts.

  Args:
    params: the model's.
    block: packed rows [N, W] (see `packing.pack_traces`) with `weight` float32, 0 where a target does not count, and
      `heads_only` bool, where the loss is among head tokens.
    setup: holds the model.

  Returns:
    The loss, and metrics `loss` and `token_accuracy` (weighted sums as well).
  """
  logits_NxWxV = setup.model.apply(params, block['token'], document_BxT=block['document'])
  barred = block['heads_only'][..., None] & (
    jnp.arange(logits_NxWxV.shape[-1]) < setup.model.n_content
  )
  logits_NxWxV = jnp.where(barred, -1e30, logits_NxWxV)
  loss = -jnp.sum(losses.token_log_probs(logits_NxWxV, block['target']) * block['weight'])
  correct_NxW = argmax(logits_NxWxV) == block['target']
  return loss, {'loss': loss, 'token_accuracy': jnp.sum(correct_NxW * block['weight'])}


def step(
  state: TrainState, key: jax.Array, setup: Setup
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update on fresh problems of every source."""
  key = jax.random.fold_in(key, state.step)
  _, _, rendered = sample_problems(key, setup)

  # What counts.
  written_BxC = jnp.arange(rendered.trace.shape[1]) < rendered.trace_length[:, None]
  dry_BxC = jnp.arange(rendered.trace.shape[1]) < rendered.dry_length[:, None]
  mask_BxC = written_BxC & ((rendered.trace >= setup.task.alphabet) | ~dry_BxC)
  columns = dict(weight=losses.weights(mask_BxC, 'token', setup.sum), heads_only=dry_BxC)

  # Learn.
  rows, n_rows = setup.pack(rendered.prompt, rendered.trace, mask_BxC, columns)
  grads, metrics = gradient(
    lambda p, block: cross_entropy(p, block, setup), state.params, rows, setup, n_rows
  )
  state, more = update(state, grads, setup)
  return state, setup.sum(metrics) | more
