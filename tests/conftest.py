"""What several test files measure on."""

import jax
import numpy as np
import pytest

from compgen_jax.task import support
from tests import helpers

jax.config.update('jax_num_cpu_devices', 2)  # so that sharing a batch over devices can be tested


@pytest.fixture(scope='session')
def sft_sampler():
  """(support, function of example indices): problems of depths 1 to 3 of the pool `sft`."""
  s = support.build('seen', helpers.support_config(), helpers.task(), helpers.pools())
  return s, helpers.batched(
    lambda i: helpers.sample(s, jax.random.fold_in(jax.random.key(0), i)), rows=4096
  )


@pytest.fixture(scope='session')
def sft_problems(sft_sampler):
  """(task, problems): many samples of `sft_sampler` (numpy, leading axis)."""
  s, sample = sft_sampler
  return s.task, sample(np.arange(40_960))
