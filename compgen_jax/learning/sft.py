"""Supervised fine-tuning: masked cross-entropy on golden traces, one golden trace per prompt.

Prompts are not predicted. Of dry steps (their letters are noise) only the format is learned:
letters carry no loss, and where a marker follows (a name, a module, `=`, `end`) the loss is the
cross-entropy *among markers*, so that nothing is said about where a string ends. Dry steps stand
in for what a pretrained model brings along: writing a list of steps of any length in order.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from compgen_jax.learning import batches, losses
from compgen_jax.learning.gradients import gradient
from compgen_jax.learning.section import Section
from compgen_jax.learning.setup import Setup, Source
from compgen_jax.learning.state import Given, TrainState, update
from compgen_jax.model.kernels import argmax
from compgen_jax.task.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class SFTConfig(Section):
  """Config section `sft`: see configs/default.py for what each field means."""

  batch: int = 64


def cross_entropy(
  params, rows: dict[str, jax.Array], setup: Setup
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted sum of the cross-entropy of traces given prompts.

  Args:
    params: the model's.
    rows: packed rows [M, T] (see `packing.pack_traces`) with `weight` float32, 0 where a target
      does not count, and `markers_only` bool, where the loss is among markers.
    setup: holds the model.

  Returns:
    The loss, and metrics `loss` and `token_accuracy` (weighted sums as well).
  """
  logits_MxTxV = setup.model.apply(params, rows['token'], document_BxT=rows['document'])
  is_letter_V = jnp.arange(logits_MxTxV.shape[-1]) < setup.model.n_content
  excluded_MxTxV = rows['markers_only'][..., None] & is_letter_V
  logits_MxTxV = jnp.where(excluded_MxTxV, -1e30, logits_MxTxV)
  loss = -jnp.sum(losses.token_log_probs(logits_MxTxV, rows['target']) * rows['weight'])
  correct_MxT = argmax(logits_MxTxV) == rows['target']
  return loss, {'loss': loss, 'token_accuracy': jnp.sum(correct_MxT * rows['weight'])}


def golden_rows(
  key: jax.Array, sources: tuple[Source, ...], samplers: dict[str, Sampler], setup: Setup
) -> tuple[dict[str, jax.Array], jax.Array]:
  """A fresh batch of golden traces, packed for `cross_entropy`: `(rows, n_rows)`."""
  _, _, rendered = batches.draw(key, sources, samplers, setup)
  written_BxC = jnp.arange(rendered.trace.shape[1]) < rendered.trace_length[:, None]
  dry_BxC = jnp.arange(rendered.trace.shape[1]) < rendered.dry_length[:, None]
  counts_BxC = written_BxC & ((rendered.trace >= setup.task.alphabet) | ~dry_BxC)
  weight_BxC = losses.weights(counts_BxC, 'token', setup.devices.sum)
  features = dict(weight=weight_BxC, markers_only=dry_BxC)
  return batches.pack(setup, rendered.prompt, rendered.trace, counts_BxC, features)


def golden_gradient(
  params,
  key: jax.Array,
  sources: tuple[Source, ...],
  samplers: dict[str, Sampler],
  setup: Setup,
) -> tuple[Any, dict[str, jax.Array]]:
  """Gradient of the mean cross-entropy of a fresh batch, and metrics: this device's part of the
  sums."""
  rows, n_rows = golden_rows(key, sources, samplers, setup)
  return gradient(lambda p, part: cross_entropy(p, part, setup), params, rows, setup, n_rows)


def step(
  state: TrainState, given: Given, setup: Setup, config: SFTConfig
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update on fresh problems of every source."""
  del config
  key = given.key_of(state)
  grads, metrics = golden_gradient(state.params, key, setup.sources, given.samplers, setup)
  return update(state, grads, metrics, setup, given.learning_rate_of(state))
