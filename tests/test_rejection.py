"""Rejection fine-tuning: supervised learning on rewarded samples of the right policy."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.learning import exploration, rejection
from compgen_jax.learning.state import Given, create
from tests import made_up as m
from tests.made_up import GRADIENT_DESCENT, PARAMS, RFT, ROWS, SOME_SIGNAL, made_up


@pytest.mark.parametrize('sampler', ['parent', 'current'])
def test_samples_are_from_the_right_parameters(sampler):
  """Catches a control that learns from another policy's samples than the config says."""
  batch, seen = jax.tree.map(jnp.asarray, made_up()), []

  def explore(setup, params, *args, **kwargs):
    seen.append(params)
    return batch

  def run(state, parent):
    config = dataclasses.replace(RFT, sampler=sampler)
    with mock.patch.object(exploration, 'explore', explore):
      new = rejection.step(state, Given(m.KEY, parent, {}, m.RATES), GRADIENT_DESCENT, config)
    assert seen == [parent if sampler == 'parent' else state.params]
    return new

  jax.eval_shape(run, create(GRADIENT_DESCENT, PARAMS), PARAMS)
  assert len(seen) == 1


def test_without_rewarded_samples_nothing_is_learned():
  """Catches 0 / 0 where no sample is right, and a gradient of rejected samples."""
  state, metrics = m.learn(rejection, RFT, made_up((False,) * ROWS))
  m.assert_equal(state.params, PARAMS)
  assert metrics['loss'] == 0.0 and metrics['finite'] == 1.0
  assert metrics['reward'] == 0.0 and state.step == 1


@pytest.mark.parametrize('microbatch_rows', [(), (5,), (4, 1)])
def test_it_is_supervised_learning_on_right_samples(microbatch_rows):
  """Catches rejected samples that count, accepted ones that are skipped (they are not the first
  rows), a mean over all tokens rather than the accepted ones', and a sign: the log-probability of
  accepted samples rises."""
  e = made_up()
  mask = e.rollout.mask & SOME_SIGNAL[:, None]
  weight = mask / np.sum(mask)
  value, want = m.cross_entropy(PARAMS, e.prompts, e.rollout.tokens, weight)
  how = dict(microbatch_rows=microbatch_rows, tx=optax.sgd(0.1))
  state, metrics = m.learn(rejection, RFT, e, setup=dataclasses.replace(GRADIENT_DESCENT, **how))
  assert metrics['loss'] == pytest.approx(float(value), rel=1e-5) and metrics['reward'] == 7 / 16
  m.assert_same(m.gradient_of(state), jax.tree.map(lambda g: 0.1 * g, want))
  after, _ = m.cross_entropy(state.params, e.prompts, e.rollout.tokens, weight)
  assert after < value - 0.5 * 0.1 * m.size(want) ** 2


def test_samples_count_by_their_reward():
  """Catches samples chosen by their answer, and rewards that only say yes or no: with shares as
  rewards, every token of a rewarded sample weighs as much as its reward."""
  reward = np.tile([0.2, 0.6, 0.0, 1.0], 4)
  e = made_up(reward=tuple(reward))
  mask = e.rollout.mask & (reward > 0)[:, None]
  weight = mask * reward[:, None] / np.sum(mask)
  value, want = m.cross_entropy(PARAMS, e.prompts, e.rollout.tokens, weight)
  state, metrics = m.learn(rejection, RFT, e)
  assert metrics['loss'] == pytest.approx(float(value), rel=1e-5)
  assert metrics['reward'] == pytest.approx(0.45) and metrics['answer'] == 7 / 16
  m.assert_same(m.gradient_of(state), want)
