"""Does what was witnessed predict what is answered right?

P(right | c) = 1 / (1 + exp(-w . x(c))): a logistic regression on features x of a composition, such
as its depth and how many of its steps are witnessed. It is fitted on some problems and judged on
others: by its log loss, by its calibration, and by how it ranks *classes* of compositions, which
are those alike in depth and in coverage of every kind.

What it does not say: that witnesses cause right answers. Modules that are witnessed often may be
the easy ones; replicates, each with a support of its own, make that less likely.
"""

from typing import NamedTuple

import numpy as np
from scipy import special, stats

RIDGE = 1.0  # penalty on squared weights of standardised features, in nats
MIN_PROBLEMS = 8  # of a class that is ranked: the accuracy of fewer is mostly noise


class Logistic(NamedTuple):
  """A fitted logistic regression on F features.

  centre_F, scale_F: mean and deviation of the features it was fitted on; a feature that is constant
  there has scale 1. weights: float[1 + F], nats: of the intercept, then of standardised features.
  """

  centre_F: np.ndarray
  scale_F: np.ndarray
  weights: np.ndarray

  @property
  def per_unit_F(self) -> np.ndarray:
    """What one more of a feature adds to the log odds, in nats."""
    return self.weights[1:] / self.scale_F

  def predict(self, features_BxF: np.ndarray) -> np.ndarray:
    """float[B]: the probability of a right answer."""
    return special.expit(_design(features_BxF, self.centre_F, self.scale_F) @ self.weights)


def _design(features_BxF: np.ndarray, centre_F: np.ndarray, scale_F: np.ndarray) -> np.ndarray:
  standardised_BxF = (np.asarray(features_BxF, float) - centre_F) / scale_F
  return np.concatenate([np.ones((len(standardised_BxF), 1)), standardised_BxF], axis=1)


def fit(features_BxF: np.ndarray, right_B: np.ndarray, ridge: float = RIDGE) -> Logistic:
  """The weights of least log loss, with a penalty of ridge / 2 times the sum of their squares.

  By Newton's method (iteratively reweighted least squares), with steps that are halved until they
  help. The penalty makes the problem strictly convex, also where the classes can be separated. The
  intercept has a millionth of it, so that it is free and yet finite where all answers are alike.
  """
  centre_F, deviation_F = np.mean(features_BxF, axis=0), np.std(features_BxF, axis=0)
  scale_F = np.where(deviation_F > 1e-9, deviation_F, 1.0)
  x, y = _design(features_BxF, centre_F, scale_F), np.asarray(right_B, float)
  penalty = np.full(x.shape[1], float(ridge))
  penalty[0] *= 1e-6

  def loss(weights):
    logits_B = x @ weights
    return np.sum(np.logaddexp(0.0, logits_B) - y * logits_B) + 0.5 * penalty @ weights**2

  weights = np.zeros(x.shape[1])
  for _ in range(100):
    p_B = special.expit(x @ weights)
    gradient = x.T @ (p_B - y) + penalty * weights
    curvature = (x * (p_B * (1.0 - p_B))[:, None]).T @ x + np.diag(penalty)
    step = np.linalg.solve(curvature, gradient)
    while loss(weights - step) > loss(weights) and np.max(np.abs(step)) > 1e-9:
      step = step / 2
    weights = weights - step
    if np.max(np.abs(step)) <= 1e-9:
      break
  return Logistic(centre_F, scale_F, weights)


def log_loss(predicted_B: np.ndarray, right_B: np.ndarray) -> float:
  """Nats per problem: the mean of -log P(what was measured)."""
  p_B = np.where(right_B, predicted_B, 1.0 - predicted_B)
  return float(-np.mean(np.log(np.clip(p_B, 1e-12, 1.0))))


class Bin(NamedTuple):
  """Problems of like predictions: mean prediction, accuracy, and their number."""

  predicted: float
  measured: float
  n: int


def calibration(predicted_B: np.ndarray, right_B: np.ndarray, n_bins: int = 10) -> list[Bin]:
  """Bins of equal width of the predicted probability; those without problems are left out."""
  bin_B = np.minimum((predicted_B * n_bins).astype(int), n_bins - 1)
  return [_bin(predicted_B, right_B, bin_B == i) for i in np.unique(bin_B)]


def _bin(predicted_B: np.ndarray, right_B: np.ndarray, inside_B: np.ndarray) -> Bin:
  inside = predicted_B[inside_B], right_B[inside_B]
  return Bin(float(np.mean(inside[0])), float(np.mean(inside[1])), int(np.sum(inside_B)))


def by_class(
  classes_BxK: np.ndarray,
  predicted_B: np.ndarray,
  right_B: np.ndarray,
  least: int = MIN_PROBLEMS,
) -> list[Bin]:
  """A `Bin` for each class (equal rows of int[B, K]) of at least so many problems."""
  _, index_B, n = np.unique(classes_BxK, axis=0, return_inverse=True, return_counts=True)
  index_B = index_B.reshape(-1)
  return [_bin(predicted_B, right_B, index_B == i) for i in np.flatnonzero(n >= least)]


class Correlation(NamedTuple):
  """Spearman's rank correlation with its 95 % interval; NaN where one side does not vary."""

  value: float
  low: float
  high: float


def rank_correlation(bins: list[Bin], n_resamples: int = 1000, seed: int = 0) -> Correlation:
  """Between predicted and measured accuracy of classes, each counted once.

  The interval is the percentile bootstrap over classes (Efron 1979): resamples in which one side
  does not vary are left out.
  """
  pairs_Nx2 = np.array([(b.predicted, b.measured) for b in bins]).reshape(-1, 2)
  (value,) = _spearman(pairs_Nx2[None])
  if np.isnan(value):
    return Correlation(np.nan, np.nan, np.nan)
  picks = np.random.default_rng(seed).integers(0, len(bins), (n_resamples, len(bins)))
  low, high = np.nanquantile(_spearman(pairs_Nx2[picks]), [0.025, 0.975])
  return Correlation(float(value), float(low), float(high))


def _spearman(pairs_RxNx2: np.ndarray) -> np.ndarray:
  """float[R]: Pearson's correlation of the ranks of N pairs, ties at their mean rank."""
  if pairs_RxNx2.shape[1] == 0:
    return np.full(len(pairs_RxNx2), np.nan)
  # Rounded, because means of equal predictions differ in their last digit.
  ranks_RxNx2 = stats.rankdata(np.round(pairs_RxNx2, 12), axis=1)
  ranks_RxNx2 -= ranks_RxNx2.mean(axis=1, keepdims=True)
  size_R = np.sqrt(np.prod(np.sum(ranks_RxNx2**2, axis=1), axis=1))
  product_R = np.sum(np.prod(ranks_RxNx2, axis=2), axis=1)
  return np.where(size_R > 0, product_R / np.where(size_R > 0, size_R, 1.0), np.nan)
