"""The typed config: complete, rebuilt from its file, with settings stage by stage."""

import ast
import dataclasses
import importlib
import pathlib
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from compgen_jax import config as config_lib
from compgen_jax import typed
from compgen_jax.config import (
  ConfigError,
  from_config_dict,
  from_json,
  to_dict,
)
from compgen_jax.learning.kinds import KINDS
from compgen_jax.learning.optimizer import OptimizerConfig
from compgen_jax.schema import MeshConfig, RunConfig, StageConfig
from compgen_jax.task.support import SupportConfig
from configs import default
from tests.experiments import plain, tiny

CONFIGS = sorted(path.stem for path in pathlib.Path('configs').glob('*.py') if path.stem[0] != '_')


@pytest.mark.parametrize('name', CONFIGS)
def test_committed_configs_are_valid(name):
  """A config that was committed but never loaded."""
  from_config_dict(importlib.import_module(f'configs.{name}').get_config())


def test_round_trip_through_plain_dicts():
  """config.json that would not rebuild the config it came from."""
  config = from_config_dict(tiny(stages__rl__settings__anchor=('sft', 'rl')))
  assert config.stages['rl'].settings == {'anchor': ('sft', 'rl')}
  assert from_config_dict(to_dict(config)) == config == from_json(to_dict(config))


def test_names_of_modules_are_resolved():
  """A config.json that says "all", which another version of the code would read as more."""
  held = to_dict(from_config_dict(tiny(task__skills=(), task__routings=())))
  assert len(held['task']['skills']) == 24 and len(held['task']['routings']) == 10
  assert 'reverse' in held['task']['skills'] and 'previous' in held['task']['routings']


# Defaults -----------------------------------------------------------------------------------------

# Fields whose value in configs/default.py is not what runs did before the field existed.
CHANGED_SINCE = ('model.address_markers', 'eval.every', 'eval.curve', 'eval.curve_problems')


def _defaults() -> dict[str, object]:
  """Every default that a section of the config has, by name."""
  sections = {'optimizer': OptimizerConfig, 'run': RunConfig, 'mesh': MeshConfig}
  sections |= {'supports': SupportConfig, 'stages': StageConfig}  # of each of their entries
  sections |= {name: kind.section for name, kind in KINDS.items()}
  sections |= {f.name: f.type for f in dataclasses.fields(config_lib.Config) if f.name in ALSO}
  found = {}
  for section, cls in sections.items():
    for field in dataclasses.fields(cls):
      if field.default is not dataclasses.MISSING:
        found[f'{section}.{field.name}'] = field.default
  return found


ALSO = ('task', 'pools', 'model', 'eval')


def test_defaults_are_those_of_the_config_file():
  """Two values for one knob: an old run that is continued would get another than it had."""
  config = default.get_config()
  config.supports = default.support()
  config.stages = default.stage('sft', '', 1, ('sft',))
  found = _defaults()
  assert len(found) > 80
  sections = {name.split('.')[0] for name in found}
  named = {'experiment', 'seed', 'seeds', 'contrasts'}
  assert sections == set(to_dict(from_config_dict(default.get_config()))) - named
  for name, value in found.items():
    section, field = name.split('.')
    if name not in CHANGED_SINCE:
      assert config[section][field] == value, name


def test_a_config_of_an_older_run_is_filled_up():
  """A run that the code can't read any more since it has learned a new setting, or that gets a
  value that it did not have."""
  for name, value in _defaults().items():
    section, field = name.split('.')
    older, filled = (to_dict(from_config_dict(default.get_config())) for _ in range(2))
    for entry in _entries(older, section):
      del entry[field]
    for entry in _entries(filled, section):
      entry[field] = typed.plain(value)
    assert from_json(older) == from_json(filled), name
  config = plain()
  older = {name: section for name, section in config.items() if name not in ('rft', 'optimizer')}
  for stage in older['stages'].values():
    del stage['settings']
  del older['stages']['rft']
  filled = from_json(older | {'optimizer': {}})
  assert filled.optimizer == OptimizerConfig()
  assert filled.kinds['rft'] == KINDS['rft'].section()
  assert filled.stages['rl'].settings == {}


def _entries(config: dict, section: str) -> list[dict]:
  """The mappings that hold a section's fields."""
  named = section in ('supports', 'stages')
  return list(config[section].values()) if named else [config[section]]


def test_an_older_run_is_not_guessed_at():
  """A value for a field that never had another meaning than what the run says."""
  config = plain()
  del config['stages']['rl']['steps']
  with pytest.raises(ConfigError, match='stages.rl.steps: missing'):
    from_json(config)


# Settings of stages -------------------------------------------------------------------------------


def test_two_arms_of_one_kind():
  """Settings that reach both arms of a kind, or none, or only the learning rate."""
  config = tiny()
  differs = dict(lr=1e-3, optimizer='adamw', temperature=0.9, group=4, kl=0.1)
  config.stages.other = default.stage('rl', 'sft', 4, ('rl',), **differs)
  config = from_config_dict(config)
  here, there = config.settings('rl'), config.settings('other')
  assert here == config.kinds['rl']
  assert there == dataclasses.replace(here, **differs)
  assert all(getattr(here, name) != value for name, value in differs.items())
  assert config.stage_rows('rl') == (2, 2) and config.stage_rows('other') == (4,)


def test_batch_and_anchor_of_one_stage():
  """Rows that are counted by the kind's section though the stage says otherwise."""
  own = dict(prompts=6, anchor=('sft', 'atoms'), anchor_batch=8)
  config = tiny(**{f'stages__rl__settings__{name}': value for name, value in own.items()})
  config = from_config_dict(config)
  assert config.stage_rows('rl') == (3, 3)
  assert config.anchor_rows('rl') == {'sft': 4, 'atoms': 4}
  assert config.anchor_rows('sft') == {} and config.anchor_rows('rft') == {'sft': 4}


def _with_flags(monkeypatch, *args):
  """The quickstart with flags, as a command reads them."""
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file('config', lock_config=True, flag_values=values)
  file = pathlib.Path(default.__file__).with_name('quickstart.py')
  argv = ['main', f'--config={file}', *(f'--config.{arg}' for arg in args)]
  monkeypatch.setattr(sys, 'argv', argv)  # that is where flags of a config are looked up
  values(argv)
  return from_config_dict(holder.value)


def test_settings_by_flag(monkeypatch):
  """A setting that only a config file can change, or that changes another stage."""
  config = _with_flags(
    monkeypatch,
    'stages.compound.settings.lr=1e-3',
    "stages.compound.settings.anchor=('dry',)",
    'stages.compound.settings.drop_no_signal=True',
  )
  got, want = config.settings('compound'), config.kinds['rl']
  assert got == dataclasses.replace(want, lr=1e-3, anchor=('dry',), drop_no_signal=True)
  atomic = config.settings('atomic')
  assert atomic.lr == 2e-4 and atomic.anchor == () and want.lr == 4e-4
  assert config.settings('sft_continued').lr == 4e-4 != config.settings('sft').lr
  with pytest.raises(ConfigError, match='stages.compound.settings.lr=2.0: legal is above 0'):
    _with_flags(monkeypatch, 'stages.compound.settings.lr=2')


# Order, and what is read --------------------------------------------------------------------------


def test_stage_order_puts_parents_first():
  """A stage that runs before the one it starts from."""
  config = from_config_dict(tiny(stages__rl__init_from='rft'))
  assert config.stage_order == ('sft', 'rft', 'rl')


def _names_read() -> set[str]:
  """Attributes and names in strings of the package, without its checks of configs."""
  found = set()
  for path in pathlib.Path(config_lib.__file__).parent.rglob('*.py'):
    if path.name == 'validation.py':
      continue
    tree = ast.parse(path.read_text())
    for parent in ast.walk(tree):
      for name, value in ast.iter_fields(parent):
        if isinstance(value, list):
          kept = [x for x in value if getattr(x, 'name', None) != 'checks']
          setattr(parent, name, kept)
    for node in ast.walk(tree):
      if isinstance(node, ast.Attribute):
        found.add(node.attr)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found.add(node.value)
  return found


def test_every_knob_is_read():
  """A field of configs/default.py that no code reads, or a dataclass field that it does not
  hold."""
  read = _names_read()
  assert 'no_such_knob' not in read
  bounds = {'max_depth'}  # they only bound what other fields may say
  for section, fields in to_dict(from_config_dict(default.get_config())).items():
    if isinstance(fields, dict) and section not in ('supports', 'stages'):
      unread = set(fields) - read - bounds
      assert not unread, f'{section}: {unread}'
