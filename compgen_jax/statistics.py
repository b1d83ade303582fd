"""Intervals of what was measured, and unbiased pass@k."""

import numpy as np

Z = 1.959964  # the normal distribution's 97.5 % quantile: 95 % lie within Z deviations of the mean


def wilson(successes: float, n: int, z: float = Z) -> tuple[float, float]:
  """Wilson's score interval of a proportion (Wilson 1927), which has a width at 0 % and 100 % too.

  (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n), with p = successes / n.

  Args:
    successes: 0 to n. A fraction is fine: the sum of n values in [0, 1].
    n: trials; with none, the interval is [0, 1].
    z: half the interval's width in standard deviations; the default makes it a 95 % interval.

  Returns:
    (low, high), as shares.
  """
  if n == 0:
    return 0.0, 1.0
  p = successes / n
  centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return float((centre - spread) / (1 + z * z / n)), float((centre + spread) / (1 + z * z / n))


def interval(per_seed: np.ndarray, per_item: np.ndarray) -> tuple[float, float, float, str]:
  """The mean over seeds and its 95 % interval.

  With two or more seeds the interval is over seeds: mean ± t sd / sqrt(seeds), with Student's t for
  seeds - 1 degrees of freedom (Student 1908). With one seed it is over problems: mean ± 1.96 sd /
  sqrt(n). Both deviations are those of a sample (n - 1 in the denominator). The interval over
  problems of differences between arms, taken problem by problem, is a paired one.

  Args:
    per_seed: float[seeds], a value per seed.
    per_item: float[seeds, n], values of single problems, whose means `per_seed` are.

  Returns:
    (mean, low, high, over) in the unit of the values; `over` is 'seeds' or 'problems'. One problem
    of one seed says nothing about its spread: low and high are then infinite.
  """
  mean, n_seeds = float(np.mean(per_seed)), per_seed.size
  if n_seeds > 1:
    from scipy import special  # here, because it takes a fifth of a second of every start

    half = float(special.stdtrit(n_seeds - 1, 0.975) * np.std(per_seed, ddof=1) / np.sqrt(n_seeds))
    return mean, mean - half, mean + half, 'seeds'
  n = per_item.shape[1]
  half = float(Z * np.std(per_item[0], ddof=1) / np.sqrt(n)) if n > 1 else float('inf')
  return mean, mean - half, mean + half, 'problems'


def pooled_share(successes_S: np.ndarray, n_S: np.ndarray) -> tuple[float, float, float, str]:
  """A proportion pooled over seeds that contribute unequal numbers of trials, with its interval.

  Seeds are clusters: the variance is that of a ratio estimator, k / (k - 1) sum_s (successes_s -
  p n_s)² / n² over the k seeds with trials (Cochran 1977, section 11.9), with Student's t for k - 1
  degrees of freedom. The interval is the wider of this one and Wilson's at each end, because few
  seeds can agree by chance; with one seed it is Wilson's.

  Returns:
    (share, low, high, over); `over` is 'seeds' or 'problems'. Without trials the share is NaN.
  """
  n, n_seeds = float(np.sum(n_S)), int(np.sum(n_S > 0))
  p = float(np.sum(successes_S) / n) if n else float('nan')
  low, high = wilson(float(np.sum(successes_S)), int(n))
  if n_seeds < 2:
    return p, max(0.0, low), min(1.0, high), 'problems'
  from scipy import special  # here, because it takes a fifth of a second of every start

  variance = n_seeds / (n_seeds - 1) * np.sum((successes_S - p * n_S) ** 2) / n**2
  half = float(special.stdtrit(n_seeds - 1, 0.975) * np.sqrt(variance))
  return p, max(0.0, min(low, p - half)), min(1.0, max(high, p + half)), 'seeds'


def stratified_difference(
  right_CxTx2: np.ndarray, n_CxTx2: np.ndarray
) -> tuple[float, float, float]:
  """A difference of two proportions, within strata and then averaged, with its 95 % interval.

  sum_t w_t (p_t0 - p_t1) / sum_t w_t over strata with trials on both sides, with Mantel and
  Haenszel's weights w_t = n_t0 n_t1 / (n_t0 + n_t1) (Greenland and Robins 1985). Its variance is
  linearised over C clusters (Cochran 1977, section 6.4): C' / (C' - 1) sum_c u_c² over the C' that
  count, with u_c = sum_t w_t [(right_ct0 - p_t0 n_ct0) / n_t0 - (the same of side 1)] / sum_t w_t.
  Where shares are near 0 or 1 that is too narrow, so at each end the interval is at least as wide
  as Newcombe's (1998, method 10) of the pooled counts of these strata.

  Args:
    right_CxTx2: right ones by cluster, stratum and side.
    n_CxTx2: all of them.

  Returns:
    (value, low, high); NaN where no stratum has trials on both sides.
  """
  right_Tx2, n_Tx2 = right_CxTx2.sum(axis=0), n_CxTx2.sum(axis=0)
  both_T = np.all(n_Tx2 > 0, axis=1)
  if not both_T.any():
    return float('nan'), float('nan'), float('nan')
  right_CxTx2, n_CxTx2 = right_CxTx2[:, both_T], n_CxTx2[:, both_T]
  right_Tx2, n_Tx2 = right_Tx2[both_T], n_Tx2[both_T]
  w_T = np.prod(n_Tx2, axis=1) / n_Tx2.sum(axis=1)
  w_T = w_T / w_T.sum()
  p_Tx2 = right_Tx2 / n_Tx2
  value = float(w_T @ (p_Tx2[:, 0] - p_Tx2[:, 1]))
  residual_CxTx2 = (right_CxTx2 - p_Tx2 * n_CxTx2) / n_Tx2
  u_C = (residual_CxTx2[..., 0] - residual_CxTx2[..., 1]) @ w_T
  n_clusters = int(np.any(n_CxTx2 > 0, axis=(1, 2)).sum())
  half = Z * np.sqrt(n_clusters / max(1, n_clusters - 1) * np.sum(u_C**2))
  (k0, k1), (n0, n1) = right_Tx2.sum(axis=0), n_Tx2.sum(axis=0)
  (low0, high0), (low1, high1) = wilson(k0, n0), wilson(k1, n1)
  down = np.hypot(k0 / n0 - low0, high1 - k1 / n1)
  up = np.hypot(high0 - k0 / n0, k1 / n1 - low1)
  return value, float(value - max(half, down)), float(value + max(half, up))


def pass_at_k(correct_Q: np.ndarray, samples: int, k: int) -> float:
  """The mean over prompts of `pass_at_k_each`."""
  return float(np.mean(pass_at_k_each(correct_Q, samples, k)))


def pass_at_k_each(correct_Q: np.ndarray, samples: int, k: int) -> np.ndarray:
  """float[Q]: the chance, of each prompt, that one of k samples is right.

  Estimated without bias from `samples` >= k of them: 1 - C(samples - correct, k) / C(samples, k),
  as a product of k factors (Chen et al. 2021, arXiv 2107.03374, equation 1).

  Args:
    correct_Q: int[Q], right ones among the samples of each prompt.
    samples: samples of a prompt.
    k: 1 to `samples`.
  """
  wrong_Q = samples - correct_Q
  factors_Qxk = np.maximum(wrong_Q[:, None] - np.arange(k), 0) / (samples - np.arange(k))
  return 1.0 - np.prod(factors_Qxk, axis=1)


def mixed_groups_each(correct_Q: np.ndarray, samples: int, group: int) -> np.ndarray:
  """float[Q]: the chance that `group` samples of a prompt are neither all right nor all wrong.

  Its mean is the share of groups from which a baseline within groups learns. Estimated without
  bias, as `pass_at_k_each`.

  Args:
    correct_Q: int[Q], right ones among the samples of each prompt.
    samples: samples of a prompt.
    group: 1 to `samples`.
  """
  some_right = pass_at_k_each(correct_Q, samples, group)
  some_wrong = pass_at_k_each(samples - correct_Q, samples, group)
  return some_right + some_wrong - 1.0
