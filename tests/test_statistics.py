"""Intervals and pass@k on literal numbers."""

import numpy as np
import pytest

from compgen_jax.statistics import (
  interval,
  pass_at_k,
  pooled_share,
  stratified_difference,
  wilson,
)


def test_wilson_interval():
  """An interval that leaves [0, 1] or vanishes at 0 %."""
  low, high = wilson(0, 100)
  assert low == pytest.approx(0.0, abs=1e-9) and high == pytest.approx(0.0370, abs=1e-4)
  low, high = wilson(50, 100)
  assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_no_trials_say_nothing():
  """A division by zero, or certainty about what nobody tried."""
  assert wilson(0, 0) == (0.0, 1.0)


def test_interval_over_seeds_is_students():
  """The normal quantile 1.96 where three seeds want 4.30, or the population's deviation."""
  mean, low, high, over = interval(np.array([0.1, 0.2, 0.3]), np.zeros((3, 5)))
  assert (mean, over) == (pytest.approx(0.2), 'seeds')
  half = 4.3027 * 0.1 / np.sqrt(3)
  assert high - mean == pytest.approx(half, rel=1e-4)
  assert mean - low == pytest.approx(high - mean)


def test_interval_over_problems_is_paired():
  """Two independent intervals where the arms answered the same problems."""
  a = np.array([[1.0, 1.0, 0.0, 0.0]])
  mean, low, high, over = interval(np.mean(a - a, axis=1), a - a)
  assert (mean, low, high, over) == (0.0, 0.0, 0.0, 'problems')


def test_interval_over_problems_is_normal():
  """Student's quantile, the population's deviation, or a value's deviation for that of the mean."""
  items = np.array([[1.0, 1.0, 0.0, 0.0]])
  mean, low, high, _ = interval(np.mean(items, axis=1), items)
  half = 1.96 * np.sqrt(1 / 3) / 2
  assert (mean, high - mean) == (0.5, pytest.approx(half, rel=1e-4))
  assert mean - low == pytest.approx(high - mean)


def test_one_problem_has_no_spread():
  """An interval of no width, as if one problem settled it."""
  assert interval(np.array([1.0]), np.array([[1.0]])) == (1.0, -np.inf, np.inf, 'problems')


def test_pass_at_k_is_unbiased():
  """The biased any-of-k, or 1 - (1 - p)^k."""
  # 1 - C(3, 2) / C(4, 2); the biased form gives 0.4375.
  assert pass_at_k(np.array([1]), 4, 2) == pytest.approx(0.5)
  assert pass_at_k(np.array([0, 4]), 4, 1) == pytest.approx(0.5)
  assert pass_at_k(np.array([3]), 4, 2) == 1.0
  rng = np.random.default_rng(0)
  correct_Q = rng.binomial(16, 0.1, size=20_000)
  assert pass_at_k(correct_Q, 16, 4) == pytest.approx(1 - 0.9**4, abs=5e-3)


def test_pooled_share_weighs_seeds_by_their_trials():
  """A mean of shares, or the interval of one big sample where seeds differ."""
  right_S, n_S = np.array([90, 5, 0]), np.array([100, 50, 0])
  share, low, high, over = pooled_share(right_S, n_S)
  assert (share, over) == (pytest.approx(95 / 150), 'seeds')
  half = 12.7062 * np.sqrt(2 * ((90 - 100 * share) ** 2 + (5 - 50 * share) ** 2)) / 150
  assert half > 1 and (low, high) == (0.0, 1.0)  # two seeds this far apart say nothing
  n_S = np.array([1000, 1000, 1000])
  share, low, high, _ = pooled_share(np.array([520, 500, 480]), n_S)
  half = 4.3027 * np.sqrt(1.5 * 2 * 20**2) / 3000
  assert (low, high) == (pytest.approx(0.5 - half, rel=1e-4), pytest.approx(0.5 + half, rel=1e-4))


def test_pooled_share_is_never_surer_than_its_trials():
  """No width at 0 %, or where seeds agree by chance."""
  assert pooled_share(np.array([0, 0]), np.array([50, 50]))[1:3] == wilson(0, 100)
  assert pooled_share(np.array([5]), np.array([10])) == (0.5, *wilson(5, 10), 'problems')
  assert np.isnan(pooled_share(np.array([0]), np.array([0]))[0])


def test_difference_is_taken_within_strata():
  """A pooled difference, which here has the other sign (Simpson), or the weights of one side."""
  right = np.array([[[9, 80], [10, 0]]])  # one cluster: easy stratum, hard stratum
  n = np.array([[[10, 100], [100, 10]]])
  value, _, _ = stratified_difference(right, n)
  assert value == pytest.approx(0.1) and right[..., 0].sum() / 110 < right[..., 1].sum() / 110
  right, n = np.array([[[8, 2], [5, 5]]]), np.array([[[10, 10], [10, 40]]])
  weights = np.array([10 * 10 / 20, 10 * 40 / 50])
  want = weights @ np.array([0.6, 0.375]) / weights.sum()
  assert stratified_difference(right, n)[0] == pytest.approx(want)


def test_strata_with_one_side_say_nothing():
  """A division by zero, or a missing side counted as all wrong."""
  right, n = np.array([[[3, 0], [4, 1]]]), np.array([[[5, 0], [8, 4]]])
  assert stratified_difference(right, n)[0] == pytest.approx(0.25)
  assert np.isnan(stratified_difference(right[:, :1], n[:, :1])).all()
  assert np.isnan(stratified_difference(right[:0], n[:0])).all()


def test_difference_knows_its_clusters():
  """Trials of one cluster taken for independent ones: the interval would be half as wide."""
  rng = np.random.default_rng(0)
  right = rng.integers(0, 2, (100, 1, 2)) * 4  # four trials a side and cluster, all alike
  value, low, high = stratified_difference(right, np.full((100, 1, 2), 4))
  p0, p1 = right.sum(axis=0)[0] / 400
  half = 1.96 * np.sqrt((p0 * (1 - p0) + p1 * (1 - p1)) / 100)
  assert value == pytest.approx(p0 - p1) and high - value == pytest.approx(half, rel=0.25)


def test_difference_of_certainties_has_a_width():
  """No spread in the data taken for certainty: Newcombe's (1998) interval of 10/10 and 0/20."""
  n = np.ones((30, 1, 2), int)
  n[:10, 0, 1] = n[10:, 0, 0] = 0
  right = n * np.array([1, 0])
  value, low, high = stratified_difference(right, n)
  assert value == 1.0 and low == pytest.approx(0.6791, abs=1e-3)
