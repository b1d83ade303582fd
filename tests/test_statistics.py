"""Statistics on literal numbers, beside the wrong value that a likely bug would give."""

import numpy as np
import pytest

from compgen_jax.statistics import pass_at_k, wilson


def test_pass_at_k_is_unbiased():
  """The biased any-of-k, or 1 - (1 - p)^k."""
  # 1 - C(3,2) / C(4,2); the biased form gives 0.4375.
  assert pass_at_k(np.array([1]), 4, 2) == pytest.approx(0.5)
  assert pass_at_k(np.array([0, 4]), 4, 1) == pytest.approx(0.5)
  assert pass_at_k(np.array([3]), 4, 2) == 1.0
  rng = np.random.default_rng(0)
  correct = rng.binomial(16, 0.1, size=20_000)
  assert pass_at_k(correct, 16, 4) == pytest.approx(1 - 0.9**4, abs=5e-3)


def test_wilson_interval():
  """An interval that leaves [0, 1] or vanishes at 0 %."""
  low, high = wilson(0, 100)
  assert low == pytest.approx(0.0, abs=1e-9) and high == pytest.approx(0.0370, abs=1e-4)
  low, high = wilson(50, 100)
  assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
