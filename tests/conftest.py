"""What several test files measure on, and how tests compile."""

import fcntl
import json
import os
import shutil

import jax
import numpy as np
import pytest

import compgen_jax
from compgen_jax.task import tables
from tests import helpers, models
from tests.experiments import tiny

# Nearly all of the time of the tests goes into compilers. Processes that tests start inherit this.
# `XLA_FLAGS= launch/test.sh` tests programs that are compiled as a user's are.
os.environ.setdefault('XLA_FLAGS', models.FAST_XLA_FLAGS)
# Small programs are kept too, for the other worker.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.config.update('jax_num_cpu_devices', 2)  # so that sharing a batch over devices can be tested


# Files of few tests that take long. They come first: one that starts last keeps a worker waiting.
# (The second and third need no finished run, which the first makes meanwhile.)
LONGEST = (
  'test_stages.py',
  'test_devices.py',
  'test_anchor.py',
  'test_reliability.py',
  'test_run.py',
  'test_probe.py',
  'test_readme.py',
  'test_composability.py',
)


def pytest_configure(config):
  config.addinivalue_line('markers', 'slow: starts many processes, or takes most of a minute')
  config.option.loadscopereorder = False  # xdist would begin with the files of the most tests


def pytest_collection_modifyitems(items):
  def place(item):
    name = item.path.name
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)

  items.sort(key=place)


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


def _run_once(config, name, tmp_path_factory):
  """A finished run: (workdir, what `run` returned).

  Of the workers of a session the first that asks runs it. Each gets a copy of its own, because a
  run locks its workdir.
  """
  shared = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    shared = shared.parent
  made, returned = shared / f'{name}_run', shared / f'{name}_rows.json'
  with open(shared / f'{name}_lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not returned.exists():
      rows = compgen_jax.run(config, made)
      returned.write_text(json.dumps(rows))
  workdir = tmp_path_factory.mktemp(name) / 'run'
  shutil.copytree(made, workdir)
  return workdir, json.loads(returned.read_text())


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
  """A finished run of `tiny`: (workdir, rows). Tests that write copy it first."""
  return _run_once(tiny(), 'finished', tmp_path_factory)


@pytest.fixture(scope='session')
def sft_run(tmp_path_factory):
  """The workdir of a finished run of one SFT stage, seeds 3 and 5; not to be written to."""
  config = tiny(seeds=(3, 5), eval__every=0, eval__pass_k=(), contrasts=())
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  return _run_once(config, 'sft_run', tmp_path_factory)[0]
