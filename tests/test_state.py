"""The loop state and its updates: pure functions of state and key."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.learning import optimizer, state
from compgen_jax.learning.devices import Devices
from compgen_jax.learning.state import Given, create
from tests import made_up as m
from tests import models
from tests.made_up import GRADIENT_DESCENT, MODEL, PARAMS
from tests.models import quick_jit


def test_step_is_a_pure_function():
  """Catches hidden state, a key or a step count that does not reach the data, and data that
  repeat."""
  start = m.fresh()
  once, metrics = m.sft_step(start)
  again, metrics_again = m.sft_step(start)
  m.assert_equal((once, metrics), (again, metrics_again))
  assert once.step == 1
  _, of_next_step = m.sft_step(start._replace(step=jnp.int32(1)))
  _, of_other_key = m.sft_step(start, jax.random.key(1))
  assert len({float(x['loss']) for x in (metrics, of_next_step, of_other_key)}) == 3


def test_randomness_of_an_update():
  """Catches two updates of a stage, or one update of two stages, with the same randomness."""
  start = create(GRADIENT_DESCENT, PARAMS)
  keys = [
    Given(jax.random.key(seed), PARAMS, {}, m.RATES).key_of(start._replace(step=jnp.int32(step)))
    for seed in (0, 1)
    for step in (0, 1)
  ]
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 4


@pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')
@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_blocks_are_shared_out(name):
  """Catches a block that no device updates or two do, gradients clipped by the norm of a part, and
  moments that stay behind: two updates on two devices, each for one of two blocks, are those of one
  device."""
  settings = optimizer.OptimizerConfig(weight_decay=0.1, clip_norm=0.5)
  setup = dataclasses.replace(GRADIENT_DESCENT, tx=optimizer.make(settings, name))
  start, grads = create(setup, PARAMS), models.params(MODEL, seed=1)

  def twice(setup):
    each = jax.tree.map(lambda g: g / setup.devices.n, grads)

    def run(start):
      first, _ = state.update(start, each, {}, setup, 0.01)
      return state.update(first, each, {}, setup, 0.01)

    return quick_jit(setup.devices.shared(run))(start)

  want, metrics = twice(setup)
  with m.two_devices():
    got, got_metrics = twice(dataclasses.replace(setup, devices=Devices(2)))
  m.assert_same((got.params, got.opt_state), (want.params, want.opt_state), atol=1e-6)
  m.assert_same(got_metrics, metrics)


SETUP = dataclasses.replace(GRADIENT_DESCENT, tx=optax.sgd(0.5, momentum=0.5))
WEIGHTS = {'a': jnp.asarray([1.0, 2.0]), 'b': jnp.asarray([3.0])}


def _updated(last=3.0, loss=1.0, reward=1.0, weights=WEIGHTS, setup=SETUP):
  """`(state before, after, metrics)` of an update with gradients [0, last, 4]."""
  start = create(setup, weights)
  grads = {'a': jnp.asarray([0.0, last]), 'b': jnp.asarray([4.0])}
  metrics = {'loss': jnp.float32(loss)}
  return start, *state.update(start, grads, metrics, setup, 1.0, (jnp.float32(reward),))


def test_update():
  """Catches a step that is not counted, and a norm of something else than the gradient."""
  start, new, metrics = _updated()
  assert (start.step, new.step) == (0, 1)
  np.testing.assert_array_equal(jnp.concatenate(list(new.params.values())), [1.0, 0.5, 1.0])
  assert metrics == {'loss': 1.0, 'grad_norm': 5.0, 'finite': 1.0}


POISONED = {
  'gradient': lambda bad: _updated(last=bad),
  'loss': lambda bad: _updated(loss=bad),
  'reward': lambda bad: _updated(reward=bad),
  'parameters': lambda bad: _updated(weights=WEIGHTS | {'b': jnp.asarray([bad])}),
  'new parameters': lambda _: _updated(
    setup=dataclasses.replace(GRADIENT_DESCENT, tx=optax.sgd(1e38))
  ),
}


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize('where', POISONED)
def test_what_is_not_finite_is_skipped(where, bad):
  """Catches NaN that reaches the parameters or the moments, and data that do not go on: the same
  update would be skipped for ever."""
  start, new, metrics = POISONED[where](bad)
  assert metrics['finite'] == 0.0 and new.step == 1
  m.assert_equal((new.params, new.opt_state), (start.params, start.opt_state))


def test_a_moment_that_is_not_finite_is_skipped():
  """Catches a check of parameters alone: a moment may overflow before them."""
  setup = dataclasses.replace(GRADIENT_DESCENT, tx=optax.adam(1e-3))
  start, new, metrics = _updated(last=1e30, setup=setup)  # its square is too large for float32
  assert metrics['finite'] == 0.0
  m.assert_equal((new.params, new.opt_state), (start.params, start.opt_state))
