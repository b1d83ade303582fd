"""The estimate of memory: near what the compiler takes, and a refusal before anything compiles."""

import dataclasses
import pathlib

import jax
import pytest

from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.experiment import memory, programs, run
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning.state import Given
from tests.experiments import tiny

MODEL = dict(model__d_model=64, model__n_layers=2, model__d_ff=256)


def _estimated(config, stage):
  return memory.of_run(config, run.build_setup(config, 1))[stage]


def test_estimate_is_near_what_the_compiler_takes():
  """An estimate that is off by more than what it is good for."""
  config = from_config_dict(tiny(sft__batch=64, eval__problems=4, **MODEL))
  base = run.build_setup(config, 1)
  stage = programs.build('sft', config, base, pathlib.Path())
  samplers = jax.tree.map(lambda x: x[None], {'sft': build_supports(config, 0)['sft'].sampler})
  params = jax.eval_shape(lambda: programs.initial_params(stage.setup, (0,)))
  state = jax.eval_shape(lambda p: programs.initial_state(stage.setup, p), params)
  given = Given(jax.random.split(jax.random.key(0), 1), params, samplers, stage.rates_from(0, 1))
  taken = stage.advance.lower(state, given, 1).compile().memory_analysis()
  measured = taken.argument_size_in_bytes + taken.temp_size_in_bytes
  estimate = memory.of_run(config, base)['sft'].total
  assert measured / 2 < estimate < measured * 2, (measured, estimate)


def test_what_the_parts_grow_with():
  """A part that does not see the setting that decides it."""
  small = _estimated(from_config_dict(tiny()), 'rl')

  def grown(**changes):
    large = _estimated(from_config_dict(tiny(**changes)), 'rl')
    parts = [field.name for field in dataclasses.fields(memory.Memory)]
    return {name for name in parts if getattr(large, name) > getattr(small, name)}

  everything = {field.name for field in dataclasses.fields(memory.Memory)}
  assert grown(model__n_layers=8) == everything - {'data'}
  assert grown(model__repeats=8) == {'activations', 'cache'}
  assert grown(rl__prompts=64, rl__group=8) >= {'data'}
  assert 'activations' in grown(run__microbatch_rows=64, rl__prompts=256)
  assert grown(eval__problems=4096) >= {'data'}


@pytest.mark.parametrize('changes, field', [
  ({'model__d_model': 65536}, 'model.d_model=65536'),
  ({'model__n_layers': 1024, 'model__d_ff': 2**20}, 'n_layers=1024'),
  ({'rl__prompts': 2**28}, 'rl.prompts=268435456'),
  ({'stages__rl__settings__group': 2**28}, 'stages.rl.settings.group=268435456'),
  ({'eval__problems': 2**31 - 1}, 'eval.problems=2147483647'),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, changes, field):
  """An out-of-memory error, in a traceback, after minutes."""
  with pytest.raises(ConfigError) as e:
    run.run(tiny(**changes), tmp_path / 'w')
  message = str(e.value)
  assert field in message and 'needs about' in message and '\n' not in message
  assert not (tmp_path / 'w').exists()


def test_sizes_are_readable():
  """A digit or a unit too many."""
  assert [memory.size(n) for n in (0, 999, 1000, 12_345, 999_999, 3.2e12)] == [
    '0 B', '999 B', '1 kB', '12.3 kB', '1 MB', '3.2 TB',
  ]  # fmt: skip
