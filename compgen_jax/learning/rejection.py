"""Rejection fine-tuning, a control of every finding: supervised learning on the model's own correct traces.

It sees the same prompts and the same reward as policy gradient but learns from accepted samples only
(RFT, Yuan et al. 2023, arXiv 2308.01825; with `sampler = current` it is expert iteration at every step).
"""

import dataclasses

import jax
import jax.numpy as jnp

from compgen_jax.learning import losses
from compgen_jax.learning.exploration import explore, summary
from compgen_jax.learning.sft import cross_entropy
from compgen_jax.learning.state import Setup, TrainState, gradient, update

SAMPLERS = ('parent', 'current')


@dataclasses.dataclass(frozen=True)
class RFTConfig:
  """Config section `rft`: see configs/default.py for what each field means."""

  prompts: int
  group: int
  temperature: float
  optimizer: str
  lr: float
  warmup: int
  schedule: str
  sampler: str


def step(
  state: TrainState, key: jax.Array, setup: Setup, config: RFTConfig, parent
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update on the correct ones among freshly sampled traces. `parent`: the stage's initial parameters."""
  key = jax.random.fold_in(key, state.step)
  sampler = parent if config.sampler == 'parent' else state.params
  e = explore(setup, sampler, key, group=config.group, temperature=config.temperature)
  accepted_B = e.verdict.answer
  weight_BxC = losses.weights(e.rollout.mask & accepted_B[:, None], 'token', setup.sum)
  columns = dict(weight=weight_BxC, heads_only=jnp.zeros(weight_BxC.shape, bool))
  rows, n_rows = setup.pack(e.prompts, e.rollout.tokens, weight_BxC > 0, columns)
  loss = lambda p, block: cross_entropy(p, block, setup)
  grads, metrics = gradient(loss, state.params, rows, setup, n_rows)
  state, more = update(state, grads, setup)
  return state, setup.sum(metrics) | summary(e, setup) | more
