"""Programs of a stage: what several updates in one dispatch report; whose randomness is whose."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import programs, run
from compgen_jax.learning.kinds import KINDS, Kind
from compgen_jax.learning.section import Section
from compgen_jax.learning.state import Given
from configs import default
from tests.experiments import tiny


@dataclasses.dataclass(frozen=True)
class CountConfig(Section):
  """A kind that learns nothing and reports its updates."""

  batch: int = 2


def count(state, given, setup, config):
  del given, setup, config
  step = state.step.astype(jnp.float32)
  metrics = {'loss': step, 'log_prob_gap': 1 / (1 + step), 'finite': step * 0 + 1}
  return state._replace(step=state.step + 1), metrics


def _stage(monkeypatch, tmp_path, n_replicates):
  monkeypatch.setitem(KINDS, 'count', Kind(CountConfig, count))
  config = tiny(contrasts=())
  config.stages = {'count': default.stage('count', '', 10, ('sft',))}
  config = from_config_dict(config)
  return programs.build('count', config, run.build_setup(config, 1), tmp_path, n_replicates)


@pytest.mark.parametrize('n_replicates', [1, 2])
def test_metrics_of_several_updates(monkeypatch, tmp_path, n_replicates):
  """Catches metrics of the last update alone, or of updates of the dispatch before."""
  stage = _stage(monkeypatch, tmp_path, n_replicates)
  params = programs.initial_params(stage.setup, tuple(range(n_replicates)))
  state = programs.initial_state(stage.setup, params)
  keys = jax.random.split(jax.random.key(0), n_replicates)
  given = Given(keys, params, {}, stage.rates_from(0, n_replicates))
  for n, loss in ((3, [0, 1, 2]), (2, [3, 4, 0])):
    state, metrics = stage.advance(state, given, n)
    np.testing.assert_array_equal(metrics['loss'], [loss] * n_replicates)
  assert state.step.tolist() == [5] * n_replicates


def test_a_seed_is_its_own(monkeypatch, tmp_path):
  """Catches parameters that depend on which seeds they are made with, or that are the same for all;
  and a purpose that draws what another does."""
  setup = _stage(monkeypatch, tmp_path, 1).setup
  both, second = programs.initial_params(setup, (3, 5)), programs.initial_params(setup, (5,))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], rtol=1e-6), both, second)
  tokens = both['ends']['token']
  assert np.mean(tokens[0] == tokens[1]) < 0.01
  keys = [
    jax.random.key_data(programs.key_for(jnp.int32(seed), purpose)).tolist()
    for seed in (0, 1)
    for purpose in ('sft', 'rl', programs.INITIAL)
  ]
  assert len({tuple(key) for key in keys}) == 6
  assert not programs.INITIAL.isidentifier()  # so no stage can be called so


def test_learning_rates_of_a_stage(monkeypatch, tmp_path):
  """Catches a schedule over another span than the stage's or its own; an update that is given
  another one's rate, in a dispatch that begins anywhere; and stages that differ in their schedule
  alone but are compiled apart, or in another setting and are not."""
  stages = {}
  for name, settings in {
    'whole': dict(lr=0.5, warmup=2),
    'longer': dict(lr=0.25, warmup=2, schedule_steps=24),
    'flat': dict(schedule='constant', warmup=0, lr=1.0),
    'other': dict(optimizer='adamw'),
  }.items():
    monkeypatch.setitem(KINDS, 'count', Kind(CountConfig, count))
    config = tiny(contrasts=(), run__steps_per_call=4)
    config.stages = {'count': default.stage('count', '', 12, ('sft',), **settings)}
    config = from_config_dict(config)
    stages[name] = programs.build('count', config, run.build_setup(config, 1), tmp_path)
  rates = stages['whole'].rates
  np.testing.assert_allclose(rates[[0, 1, 2, 7]], [0, 0.25, 0.5, 0.275], rtol=1e-6)
  np.testing.assert_allclose(stages['longer'].rates[[2, 7]], [0.25, 0.2225218], rtol=1e-5)
  np.testing.assert_array_equal(stages['flat'].rates, np.ones(12))
  state = programs.initial_state(stages['whole'].setup, {'ends': {'x': jnp.zeros((1, 1))}})
  state = jax.tree.map(lambda x: x[0], state)
  for done in range(12):
    given = Given(jax.random.key(0), {}, {}, stages['whole'].rates_from(done, 1)[0])
    for step in range(done, min(done + 4, 12)):
      at = given.learning_rate_of(state._replace(step=jnp.int32(step)))
      assert float(at) == float(rates[step]), (done, step)
  assert stages['whole'].advance is stages['longer'].advance is stages['flat'].advance
  assert stages['whole'].advance is not stages['other'].advance
