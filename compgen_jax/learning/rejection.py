"""Rejection fine-tuning, a control of every finding: supervised learning on the model's own traces.

It sees the same prompts and the same reward as policy gradient but learns from rewarded samples
only, each weighted by its reward (RFT, Yuan et al. 2023, arXiv 2308.01825; with `sampler = current`
it is expert iteration at every step).
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from compgen_jax.learning import anchor, batches, exploration, losses
from compgen_jax.learning.gradients import gradient
from compgen_jax.learning.section import ExploringSection, one_of
from compgen_jax.learning.setup import Setup
from compgen_jax.learning.sft import cross_entropy
from compgen_jax.learning.state import Given, TrainState, update

SAMPLERS = ('parent', 'current')


@dataclasses.dataclass(frozen=True)
class RFTConfig(ExploringSection):
  """Config section `rft`: see configs/default.py for what each field means."""

  sampler: str = 'parent'

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    yield from super().checks()
    yield 'sampler', self.sampler in SAMPLERS, one_of(SAMPLERS)


def step(
  state: TrainState, given: Given, setup: Setup, config: RFTConfig
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update on the rewarded ones among freshly sampled traces."""
  key, devices = given.key_of(state), setup.devices

  # Explore.
  e = exploration.explore(
    setup,
    given.parent if config.sampler == 'parent' else state.params,
    key,
    given.samplers,
    group=config.group,
    temperature=config.temperature,
    reward=config.reward,
  )

  # Learn from what was rewarded.
  rewarded_BxC = e.rollout.mask & (e.reward > 0)[:, None]
  weight_BxC = losses.weights(rewarded_BxC, 'token', devices.sum) * e.reward[:, None]
  features = dict(weight=weight_BxC, markers_only=jnp.zeros(weight_BxC.shape, bool))
  rows, n_rows = batches.pack(setup, e.prompts, e.rollout.tokens, weight_BxC > 0, features)
  grads, metrics = gradient(
    lambda params, part: cross_entropy(params, part, setup), state.params, rows, setup, n_rows
  )
  grads, of_anchor = anchor.add(grads, state.params, key, given, setup, config)
  of_batch = exploration.metrics(e, setup)
  learning_rate, finite_too = given.learning_rate_of(state), tuple(of_batch.values())
  state, metrics = update(state, grads, metrics | of_anchor, setup, learning_rate, finite_too)
  return state, metrics | of_batch
