"""The anchor: an auxiliary SFT loss in stages that explore."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.learning import anchor, policy_gradient, rejection
from compgen_jax.learning.state import Given, create
from tests import made_up as m
from tests.made_up import GRADIENT_DESCENT, PARAMS, made_up

pytestmark = pytest.mark.slow

BOTH = [(policy_gradient, m.RL), (rejection, m.RFT)]
ANCHOR = (m.source('atoms', 4), m.source('both', 3))
SETUP = dataclasses.replace(GRADIENT_DESCENT, tx=optax.sgd(1.0))


def _learn(module, config, setup, seen):
  """The first step on a made-up batch; the anchor's problems are `made_up.golden`."""
  with m.drawing(m.golden()[0], seen):
    return m.learn(module, config, made_up(), setup=setup)


@pytest.mark.parametrize('module, config', BOTH)
def test_it_adds_its_weight_times_the_gradient_of_sft(module, config):
  """Catches an anchor that is not added, has another weight or loss, or replaces the gradient of
  the reward: with it, the gradient is the one without plus weight times that of SFT."""
  config, seen = dataclasses.replace(config, anchor_weight=0.3), []
  without, plain = _learn(module, config, SETUP, seen)
  assert seen == [] and 'anchor_loss' not in plain  # off by default
  loss, of_sft = m.golden_loss()
  got, metrics = _learn(module, config, dataclasses.replace(SETUP, anchor=ANCHOR), seen)
  want = jax.tree.map(lambda g, s: g + 0.3 * s, m.gradient_of(without), of_sft)
  m.assert_same(m.gradient_of(got), want)
  assert m.size(of_sft) > 0.05 and m.size(m.gradient_of(without)) > 0.05
  assert metrics['anchor_loss'] == pytest.approx(float(loss), rel=1e-5)
  for name in ('loss', 'reward', 'entropy'):
    assert metrics[name] == pytest.approx(plain[name], rel=1e-6)
  assert metrics['grad_norm'] == pytest.approx(m.size(want), rel=1e-4)
  assert {sources for _, sources in seen} == {ANCHOR}


@pytest.mark.slow
@pytest.mark.parametrize('module, config', BOTH)
def test_its_problems_are_new_in_every_update(module, config):
  """Catches an anchor that draws the same problems again and again: it would be learned by
  heart."""
  setup = dataclasses.replace(m.RL_SETUP, anchor=(m.source('both', 8),))
  start = create(setup, m.half_trained())
  step = m.task_step(module, config, setup)
  losses = [
    float(step(start._replace(step=jnp.int32(n)), m.KEY, start.params)[1]['anchor_loss'])
    for n in (0, 1, 1)
  ]
  assert losses[0] != losses[1] == losses[2]


def test_its_randomness_is_its_own():
  """Catches an anchor on the very problems that are explored, or with the noise of samples."""
  setup, seen = dataclasses.replace(SETUP, anchor=ANCHOR), []
  with m.drawing(m.golden()[0], seen):
    anchor.add(PARAMS, PARAMS, m.KEY, Given(m.KEY, PARAMS, {}, m.RATES), setup, m.RL)
  explored = [m.KEY, *jax.random.split(m.KEY)]
  ((key, _),) = seen
  assert all(np.any(jax.random.key_data(key) != jax.random.key_data(k)) for k in explored)
