"""What several test files measure on."""

import jax
import numpy as np
import pytest

import compgen_jax
from compgen_jax.task import support
from tests import experiments, helpers

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


@pytest.fixture(scope='session')
def sft_run(tmp_path_factory):
  """The workdir of a finished run of one SFT stage and two seeds (3 and 5); not to be written to."""
  workdir = tmp_path_factory.mktemp('sft_run')
  config = experiments.tiny(seeds=(3, 5), eval__every=0, eval__pass_k=(), contrasts=())
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  compgen_jax.run(config, workdir)
  return workdir
