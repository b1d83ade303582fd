"""Parameters split over the mesh axis `model`: the rule, and that nothing else changes."""

import dataclasses
import functools
import json
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
from compgen_jax.learning.devices import Devices
from compgen_jax.learning.state import create
from tests import made_up, models
from tests.experiments import history, tiny
from tests.test_devices import assert_same_step

needs_two = pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')

SEEDS = (3, 5)
# What one of two devices holds of a matrix of the tiny model: d_model is 16, d_ff 32.
SPLIT = {'qkv': (16, 24), 'attention_out': (8, 16), 'ff_in': (16, 16), 'ff_out': (16, 16)}


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
def compiled():
  """A stage's program with the parameters on two devices, and what it is given: SFT with AdamW, of
  two blocks, two replicates side by side. (Muon's products need whole matrices.)"""
  config = from_config_dict(small(sft__optimizer='adamw', model__n_layers=2, seeds=SEEDS))
  with on_two():
    base = run.build_setup(config, 1, 1, 2)
    stage = programs.build('sft', config, base, pathlib.Path('nowhere'), len(SEEDS))
    start = programs.initial_params(stage.setup, SEEDS)
    state = programs.spread(stage.setup, programs.initial_state(stage.setup, start))
    replicates = [Replicate(seed, build_supports(config, seed), None) for seed in SEEDS]
    given = arguments(stage, replicates, start)
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
  assert split.cache == whole.cache  # two heads can't be split over four devices
  in_two = memory.of_run(config, run.build_setup(config, 1, 1, 2))['sft']
  assert in_two.cache == whole.cache // 2


# What programs do ---------------------------------------------------------------------------------


@pytest.mark.slow
@needs_two
def test_a_stage_keeps_its_state_split():
  """Parameters or moments that come back whole on every device, or other than they went in, so that
  every dispatch compiles or copies."""
  stage, state, given, _ = compiled()
  shapes = {
    name_of(path): x.addressable_shards[0].data.shape[2:]
    for path, x in jax.tree.leaves_with_path(state.params)
  }
  assert {name: shapes[name] for name in SPLIT} == SPLIT
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
  side = '(8|16|24|32|48)'  # of a matrix or its half; activations have other numbers of rows
  reduced = [match[1] for match in found if match and match[2] == 'all-reduce']
  assert reduced and not [x for x in reduced if re.search(rf'\b{side},{side}\]', x)]


@pytest.mark.slow
@needs_two
def test_a_step_is_what_it_is_on_one_device():
  """Rows, samples, rewards or gradients that are others, or counted once for each device, where
  parameters are split: SFT, and policy gradient with rewards that differ."""
  parent = made_up.half_trained()
  want = _steps(parent, made_up.SFT_SETUP, made_up.RL_SETUP)
  assert want[1][1]['reward'] > 0.05 and want[1][1]['grad_norm'] > 1e-3
  work = dict(devices=Devices(model=2), microbatch_rows=(4, 1), rollout_rows=16)
  setups = [dataclasses.replace(s, **work) for s in (made_up.SFT_SETUP, made_up.RL_SETUP)]
  with on_two():
    got = _steps(programs.placed(setups[0], parent, ()), *setups)
  for one, other in zip(got, want):
    assert_same_step(one, other)


def _steps(parent, sft, rl):
  state = create(sft, parent)
  return made_up.sft_step(state, setup=sft), made_up.rl_step(state, parent, setup=rl)


# A run --------------------------------------------------------------------------------------------


def assert_alike(got: pathlib.Path, want: pathlib.Path, stage: str, seed: int = 0):
  """Histories that differ by rounding at most."""
  got, want = history(got, stage, seed), history(want, stage, seed)
  assert [row['step'] for row in got] == [row['step'] for row in want] and want
  for one, other in zip(got, want):
    assert one == pytest.approx(other, rel=2e-3, abs=1e-5)


def _traces(workdir: pathlib.Path, stage: str) -> list[dict]:
  """What was written at a stage's end."""
  file = workdir / f'stages/{stage}/seed-0/evaluation.json'
  return json.loads(file.read_text())['traces']


@pytest.mark.slow
@needs_two
def test_a_run_is_what_it_is_on_one_device(finished, tmp_path):
  """Other problems, samples or gradients where the parameters are split, in any kind of stage; and
  a run that can't be continued with another `mesh.model`."""
  changes = dict(mesh__model=2)
  compgen_jax.run(tiny(**changes), tmp_path / 'w')
  for stage in ('sft', 'rl', 'rft'):
    assert_alike(tmp_path / 'w', finished[0], stage)
    ends = [_traces(workdir, stage) for workdir in (tmp_path / 'w', finished[0])]
    assert [t['prompt'] for t in ends[0]] == [t['prompt'] for t in ends[1]]
    same = sum(one == other for one, other in zip(*ends))  # rounding may turn a token
    assert same > 0.9 * len(ends[1]) > 0
  # A finished split run, read on one device; and half of one, gone on with there.
  rows = compgen_jax.read(tmp_path / 'w')
  assert compgen_jax.run(tiny(), tmp_path / 'w') == rows
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


def explores(**changes):
  """A config of SFT and RL, which learns from entropy and KL: samples that small earn nothing."""
  terms = dict(rl__kl=0.05, rl__entropy=0.05)
  config = tiny(seeds=SEEDS, eval__every=0, eval__pass_k=(), contrasts=(), **terms, **changes)
  del config.stages['rft']
  return config


EIGHT = """
import sys
import compgen_jax
from tests.test_sharding import explores
compgen_jax.run(explores(mesh__replicate=2, mesh__data=2, mesh__model=2), sys.argv[1])
"""


@pytest.mark.slow
def test_all_axes_together(tmp_path):
  """Replicates that are spread, a batch and parameters that are split, of which one takes another's
  axis; devices that wait for each other in loops that go on for some of them only."""
  compgen_jax.run(explores(), tmp_path / 'one')
  flags = f'{models.FAST_XLA_FLAGS} --xla_force_host_platform_device_count=8'
  command = [sys.executable, '-c', EIGHT, str(tmp_path / 'w')]
  env = os.environ | {'XLA_FLAGS': flags}
  done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr
  for seed in SEEDS:
    for stage in ('sft', 'rl'):
      assert_alike(tmp_path / 'w', tmp_path / 'one', stage, seed)
