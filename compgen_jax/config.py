"""The typed config: ConfigDict or JSON -> frozen, validated `Config`.

Every mistake is a `ConfigError` of one line that names the field, the value and the legal values,
raised before anything compiles. Checks that involve several fields stand in `validation.py`.
"""

import dataclasses
import functools
from typing import Any

from ml_collections import ConfigDict

from compgen_jax import typed, validation
from compgen_jax.errors import ConfigError
from compgen_jax.learning.kinds import KINDS, Kind
from compgen_jax.learning.optimizer import OptimizerConfig
from compgen_jax.learning.section import Section
from compgen_jax.model.modules import ModelConfig
from compgen_jax.task.pools import PoolConfig
from compgen_jax.task.support import SupportConfig
from compgen_jax.task.vocab import TaskConfig

__all__ = ['Config', 'ConfigError', 'from_config_dict', 'from_json', 'to_dict']


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """One entry of config section `stages`.

  `settings`: fields of its kind's section that differ from it for this stage.
  """

  kind: str
  init_from: str
  steps: int
  data: tuple[str, ...]
  shares: tuple[float, ...] = (1.0,)
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Config section `eval`."""

  splits: dict[str, str]
  problems: int = 1024
  every: int = 0
  curve: tuple[str, ...] = ('seen', 'unseen')
  pass_k: tuple[int, ...] = (1, 4, 16)
  pass_samples: int = 16
  trained: tuple[str, ...] = ('atoms', 'seen')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Config section `run`."""

  steps_per_call: int = 20
  checkpoint_every: int = 500
  data_parallel: int = 0
  microbatch_rows: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
  """The whole experiment; see configs/default.py for what each field means.

  `kinds`: the section of every kind of stage, by the kind's name. (In a ConfigDict and in JSON they
  stand beside the other sections.)
  """

  experiment: str
  seed: int
  seeds: tuple[int, ...]
  task: TaskConfig
  pools: PoolConfig
  supports: dict[str, SupportConfig]
  model: ModelConfig
  optimizer: OptimizerConfig
  kinds: dict[str, Section]
  stages: dict[str, StageConfig]
  eval: EvalConfig
  contrasts: tuple
  run: RunConfig

  @property
  def all_seeds(self) -> tuple[int, ...]:
    """The seeds to run: `seeds`, or the one `seed`."""
    return self.seeds or (self.seed,)

  @property
  def ordered_splits(self) -> tuple[str, ...]:
    """The evaluation splits from shallow to deep, trained ones first.

    (A ConfigDict forgets the order in which it was given entries.)
    """

    def key(split):
      deepest = max(self.supports[self.eval.splits[split]].depths)
      return deepest, split not in self.eval.trained, split

    return tuple(sorted(self.eval.splits, key=key))

  def kind(self, stage: str) -> Kind:
    """The kind of a stage."""
    return KINDS[self.stages[stage].kind]

  def settings(self, stage: str) -> Section:
    """The section of a stage's kind, with what the stage changes of it."""
    return dataclasses.replace(self.kinds[self.stages[stage].kind], **self.stages[stage].settings)

  def stage_rows(self, stage: str) -> tuple[int, ...]:
    """Problems of each of a stage's supports in a batch."""
    rows = self.settings(stage).batch_rows
    return tuple(round(share * rows) for share in self.stages[stage].shares)

  def anchor_rows(self, stage: str) -> dict[str, int]:
    """Problems of each of a stage's anchor supports in an update; {} without an anchor."""
    if not self.kind(stage).explores:
      return {}
    settings = self.settings(stage)
    return {name: settings.anchor_batch // len(settings.anchor) for name in settings.anchor}

  @functools.cached_property
  def stage_order(self) -> tuple[str, ...]:
    """Stage names such that every stage comes after the one it starts from."""
    return validation.stage_order(self)


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


def _with_typed_settings(name: str, stage: StageConfig) -> StageConfig:
  """The stage with `settings` typed like its kind's section; a value None stands for "as there"."""
  validation.one_of(stage.kind, KINDS, f'stages.{name}.kind')
  types = {f.name: f.type for f in dataclasses.fields(KINDS[stage.kind].section)}
  path = f'stages.{name}.settings'
  typed.require_fields(stage.settings, list(types), path)
  settings = {
    field: typed.typed(value, types[field], f'{path}.{field}')
    for field, value in stage.settings.items()
    if value is not None
  }
  return dataclasses.replace(stage, settings=settings)
