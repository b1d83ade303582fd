"""Stages as programs for accelerators, lowered without having one.

Lowering is where an operation that a platform lacks, or a call back into Python, is refused. What
is lowered is the program that a run dispatches, with the division of work that an accelerator gets.
"""

import functools
import pathlib
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import programs, run
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning.devices import DATA, MODEL, REPLICATE
from compgen_jax.learning.state import Given
from tests.experiments import tiny

pytestmark = pytest.mark.slow

PLATFORMS = ('tpu', 'cuda')
BF16 = dict(model__dtype='bfloat16')
# Each kind of stage and both precisions; among them layers scanned and recomputed, Muon,
# replicates side by side, and every term of the loss.
CASES = {
  'sft': ('sft', {}),
  'sft-bfloat16': (
    'sft',
    BF16 | dict(sft__optimizer='muon', model__remat=True, model__scan_layers=True),
  ),
  'rl-replicates': ('rl', dict(seeds=(0, 1))),
  'rl-bfloat16': ('rl', BF16 | dict(rl__kl=0.01, rl__entropy=0.01)),
  'rft-anchor': ('rft', dict(rft__anchor=('sft',), rft__anchor_batch=4)),
}


def lowered_text(traced, platform: str) -> str:
  """StableHLO for a platform.

  Raises:
    ValueError, NotImplementedError: the program calls back into Python, or a primitive does not
      exist on the platform.
  """
  return traced.lower(lowering_platforms=(platform,)).as_text()


def foreign(text: str) -> set[str]:
  """What the text holds that no accelerator should be given: calls that exist on CPU only, and
  double precision."""
  calls = set(re.findall(r'custom_call\s+@"?([\w.$-]+)', text))
  found = {
    name for name in calls if re.search('lapack|cpu|callback|python|eigen', name, re.IGNORECASE)
  }
  return found | ({'f64'} if re.search('[x<]f64>', text) else set())


@functools.cache
def traced_stage(name: str, division: tuple[int, int, int] = (1, 1, 1)):
  """A stage's program; `division`: as `run.data_mesh`, over devices that need not be there."""
  stage_name, changes = CASES[name]
  config = from_config_dict(tiny(**changes))
  n = len(config.all_seeds)  # side by side
  with mock.patch.object(jax, 'default_backend', lambda: PLATFORMS[0]):
    base = run.build_setup(config, *division)
    stage = programs.build(stage_name, config, base, pathlib.Path('nowhere'), n)
  names = [source.name for source in (*stage.setup.sources, *stage.setup.anchor)]
  drawn = [build_supports(config, seed) for seed in config.all_seeds]
  samplers = [{name: by_name[name].sampler for name in names} for by_name in drawn]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *samplers)
  rates = stage.rates_from(0, n)

  def arguments():
    params = programs._initial_params(stage.setup, jnp.asarray(config.all_seeds))
    keys = jax.random.split(jax.random.key(0), n)
    return programs.initial_state(stage.setup, params), Given(keys, params, stacked, rates)

  with jax.sharding.use_abstract_mesh(abstract_mesh(*division)):
    return programs.updates(stage).trace(*jax.eval_shape(arguments), 3)


def abstract_mesh(n_devices: int, groups: int, model: int) -> jax.sharding.AbstractMesh:
  """The axes of `run.data_mesh`, without devices."""
  sizes = {REPLICATE: groups, DATA: n_devices // groups, MODEL: model}
  kept = {name: n for name, n in sizes.items() if n > 1 or name == DATA}
  auto = (jax.sharding.AxisType.Auto,) * len(kept)
  return jax.sharding.AbstractMesh(tuple(kept.values()), tuple(kept), axis_types=auto)


@pytest.mark.parametrize('platform', PLATFORMS)
@pytest.mark.parametrize('name', CASES)
def test_stage_lowers(name, platform):
  """Catches a callback or an operation that only CPU has in a training program, and double
  precision."""
  text = lowered_text(traced_stage(name), platform)
  assert foreign(text) == set()
  assert text.count('dot_general') > 10  # it is the program of a model
  assert ('xbf16>' in text) == ('bfloat16' in name)


@pytest.mark.parametrize('platform', PLATFORMS)
@pytest.mark.parametrize(
  'name, division, sharded',
  [
    ('rl-replicates', (4, 2, 1), {REPLICATE, DATA}),
    ('rft-anchor', (2, 1, 2), {DATA, MODEL}),
    ('rl-replicates', (4, 2, 2), {REPLICATE, DATA, MODEL}),
  ],
)
def test_stage_lowers_on_meshes(name, division, sharded, platform):
  """A program of several devices that only CPU can run, or a mesh axis that it leaves out."""
  text = lowered_text(traced_stage(name, division), platform)
  assert foreign(text) == set()
  assert {axis for axis in (REPLICATE, DATA, MODEL) if f'"{axis}"' in text} == sharded


# The check itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize('platform', PLATFORMS)
def test_callbacks_do_not_lower(platform):
  """Catches a check that lets through what it is for."""
  x = jax.ShapeDtypeStruct((4,), jnp.float32)
  traced = jax.jit(lambda x: jax.pure_callback(np.sin, x, x)).trace(x)
  with pytest.raises(ValueError, match='platform'):
    lowered_text(traced, platform)


@pytest.mark.parametrize('platform', PLATFORMS)
def test_foreign_operations_are_found(platform):
  """Catches a pattern that matches no call or no type as StableHLO writes them."""
  x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  lapack = jax.jit(lambda x: jax.ffi.ffi_call('lapack_sgeqrf_ffi', x)(x)).trace(x)
  assert foreign(lowered_text(lapack, platform)) == {'lapack_sgeqrf_ffi'}
  assert foreign(lowered_text(jax.jit(lambda x: jnp.sin(x) @ x).trace(x), platform)) == set()
  with jax.enable_x64(True):
    double = jax.jit(lambda x: jnp.sum(x.astype(jnp.float64))).trace(x)
    assert foreign(lowered_text(double, platform)) == {'f64'}
