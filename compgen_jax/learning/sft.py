"""Supervised fine-tuning: masked cross-entropy on golden traces. One golden trace per prompt; prompts are not predicted.

Of a dry trace (letters are noise) only the format is learned: its letters carry no loss, and where a head token follows
(a name, a module, `=`, `end`) the loss is the cross-entropy *among head tokens*, so that nothing is said about when a string
ends. Dry traces stand in for what a pretrained model brings along: writing a list of steps of any length in order.
"""

import dataclasses

import jax
import jax.numpy as jnp

from compgen_jax.learning import losses
from compgen_jax.learning.state import Setup, TrainState, gradient, numbered, sample_problems, update


@dataclasses.dataclass(frozen=True)
class SFTConfig:
  """Config section `sft`: see configs/default.py for what each field means."""

  batch: int
  optimizer: str
  lr: float
  warmup: int
  schedule: str


def cross_entropy(params, block: dict[str, jax.Array], setup: Setup) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted sum of the cross-entropy of traces given prompts.

  Args:
    params: the model's.
    block: `prompt` int32[B, P], `trace` int32[B, C], `weight` float32[B, C], 0 where a token does not count, and
      `heads_only` bool[B], the rows whose loss is among head tokens.
    setup: holds the model.

  Returns:
    The loss, and metrics `loss` and `token_accuracy` (weighted sums as well).
  """
  tokens = jnp.concatenate([block['prompt'], block['trace']], axis=1)
  logits_BxCxV = setup.model.apply(params, tokens[:, :-1], start=block['prompt'].shape[1] - 1)
  barred = block['heads_only'][:, None, None] & (jnp.arange(logits_BxCxV.shape[-1]) < setup.model.n_content)
  logits_BxCxV = jnp.where(barred, -1e30, logits_BxCxV)
  loss = -jnp.sum(losses.token_log_probs(logits_BxCxV, block['trace']) * block['weight'])
  correct_BxC = jnp.argmax(logits_BxCxV, axis=-1) == block['trace']
  return loss, {'loss': loss, 'token_accuracy': jnp.sum(correct_BxC * block['weight'])}


def step(state: TrainState, key: jax.Array, setup: Setup) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update on fresh problems of every source."""
  key = jax.random.fold_in(key, state.step)
  batches = []
  for first, source in numbered(setup.sources):
    _, rendered = sample_problems(key, source.support, setup.row_ids(first, source.rows))
    written_BxC = jnp.arange(rendered.trace.shape[1]) < rendered.trace_length[:, None]
    is_head_BxC = rendered.trace >= setup.task.alphabet
    batches.append((rendered, written_BxC & (is_head_BxC | ~rendered.dry[:, None])))
  n_tokens = setup.sum(sum(jnp.sum(mask_BxC) for _, mask_BxC in batches))

  parts = []
  for rendered, mask_BxC in batches:
    rows = dict(prompt=rendered.prompt, trace=rendered.trace, weight=mask_BxC / n_tokens, heads_only=rendered.dry)
    parts.append(gradient(lambda p, block: cross_entropy(p, block, setup), state.params, rows, setup))
  grads, metrics = jax.tree.map(lambda *xs: sum(xs), *parts)

  state, more = update(state, grads, setup)
  return state, setup.sum(metrics) | more
