"""Supervised fine-tuning: what is predicted, and that it is learned."""

import jax.numpy as jnp
import optax
import pytest

from compgen_jax.learning import sft
from compgen_jax.learning.setup import Setup
from compgen_jax.learning.sft import SFTConfig
from compgen_jax.learning.state import Given, create
from tests import made_up as m
from tests.models import quick_jit


def test_traces_are_predicted_and_nothing_else():
  """Catches prompts or padding that are predicted, letters of dry steps that are, a label shifted
  by a column, and sources of different width or size averaged source by source: loss and gradient
  are those of the mean over all trace tokens; of dry columns over the markers, by the model's
  choice among these."""
  setup = Setup(m.TASK_OF_MODEL, m.MODEL, optax.sgd(1.0), ())
  batch, _ = m.golden()

  @quick_jit
  def step(state):
    with m.drawing(batch):
      return sft.step(state, Given(m.KEY, state.params, {}, m.RATES), setup, SFTConfig())

  loss, want = m.golden_loss()
  state, metrics = step(create(setup, m.PARAMS))
  assert metrics['loss'] == pytest.approx(float(loss), rel=1e-5)
  m.assert_same(m.gradient_of(state), want)
  assert 0.0 <= metrics['token_accuracy'] <= 1.0


def test_one_batch_is_overfitted():
  """Catches labels that do not belong to their columns and updates that do not add up: on the same
  batch again and again, the loss falls to a thirtieth within 200 updates."""
  state = m.fresh()
  first = None
  for _ in range(200):
    state, metrics = m.sft_step(state._replace(step=jnp.int32(0)))
    first = first or float(metrics['loss'])
  assert float(metrics['loss']) < first / 30
  assert metrics['token_accuracy'] > 0.97
