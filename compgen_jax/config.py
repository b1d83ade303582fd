"""ConfigDict or JSON -> the typed and validated `Config` of schema.py.

Every mistake is a `ConfigError` of one line that names the field, the value and the legal values,
raised before anything compiles. Checks that involve several fields stand in `validation.py`.
"""

import dataclasses

from ml_collections import ConfigDict

from compgen_jax import checks, typed, validation
from compgen_jax.errors import ConfigError
from compgen_jax.learning.kinds import KINDS
from compgen_jax.schema import Config, StageConfig

__all__ = ['Config', 'ConfigError', 'from_config_dict', 'from_json', 'to_dict']


def from_config_dict(config: ConfigDict | dict) -> Config:
  """The typed and validated config of a ConfigDict as configs/*.py make it.

  Raises:
    ConfigError: one line naming the field, the value and the legal values.
  """
  return _make(config, fill=False)


def from_json(config: dict) -> Config:
  """The typed and validated config of a run's config.json.

  A field that the file lacks is newer than the run; it takes the default of its dataclass, which is
  what runs did before the field existed.
  """
  return _make(config, fill=True)


def to_dict(config: Config) -> dict:
  """Nested dicts, lists and scalars, as written to config.json; undone by `from_config_dict`."""
  sections = typed.plain(config)
  kinds = sections.pop('kinds')
  return sections | kinds


def _make(config: ConfigDict | dict, fill: bool) -> Config:
  if fill:
    config = _renamed(config)
  others = [f.name for f in dataclasses.fields(Config) if f.name != 'kinds']
  typed.require_fields(config, [*others, *KINDS], '')
  sections = {name: config[name] for name in others if name in config}
  made = typed.section(sections | {'kinds': {}}, Config, '', fill)
  kinds = {}
  for name, kind in KINDS.items():
    if name not in config and not fill:
      raise ConfigError(f'{name}: missing; start from configs/default.py')
    kinds[name] = typed.section(config.get(name, {}), kind.section, name, fill)
  stages = {name: _with_typed_settings(name, stage) for name, stage in made.stages.items()}
  validation.module_names(made.task)
  made = dataclasses.replace(made, kinds=kinds, stages=stages, task=made.task.resolved())
  validation.validate(made)
  return made


def _renamed(config: dict) -> dict:
  """The config of an older run, with the names that fields have now."""
  run = config.get('run')
  if not isinstance(run, dict) or 'data_parallel' not in run:
    return config
  mesh = {'data': run['data_parallel'] or -1}  # 0 was the rest
  run = {name: value for name, value in run.items() if name != 'data_parallel'}
  return config | {'run': run, 'mesh': mesh}


def _with_typed_settings(name: str, stage: StageConfig) -> StageConfig:
  """The stage with `settings` typed like its kind's section; a value None stands for "as there"."""
  checks.one_of(stage.kind, KINDS, f'stages.{name}.kind')
  types = {f.name: f.type for f in dataclasses.fields(KINDS[stage.kind].section)}
  path = f'stages.{name}.settings'
  typed.require_fields(stage.settings, list(types), path)
  settings = {
    field: typed.typed(value, types[field], f'{path}.{field}')
    for field, value in stage.settings.items()
    if value is not None
  }
  return dataclasses.replace(stage, settings=settings)
