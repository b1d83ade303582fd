"""Losses and advantages on literal numbers, each beside the wrong value that a likely bug would
give."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.learning import losses
from compgen_jax.learning.losses import AVERAGES, ESTIMATORS

LN2, LN3 = np.log(2.0), np.log(3.0)


def array(*rows):
  return jnp.asarray(rows, jnp.float32)


def from_probabilities(*rows):
  return jnp.log(array(*rows))


# Log-probabilities and entropy --------------------------------------------------------------------


def test_token_log_probs():
  """Catches unnormalised logits (0, ln 2, ln 3), the column of another token, and an overflow of
  exp."""
  logits = array(
    [[0.0, LN2, LN3], [5.0, 5.0 + LN2, 5.0 + LN3]], [[1000.0, 1000.0, -1000.0], [0.0, 0.0, 0.0]]
  )
  got = losses.token_log_probs(logits, jnp.asarray([[2, 0], [1, 2]]))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, np.log([[3 / 6, 1 / 6], [1 / 2, 1 / 3]]), atol=1e-4)


def test_token_log_probs_gradient():
  """Catches a gradient other than one-hot minus softmax, e.g. one that skips the normaliser."""
  logits = array([[0.0, LN2, LN3]])
  got = jax.grad(lambda x: losses.token_log_probs(x, jnp.asarray([[1]]))[0, 0])(logits)
  np.testing.assert_allclose(got[0, 0], [-1 / 6, 1 - 2 / 6, -3 / 6], atol=1e-6)


def test_token_log_probs_refuses_low_precision():
  """Catches logits in bfloat16, whose log-probabilities are wrong in the second digit."""
  with pytest.raises(AssertionError):
    losses.token_log_probs(jnp.zeros((1, 1, 3), jnp.bfloat16), jnp.zeros((1, 1), jnp.int32))


def test_entropy():
  """Catches bits (2 and 1.5), a missing sign, and the entropy of logits rather than of
  probabilities."""
  logits = 7.0 + from_probabilities([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125]])
  np.testing.assert_allclose(losses.entropy(logits), [[2 * LN2, 1.75 * LN2]], atol=1e-6)


# Weights ------------------------------------------------------------------------------------------

VALUES = array([1.0, 2.0, 3.0, 9.0], [5.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0])
MASK = jnp.arange(4) < jnp.asarray([3, 1, 0])[:, None]
AVERAGE = {'token': 11 / 4, 'sequence': 7 / 2, 'constant': 11 / 8}


def average(values, mask, how, **kwargs) -> float:
  return float(jnp.sum(values * losses.weights(mask, how, **kwargs)))


@pytest.mark.parametrize('how', AVERAGES)
def test_weights(how):
  """Catches masked columns that count, one average in place of another, and the row without a token
  counted as one (which would give 7 / 3 for `sequence` and 11 / 12 for `constant`)."""
  assert average(VALUES, MASK, how) == pytest.approx(AVERAGE[how], rel=1e-6)
  weights = losses.weights(MASK, how)
  assert weights.dtype == jnp.float32
  np.testing.assert_array_equal(weights > 0, MASK)


@pytest.mark.parametrize('how', AVERAGES)
def test_weights_of_nothing(how):
  """Catches 0 / 0 where no row has a token (a batch without any signal)."""
  np.testing.assert_array_equal(losses.weights(jnp.zeros_like(MASK), how), 0.0)


@pytest.mark.parametrize('how', AVERAGES)
def test_weights_do_not_depend_on_layout(how):
  """Catches an average of averages, which depends on the order of rows or on how wide the batch is
  padded. (`constant` divides by the width, by definition.)"""
  order = jnp.asarray([2, 0, 1])
  assert average(VALUES[order], MASK[order], how) == pytest.approx(AVERAGE[how], rel=1e-6)
  wider, wider_mask = (jnp.pad(x, ((0, 0), (0, 4))) for x in (VALUES, MASK))
  factor = 0.5 if how == 'constant' else 1.0
  assert average(wider, wider_mask, how) == pytest.approx(factor * AVERAGE[how], rel=1e-6)


@pytest.mark.parametrize('how', AVERAGES)
def test_weights_over_devices(how):
  """Catches a mean of the devices' means: rows split in two parts, the counts added up by
  `all_sum`, give the weights of the whole."""
  counts = []
  losses.weights(MASK, how, all_sum=lambda x: counts.append(x) or x)
  (total,) = counts
  parts = [losses.weights(part, how, all_sum=lambda _: total) for part in (MASK[:1], MASK[1:])]
  np.testing.assert_allclose(jnp.concatenate(parts), losses.weights(MASK, how), rtol=1e-6)


# Advantages ---------------------------------------------------------------------------------------

REWARD = jnp.asarray([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
WANTED = {
  # Baseline 5 / 8, the mean of all; with the mean of each group it would be dr_grpo.
  'reinforce': [3 / 8, -5 / 8, -5 / 8, -5 / 8, 3 / 8, 3 / 8, 3 / 8, 3 / 8],
  # 1 - 0 and 0 - 1 / 3; with the sample itself in its baseline it would be 3 / 4 and -1 / 4.
  'rloo': [1.0, -1 / 3, -1 / 3, -1 / 3, 0.0, 0.0, 0.0, 0.0],
  # Population std sqrt(3) / 4; with that of the sample, 1 / 2, it would be 1.5 and -0.5.
  'grpo': [1.73165, -0.57722, -0.57722, -0.57722, 0.0, 0.0, 0.0, 0.0],
  'dr_grpo': [3 / 4, -1 / 4, -1 / 4, -1 / 4, 0.0, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_advantages(estimator):
  """Catches the wrong baseline or scale (see WANTED), samples of different prompts taken for a
  group, and 0 / 0 in a group whose rewards are all the same."""
  np.testing.assert_allclose(
    losses.advantages(REWARD, 4, estimator, jnp.mean(REWARD)), WANTED[estimator], atol=1e-5
  )


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_advantages_follow_their_rows(estimator):
  """Catches advantages returned in another order than the rewards."""
  swapped = jnp.concatenate([REWARD[4:], REWARD[:4][::-1]])
  want = np.concatenate([WANTED[estimator][4:], WANTED[estimator][:4][::-1]])
  np.testing.assert_allclose(
    losses.advantages(swapped, 4, estimator, jnp.mean(swapped)), want, atol=1e-5
  )


def test_has_signal():
  """Catches `some reward` in place of `different rewards` (all right is no signal either), and
  mixed-up groups."""
  reward = jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
  assert losses.has_signal(reward, 2).tolist() == [
    True,
    True,
    False,
    False,
    False,
    False,
    True,
    True,
  ]


def test_reinforce_baseline_is_of_the_whole_batch():
  """Catches the mean of one device's rows in place of the mean that is passed (1 / 4 of all
  devices' rewards)."""
  got = losses.advantages(REWARD, 4, 'reinforce', jnp.float32(0.25))
  np.testing.assert_allclose(got, REWARD - 0.25)


# Policy gradient ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'ratio,advantage,want,gradient',
  [
    (
      1.5,
      2.0,
      -2 * 1.28,
      0.0,
    ),  # clipped at 1 + high; -2.4 with `low` on both sides, -3 without clipping
    (
      1.5,
      -2.0,
      2 * 1.5,
      2 * 1.5,
    ),  # not clipped: the bound that is pessimistic; 2.56 if clipped anyway
    (0.5, 2.0, -2 * 0.5, -2 * 0.5),  # not clipped; -1.6 if clipped anyway
    (0.5, -2.0, 2 * 0.8, 0.0),  # clipped at 1 - low; 1.44 with `high` on both sides
    (1.25, 2.0, -2 * 1.25, -2 * 1.25),  # between 1 + low and 1 + high
    (0.75, -2.0, 2 * 0.8, 0.0),  # between 1 - high and 1 - low
    (1.0, 2.0, -2.0, -2.0),  # on-policy: -A grad log pi
  ],
)
def test_policy_gradient(ratio, advantage, want, gradient):
  """Catches a wrong sign, a clip on the wrong side, bounds exchanged, and no clip: value and
  gradient by log pi."""
  old = array([-1.0])

  def loss(log_prob):
    return losses.policy_gradient(log_prob, old, array([advantage]), 0.2, 0.28)[0, 0]

  value, slope = jax.value_and_grad(loss)(old + np.log(ratio))
  assert float(value) == pytest.approx(want, rel=1e-5)
  assert float(slope[0, 0]) == pytest.approx(gradient, rel=1e-5)


def test_policy_gradient_per_token():
  """Catches one ratio for a whole row, an advantage along the wrong axis, and a gradient into the
  old log-probs."""
  old = array([-1.0, -2.0], [-3.0, -4.0])
  new, advantage = old + jnp.log(array([1.1, 0.9], [1.2, 1.0])), array([1.0, 1.0], [-2.0, -2.0])
  got = losses.policy_gradient(new, old, advantage, 0.2, 0.28)
  np.testing.assert_allclose(got, [[-1.1, -0.9], [2.4, 2.0]], rtol=1e-5)
  by_old = jax.grad(lambda o: jnp.sum(losses.policy_gradient(new, o, advantage, 0.2, 0.28)))(old)
  np.testing.assert_array_equal(by_old, 0.0)


def test_kl_penalty():
  """Catches KL(ref || pi) and an estimator that is biased or can be negative: it is never negative,
  0 where both agree, and its mean under pi is KL(pi || ref), enumerated over distributions."""
  distributions = [(0.7, 0.2, 0.1), (0.1, 0.1, 0.8), (0.3, 0.3, 0.4)]
  for pi, ref in itertools.product(distributions, repeat=2):
    got = np.asarray(losses.kl_penalty(from_probabilities(pi), from_probabilities(ref)))[0]
    assert np.all(got >= 0.0)
    want = np.sum(np.multiply(pi, np.log(np.divide(pi, ref))))
    assert np.sum(pi * got) == pytest.approx(want, abs=1e-6)
    assert (pi == ref) == (np.max(got) < 1e-6)


def test_kl_penalty_pulls_towards_the_reference():
  """Catches a sign: the gradient by log pi is positive where pi is above the reference, zero where
  they agree."""
  gradient = jax.grad(lambda x: jnp.sum(losses.kl_penalty(x, jnp.log(array([0.5, 0.5, 0.5])))))(
    jnp.log(array([0.8, 0.5, 0.2]))
  )
  np.testing.assert_allclose(gradient, [[1 - 0.5 / 0.8, 0.0, 1 - 0.5 / 0.2]], atol=1e-6)
