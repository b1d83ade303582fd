"""What several test files measure on."""

import jax
import numpy as np
import pytest

import compgen_jax
from compgen_jax.task import tables
from tests import helpers
from tests.experiments import tiny

jax.config.update('jax_num_cpu_devices', 2)  # so that sharing a batch over devices can be tested


def pytest_configure(config):
  config.addinivalue_line('markers', 'slow: starts many processes, or takes most of a minute')


@pytest.fixture(scope='session')
def sft_sampler():
  """(support, function of example indices): the problem distribution that matters.

  Depths 1 to 3 of the pool `sft`.
  """
  s = tables.build('seen', helpers.support_config(), helpers.task(), helpers.pools())

  def sample(i):
    return helpers.sample(s, jax.random.fold_in(jax.random.key(0), i))

  return s, helpers.batched(sample, rows=4096)


@pytest.fixture(scope='session')
def sft_problems(sft_sampler):
  """(task, problems): many samples of it (numpy, leading axis)."""
  s, sample = sft_sampler
  return s.task, sample(np.arange(40_960))


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
  """A finished run of `tiny`: (workdir, rows). Tests that write copy it first."""
  workdir = tmp_path_factory.mktemp('finished')
  return workdir, compgen_jax.run(tiny(), workdir)


@pytest.fixture(scope='session')
def sft_run(tmp_path_factory):
  """The workdir of a finished run of one SFT stage, seeds 3 and 5; not to be written to."""
  workdir = tmp_path_factory.mktemp('sft_run')
  config = tiny(seeds=(3, 5), eval__every=0, eval__pass_k=(), contrasts=())
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  compgen_jax.run(config, workdir)
  return workdir
