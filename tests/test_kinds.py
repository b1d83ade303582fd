"""To add a kind of stage is to add one entry: nothing else in the package names the kinds."""

import ast
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compgen_jax
from compgen_jax.config import ConfigError, from_config_dict, from_json, to_dict
from compgen_jax.experiment import programs, run, stages
from compgen_jax.learning.kinds import KINDS, Kind
from compgen_jax.learning.section import ExploringSection, Section
from configs import default
from tests.experiments import history, tiny


@dataclasses.dataclass(frozen=True)
class ShrinkConfig(Section):
  """A kind without data: every update makes the parameters smaller."""

  batch: int = 2
  factor: float = 0.5

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    yield from super().checks()
    yield 'factor', 0 < self.factor < 1, 'between 0 and 1'


def shrink(state, given, setup, config):
  del given, setup
  params = jax.tree.map(lambda p: p * config.factor, state.params)
  loss = jnp.float32(config.factor)
  return state._replace(step=state.step + 1, params=params), {'loss': loss, 'finite': loss / loss}


@pytest.fixture
def with_shrink(monkeypatch):
  monkeypatch.setitem(KINDS, 'shrink', Kind(ShrinkConfig, shrink))


def _config(**overrides):
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=())
  config.stages = {
    'small': default.stage('shrink', '', 3, ('sft',)),
    'smaller': default.stage('shrink', 'small', 2, ('sft',), factor=0.25),
  }
  changes = {name.replace('__', '.'): value for name, value in overrides.items()}
  config.update_from_flattened_dict(changes)
  return config


def test_a_new_kind_runs(with_shrink, tmp_path):
  """A list of kinds somewhere else, or a step that does not get its stage's settings."""
  compgen_jax.run(_config(), tmp_path)
  assert [row['loss'] for row in history(tmp_path, 'small')] == [0.5]
  assert [row['loss'] for row in history(tmp_path, 'smaller')] == [0.25]
  config = from_config_dict(_config())
  base = run.build_setup(config, 1)
  with jax.set_mesh(run.data_mesh(1)):
    first = programs.initial_params(base, (0,))
    built = programs.build('smaller', config, base, tmp_path)
    last = stages.trained_params(built, (0,))
  want = jax.tree.map(lambda p: p * 0.5**3 * 0.25**2, first)
  jax.tree.map(np.testing.assert_array_equal, last, want)
  assert json.loads((tmp_path / 'config.json').read_text())['shrink']['factor'] == 0.5


def test_a_new_section_is_typed_and_validated(with_shrink):
  """A section that is not checked like the others, or lacks its dataclass' defaults."""
  assert default.get_config().shrink.to_dict() == dataclasses.asdict(ShrinkConfig())
  config = from_config_dict(_config())
  assert from_json(to_dict(config)) == config
  for changes, message in (
    ({'shrink__factor': 1.5}, 'shrink.factor=1.5: legal is between 0 and 1'),
    ({'shrink__lr': -1.0}, 'shrink.lr=-1.0: legal is above 0'),
    ({'stages__small__settings__factor': 2.0}, 'stages.small.settings.factor=2.0: legal is'),
    ({'stages__small__shares': (0.5,)}, 'stages.small.shares'),
  ):
    with pytest.raises(ConfigError) as e:
      from_config_dict(_config(**changes))
    assert str(e.value).startswith(message)
  held = to_dict(config)
  held['shrink']['factor'] = 'half'
  with pytest.raises(ConfigError, match="shrink.factor='half': float is wanted"):
    from_config_dict(held)
  del held['shrink']
  with pytest.raises(ConfigError, match='shrink: missing'):
    from_config_dict(held)


def test_a_kind_that_explores_needs_a_start_and_answers(monkeypatch):
  """Rules for stages that explore that hold for those that are named in the code only."""

  @dataclasses.dataclass(frozen=True)
  class Config(ExploringSection):
    pass

  monkeypatch.setitem(KINDS, 'walk', Kind(Config, shrink))
  config = tiny()
  config.stages.walk = default.stage('walk', '', 1, ('rl',))
  with pytest.raises(ConfigError, match=r'a stage to start from \(walk needs one\)'):
    from_config_dict(config)
  config.stages.walk.init_from = 'sft'
  assert from_config_dict(config).kind('walk').explores
  config.supports.rl.dry = True
  with pytest.raises(ConfigError, match='a support that is not dry'):
    from_config_dict(config)


def test_sections_are_dataclasses():
  """A section whose own defaults are those of its parent, because the decorator was forgotten."""
  for kind in KINDS.values():
    assert '__dataclass_fields__' in vars(kind.section)
    annotated = set(getattr(kind.section, '__annotations__', {})) - {
      'batch_field',
      'smallest_group',
    }
    assert annotated <= {field.name for field in dataclasses.fields(kind.section)}


def test_nothing_else_names_the_kinds():
  """`if kind == 'rl'` somewhere in the package: a new kind would then be more than one entry."""
  package = pathlib.Path(compgen_jax.__file__).parent
  for path in (package / 'config.py', package / 'validation.py', *package.glob('experiment/*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Compare):
        constants = {x.value for x in ast.walk(node) if isinstance(x, ast.Constant)}
        assert not constants & set(KINDS), f'{path}:{node.lineno}'
