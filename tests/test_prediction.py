"""Regressions and their scores, on literal numbers and on oracles that err where they are told."""

import numpy as np
import pytest
from scipy import special, stats

from compgen_jax.theory import prediction, witnesses
from compgen_jax.theory.prediction import Bin
from tests import helpers

TASK = helpers.task(
  routings=('previous', 'earlier', 'merge', 'first_input'),
  skills=('reverse', 'fork', 'climb', 'successor', 'sort_up'),
)
DEPTHS = (2, 3)


def test_known_weights_are_found():
  """A sign, a scale that is not undone, or an intercept of standardised features."""
  rng = np.random.default_rng(0)
  features_BxF = np.stack([rng.integers(0, 4, 40_000), rng.normal(5.0, 0.1, 40_000)], axis=1)
  p_B = special.expit(0.5 - 0.8 * features_BxF[:, 0] + 4.0 * (features_BxF[:, 1] - 5.0))
  fitted = prediction.fit(features_BxF, rng.random(40_000) < p_B)
  np.testing.assert_allclose(fitted.per_unit_F, [-0.8, 4.0], rtol=0.06)
  assert np.max(np.abs(fitted.predict(features_BxF) - p_B)) < 0.02


def test_fit_minimises_its_loss():
  """Newton's method stopped early, or run past the minimum, also where the answers can be told
  apart."""
  rng = np.random.default_rng(1)
  x_BxF = rng.normal(size=(200, 3))
  for right_B in (x_BxF[:, 0] > 0, rng.random(200) < 0.3):
    fitted = prediction.fit(x_BxF, right_B)
    p_B = fitted.predict(x_BxF)
    standardised = (x_BxF - fitted.centre_F) / fitted.scale_F
    gradient = standardised.T @ (p_B - right_B) + prediction.RIDGE * fitted.weights[1:]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    assert np.mean(p_B) == pytest.approx(np.mean(right_B), abs=1e-4)  # the intercept is free


def test_constant_features_and_answers():
  """A division by zero where nothing varies."""
  fitted = prediction.fit(np.ones((10, 2)), np.zeros(10, bool))
  assert np.all(fitted.predict(np.ones((3, 2))) < 1e-3)
  assert np.all(np.isfinite(fitted.per_unit_F))


def test_log_loss():
  """The probability of the other answer, or infinity."""
  predicted_B, right_B = np.array([0.25, 0.25]), np.array([True, False])
  assert prediction.log_loss(predicted_B, right_B) == pytest.approx(-np.log(0.25 * 0.75) / 2)
  assert np.isfinite(prediction.log_loss(np.array([0.0]), np.array([True])))


def test_bins_and_classes():
  """A prediction of 1 in a bin of its own, an empty bin, or a small class that is kept."""
  predicted_B = np.array([0.05, 0.07, 0.95, 1.0])
  right_B = np.array([False, True, True, True])
  bins = prediction.calibration(predicted_B, right_B)
  assert bins == [Bin(pytest.approx(0.06), 0.5, 2), Bin(pytest.approx(0.975), 1.0, 2)]
  class_BxK = np.array([[2, 1], [2, 1], [2, 1], [1, 2]])
  (kept,) = prediction.by_class(class_BxK, predicted_B, right_B, least=2)
  assert kept == Bin(pytest.approx(1.07 / 3), pytest.approx(2 / 3), 3)


def test_rank_correlation():
  """Ties at their first rank, values in place of ranks, or certainty where nothing varies."""
  values = [(0.1, 0.0), (0.2, 0.5), (0.2, 0.3), (0.4, 0.3), (0.9, 0.31)]
  found = prediction.rank_correlation([Bin(*pair, 10) for pair in values])
  assert found.value == pytest.approx(stats.spearmanr(*zip(*values)).statistic)
  assert found.low < found.value < found.high
  rising = [Bin(x, x**9, 10) for x in np.linspace(0.1, 0.9, 9)]
  np.testing.assert_allclose(prediction.rank_correlation(rising), 1.0)
  noise = [Bin(p, x, 10) for p, x in ((0.3, 0.1), (0.1 + 0.2, 0.2))]
  for bins in ([], rising[:1], noise):
    assert np.all(np.isnan(prediction.rank_correlation(bins)))


# Oracles ------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def compositions():
  """(depths, unwitnessed interfaces) of many compositions, under a support of 25."""
  support, asked = (helpers.random_compositions(TASK, n, DEPTHS, 3, n) for n in (25, 8000))
  seen = witnesses.of_steps(witnesses.steps_of(support, TASK), TASK)
  depth_B = np.asarray(asked.depth)
  missing_B = depth_B - seen.coverage('interfaces', witnesses.steps_of(asked, TASK))
  assert set(missing_B) == {0, 1, 2, 3}
  return depth_B, missing_B


def halves(depth_B, missing_B, right_B):
  """By model: what it predicts of the second half, fitted on the first."""
  features = {'control': depth_B[:, None], 'witnesses': np.stack([depth_B, missing_B], axis=1)}
  half = len(depth_B) // 2
  return {
    name: prediction.fit(x[:half], right_B[:half]).predict(x[half:]) for name, x in features.items()
  }


def test_oracle_that_errs_exactly_at_unwitnessed_interfaces(compositions):
  """Witnesses that do not tell where such a model errs, or a control that knows it as well."""
  depth_B, missing_B = compositions
  right_B = missing_B == 0
  predicted, held = halves(depth_B, missing_B, right_B), slice(len(depth_B) // 2, None)
  assert np.min(predicted['witnesses'][right_B[held]]) > 0.9
  assert np.max(predicted['witnesses'][~right_B[held]]) < 0.1
  assert prediction.log_loss(predicted['witnesses'], right_B[held]) < 0.05
  rates = [np.mean(right_B[depth_B == depth]) for depth in DEPTHS]
  entropy = np.mean([-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in rates])
  loss = prediction.log_loss(predicted['control'], right_B[held])
  assert loss == pytest.approx(entropy, rel=0.05)


def test_oracle_that_guesses_at_unwitnessed_interfaces(compositions):
  """Classes in the wrong order, or predictions that are not calibrated."""
  depth_B, missing_B = compositions
  right_B = np.random.default_rng(5).random(len(depth_B)) < special.expit(2.0 - 1.5 * missing_B)
  predicted, held = halves(depth_B, missing_B, right_B), slice(len(depth_B) // 2, None)
  class_BxK = np.stack([depth_B, missing_B], axis=1)[held]
  classes = prediction.by_class(class_BxK, predicted['witnesses'], right_B[held])
  assert len(classes) == 7 and prediction.rank_correlation(classes).value > 0.85
  assert all(abs(c.predicted - c.measured) < 0.08 for c in classes if c.n > 400)
  at = depth_B[held] == 3  # within a depth, the control can't rank
  control = prediction.by_class(class_BxK[at], predicted['control'][at], right_B[held][at])
  assert np.isnan(prediction.rank_correlation(control).value)
