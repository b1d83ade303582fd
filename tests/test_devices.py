"""How many devices share a batch changes nothing that is computed; in parts, not even rounding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.learning import policy_gradient, rejection
from compgen_jax.learning.devices import REPLICATES, Devices
from compgen_jax.learning.state import create
from tests import made_up as m
from tests.models import quick_jit

needs_two = pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')


def on_two(setup):
  return dataclasses.replace(setup, **m.ON_TWO_DEVICES)


def assert_same_step(got, want):
  """Metrics and gradients, up to rounding."""
  (got, got_metrics), (want, metrics) = got, want
  for held in (got_metrics, metrics):
    held.pop('decoded_useful', None)  # this is what parts are there for
    assert held.pop('log_prob_gap', 0.0) < 1e-4  # rounding itself: the largest of all tokens
  m.assert_same(got_metrics, metrics, atol=1e-5)
  # Adam's first moment is the gradient times 1 - b1. (Its update would magnify rounding where the
  # gradient is near 0.)
  m.assert_same(got.opt_state[0].mu, want.opt_state[0].mu, atol=1e-6)


@pytest.mark.slow
@needs_two
def test_devices_and_microbatches_change_nothing():
  """Catches rows that two devices share, counts or means of one device, gradients that are added up
  twice, and microbatches that are lost: on two devices, in parts, SFT and policy gradient are what
  they are on one device at once."""
  parent = m.half_trained()
  state = create(m.SFT_SETUP, parent)
  one = m.sft_step(state), m.rl_step(state, parent)
  with m.two_devices():
    two = (
      m.sft_step(state, setup=on_two(m.SFT_SETUP)),
      m.rl_step(state, parent, setup=on_two(m.RL_SETUP)),
    )
  for got, want in zip(two, one):
    assert_same_step(got, want)


@pytest.mark.slow
@needs_two
@pytest.mark.parametrize('module, config', [(policy_gradient, m.RL), (rejection, m.RFT)])
def test_devices_change_nothing_with_an_anchor(module, config):
  """Catches an anchor whose problems, counts or gradient are those of one device."""
  parent = m.half_trained()
  setup = dataclasses.replace(m.RL_SETUP, anchor=(m.source('both', 8),))
  state = create(setup, parent)
  want = m.task_step(module, config, setup)(state, m.KEY, parent)
  assert want[1]['anchor_loss'] > 0.01
  with m.two_devices():
    got = m.task_step(module, config, on_two(setup))(state, m.KEY, parent)
  assert_same_step(got, want)


def in_parts(setup, n):
  """The setup in four parts on n devices."""
  work = dict(microbatch_rows=(4, 1), rollout_rows=8)
  return dataclasses.replace(setup, devices=Devices(n, parts=4), **work)


@pytest.mark.slow
@needs_two
@pytest.mark.parametrize('kind', ['sft', 'rl'])
def test_in_parts_bits_do_not_depend_on_the_devices(kind):
  """Catches sums in the order of devices, rows that are in another part on another mesh, programs
  whose shapes depend on it; and parts that are another batch than the whole is."""
  parent = m.half_trained()
  state = create(m.SFT_SETUP, parent)

  def of(setup):
    if kind == 'sft':
      return m.sft_step(state, setup=setup)
    return m.rl_step(state, parent, setup=setup)

  whole = m.SFT_SETUP if kind == 'sft' else m.RL_SETUP
  one = of(in_parts(whole, 1))
  with m.two_devices():
    two = of(in_parts(whole, 2))
  m.assert_equal(two, one)
  assert float(one[1]['grad_norm']) > 1e-3
  assert_same_step(one, of(whole))


@needs_two
def test_a_sum_of_parts():
  """Catches a part that is left out or counted twice, rows that are dealt to parts otherwise than
  their randomness says, and a mean of one device."""
  devices = Devices(2, parts=4)

  def run(x):
    ids = devices.joined([devices.row_ids(0, 8), devices.row_ids(8, 4)])
    centred = devices.by_part(lambda rows: rows - jnp.sum(rows), x[ids])
    part = devices.of_parts(lambda i: {'a': jnp.float32(10) ** i, 'b': jnp.arange(2.0) * i})
    whole = devices.gather({'ids': ids, 'centred': centred})
    return devices.sum_of_parts(part), devices.mean(x[ids]), whole

  x = jnp.arange(12.0)
  with m.two_devices():
    total, mean, whole = quick_jit(devices.shared(run))(x)
  assert float(total['a']) == 1111 and total['b'].tolist() == [0, 6]
  assert float(mean) == 5.5
  assert whole['ids'].tolist() == [0, 1, 8, 2, 3, 9, 4, 5, 10, 6, 7, 11]
  assert whole['centred'].tolist()[:3] == [0 - 9, 1 - 9, 8 - 9]


@needs_two
def test_sums_and_gathers():
  """Catches a sum, mean or maximum of one device, and shares that are put together in another order
  or dtype."""
  devices = Devices(2)

  def run(x):
    ids = devices.row_ids(3, 4)
    mine = x[ids]
    whole = devices.gather({'f': mine / 3, 'i': ids, 'b': mine > 5})
    return devices.sum(jnp.sum(mine)), devices.mean(mine), devices.max(jnp.max(mine)), whole

  x = jnp.arange(10.0)
  with m.two_devices():
    total, mean, largest, whole = quick_jit(devices.shared(run))(x)
  assert (total, mean, largest) == (3 + 4 + 5 + 6, 4.5, 6)
  np.testing.assert_array_equal(whole['f'], x[3:7] / 3)
  assert whole['i'].tolist() == [3, 4, 5, 6]
  assert whole['b'].tolist() == [False, False, False, True] and whole['b'].dtype == bool


def test_one_device():
  """Catches a collective without a mesh, and rows that are not numbered from `first`."""
  devices = Devices()
  assert devices.row_ids(4, 2).tolist() == [4, 5]
  assert devices.index == 0 and devices.sum(3.0) == 3.0 and devices.max(2) == 2
  assert devices.gather({'x': 1}) == {'x': 1}
  assert float(devices.mean(jnp.asarray([True, False]))) == 0.5


def test_largest_of_replicates():
  """Catches a trip count that differs between replicates side by side, and an axis that is asked
  for where there is none."""
  together = jax.vmap(Devices(n_replicates=3).trips, axis_name=REPLICATES)
  assert together(jnp.asarray([2, 7, 1])).tolist() == [7, 7, 7]
  assert Devices().trips(2) == 2
