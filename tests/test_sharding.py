"""Parameters split over the mesh axis `model`: the rule, and that nothing else changes."""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

import compgen_jax
from compgen_jax.config import from_config_dict
from compgen_jax.experiment import memory, programs, run
from compgen_jax.experiment.checkpoint import StageCheckpoints
from compgen_jax.experiment.replicate import Replicate, arguments
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning import optimizer, sharding
from tests import models
from tests.experiments import history, tiny

needs_two = pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')

# The tiny model: d_model 16, d_ff 32, one block.
SPLIT = {
  'qkv': (1, 16, 24),
  'attention_out': (1, 8, 16),
  'ff_in': (1, 16, 16),
  'ff_out': (1, 16, 16),
}


def name_of(path) -> str:
  return path[-1].key


def small(**changes):
  """A config of one SFT stage that is measured at its end only."""
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=(), **changes)
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  return config


def on_two():
  """A mesh of two devices that share each replicate's parameters, as a context."""
  return jax.set_mesh(run.data_mesh(1, 1, 2))


@functools.cache
def compiled(**changes):
  """A stage's program with the parameters on two devices, and what it is given; SFT with AdamW, of
  two blocks.  (Muon's products need whole matrices.)"""
  config = from_config_dict(small(sft__optimizer='adamw', model__n_layers=2, **changes))
  with on_two():
    base = run.build_setup(config, 1, 1, 2)
    stage = programs.build('sft', config, base, pathlib.Path('nowhere'))
    start = programs.initial_params(stage.setup, (0,))
    state = programs.spread(stage.setup, programs.initial_state(stage.setup, start))
    given = arguments(stage, [Replicate(0, build_supports(config, 0), None)], start)
    return stage, state, given, stage.advance.lower(state, given, 1).compile()


# The rule -----------------------------------------------------------------------------------------


def test_the_rule():
  """Replicates or blocks that are split instead of a matrix; a matrix left whole, or split where it
  does not divide; norms, embeddings and convolutions that are split."""
  params = jax.eval_shape(models.model().init_params, jax.random.key(0))
  found = {
    name_of(path): sharding.spec(path, x, 2) for path, x in jax.tree.leaves_with_path(params)
  }
  whole = {name: P() for name in set(found) - set(SPLIT)}
  assert {'conv', 'scale', 'token', 'index', 'marker_0', 'out'} <= set(whole)
  rows, columns = P(None, 'model'), P(None, None, 'model')
  split = {'qkv': columns, 'ff_in': columns, 'attention_out': rows, 'ff_out': rows}
  assert found == whole | split

  path = next(p for p, _ in jax.tree.leaves_with_path(params) if name_of(p) == 'ff_in')
  f32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  assert sharding.spec(path, f32((4, 2, 16, 32)), 4, ('replicate',)) == P(
    'replicate', None, None, 'model'
  )
  assert sharding.spec(path, f32((4, 2, 16, 33)), 4, (None,)) == P(None, None, 'model')
  assert sharding.spec(path, f32((4, 2, 15, 33)), 2, (None,)) == P()
  assert sharding.spec(path, f32((2, 16, 32)), 1) == P()


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_moments_are_split_like_parameters(name):
  """Optimizer state that stays whole: two of three parts of what a device holds."""
  params = jax.eval_shape(models.model().init_params, jax.random.key(0))
  tx = optimizer.make(optimizer.OptimizerConfig(), name)
  specs = sharding.specs(jax.eval_shape(tx.init, params), 2)
  split = [s for s in jax.tree.leaves(specs) if 'model' in s]
  assert len(split) == {'adamw': 8, 'muon': 4}[name]  # four matrices, of each moment


def test_memory_of_a_split_model():
  """An estimate that refuses a model that fits, or that splits what is whole."""
  config = from_config_dict(tiny(model__d_model=256, model__d_ff=1024))
  whole, split = (memory.of_run(config, run.build_setup(config, 1, 1, n))['sft'] for n in (1, 4))
  for part in ('parameters', 'optimizer', 'gradients'):
    assert 0.25 < getattr(split, part) / getattr(whole, part) < 0.31
  assert split.activations == whole.activations


# What programs do ---------------------------------------------------------------------------------


@pytest.mark.slow
@needs_two
def test_a_stage_keeps_its_state_split():
  """Parameters or moments that come back whole on every device, or other than they went in, so that
  every dispatch compiles or copies."""
  stage, state, given, _ = compiled()
  shapes = {
    name_of(path): x.addressable_shards[0].data.shape[1:]
    for path, x in jax.tree.leaves_with_path(state.params)
  }
  assert {name: shapes[name] for name in SPLIT} == {n: (2, *s[1:]) for n, s in SPLIT.items()}
  with on_two():
    before = jax.tree.map(lambda x: x.sharding, state)
    new, _ = stage.advance(state, given, 2)
    assert jax.tree.map(lambda x: x.sharding, new) == before
    assert jax.tree.map(lambda x: x.sharding, given.parent) == before.params
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))  # donated
    stage.advance(new, given, 1)
  assert stage.advance._cache_size() == 1
  compiled.cache_clear()  # its state is gone


@pytest.mark.slow
@needs_two
def test_no_parameter_is_gathered():
  """A program that brings the whole parameters together, or splits what is small and then meets for
  it: an update with AdamW sums activations and numbers, and deals heads out anew."""
  text = compiled()[-1].as_text()
  meets = re.compile(r'= (.*) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(')
  found = [meets.search(line) for line in text.splitlines()]
  kinds = {match[2] for match in found if match}
  assert kinds == {'all-reduce', 'collective-permute'}
  reduced = {match[1] for match in found if match and match[2] == 'all-reduce'}
  matrices = [text for text in reduced if re.search(r'f32\[(2,)?(16|32|48),(16|32|48)\]', text)]
  assert not matrices


# A run --------------------------------------------------------------------------------------------


def assert_alike(got: pathlib.Path, want: pathlib.Path, stage: str, seed: int = 0):
  """Histories that differ by rounding at most."""
  got, want = history(got, stage, seed), history(want, stage, seed)
  assert [row['step'] for row in got] == [row['step'] for row in want] and len(want) > 1
  for one, other in zip(got, want):
    assert one == pytest.approx(other, rel=2e-3, abs=1e-5)


@pytest.mark.slow
@needs_two
def test_a_run_is_what_it_is_on_one_device(finished, tmp_path):
  """Other problems, samples or gradients where the parameters are split, in any kind of stage; and
  a run that can't be continued with another `mesh.model`."""
  changes = dict(mesh__model=2)
  compgen_jax.run(tiny(**changes), tmp_path / 'w')
  for stage in ('sft', 'rl', 'rft'):
    assert_alike(tmp_path / 'w', finished[0], stage)
  # Half of a split run, gone on with on one device; and a finished one, read there.
  shutil.copytree(tmp_path / 'w', tmp_path / 'half')
  sft = tmp_path / 'half/stages/sft/seed-0'
  shutil.rmtree(sft / 'checkpoints/12')
  (sft / 'evaluation.json').unlink()
  compgen_jax.run(tiny(), tmp_path / 'half')
  assert_alike(tmp_path / 'half', finished[0], 'sft')


@needs_two
@pytest.mark.parametrize('way', ['to one', 'to two'])
def test_checkpoints_move_between_meshes(tmp_path, way):
  """A state that is stored or sealed by how it is split."""
  x = {'blocks': {'ff_in': jnp.arange(64.0).reshape(1, 4, 16)}}
  spec = jax.NamedSharding(run.data_mesh(1, 1, 2), P(None, None, 'model'))
  split = jax.device_put(x, spec)
  saved, like = (split, x) if way == 'to one' else (x, split)
  with StageCheckpoints(tmp_path, {}) as store:
    store.save(3, saved)
    got = store.restore(jax.tree.map(jnp.zeros_like, like), 3)
  np.testing.assert_array_equal(got['blocks']['ff_in'], x['blocks']['ff_in'])
  n = len(got['blocks']['ff_in'].sharding.device_set)
  assert n == (1 if way == 'to one' else 2)


EIGHT = """
import sys
import compgen_jax
from tests.test_sharding import small
changes = dict(seeds=(3, 5), mesh__replicate=2, mesh__data=2, mesh__model=2)
compgen_jax.run(small(**changes), sys.argv[1])
"""


@pytest.mark.slow
def test_all_axes_together(sft_run, tmp_path):
  """Replicates that are spread, a batch that is split and parameters that are split, of which one
  takes another's axis."""
  env = os.environ | {
    'XLA_FLAGS': f'{models.FAST_XLA_FLAGS} --xla_force_host_platform_device_count=8'
  }
  command = [sys.executable, '-c', EIGHT, str(tmp_path / 'w')]
  done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr
  for seed in (3, 5):
    assert_alike(tmp_path / 'w', sft_run, 'sft', seed)
