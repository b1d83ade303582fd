"""The typed config: one frozen dataclass per section, and what follows from several of them.

configs/default.py says what each field means. A field's default here is what a run did that was
made before the field existed.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from compgen_jax.errors import ConfigError
from compgen_jax.learning.kinds import KINDS, Kind
from compgen_jax.learning.optimizer import OptimizerConfig
from compgen_jax.learning.section import Section, one_of
from compgen_jax.model.modules import ModelConfig
from compgen_jax.task.pools import PoolConfig
from compgen_jax.task.support import SupportConfig
from compgen_jax.task.vocab import TaskConfig

DISTRIBUTED = ('auto', 'on', 'off')
WRITERS = ('tensorboard', 'wandb')


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

  @property
  def parent(self) -> str:
    """The stage of the same config that it starts from; '' where there is none."""
    return '' if ':' in self.init_from else self.init_from

  @property
  def foreign_parent(self) -> tuple[str, str] | None:
    """`(workdir, stage)` of the stage of another run that it starts from, or None."""
    workdir, colon, stage = self.init_from.rpartition(':')
    return (workdir, stage) if colon else None


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Config section `eval`."""

  splits: dict[str, str]
  problems: int = 1024
  every: int = 0
  curve: tuple[str, ...] = ('seen', 'unseen')
  curve_problems: int = 0
  pass_k: tuple[int, ...] = (1, 4, 16)
  pass_samples: int = 16
  trained: tuple[str, ...] = ('atoms', 'seen')


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Config section `run`."""

  steps_per_call: int = 20
  checkpoint_every: int = 500
  checkpoint_every_s: float = 60.0
  grace_s: float = 8.0
  max_skipped: int = 3
  max_log_prob_gap: float = 0.01
  microbatch_rows: int = 0
  distributed: str = 'auto'
  join_s: float = 300.0
  stuck_s: float = 1800.0
  writers: tuple[str, ...] = ()
  profile: tuple[int, ...] = ()

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    """For each field that can be wrong: its name, whether its value can work, what is legal."""
    for name in ('steps_per_call', 'checkpoint_every', 'max_skipped'):
      yield name, getattr(self, name) >= 1, '1 or more'
    for name in ('checkpoint_every_s', 'grace_s', 'join_s', 'stuck_s', 'max_log_prob_gap'):
      yield name, getattr(self, name) > 0, 'above 0'
    yield 'microbatch_rows', self.microbatch_rows >= 0, '0 or more'
    yield 'distributed', self.distributed in DISTRIBUTED, one_of(DISTRIBUTED)
    known = len(set(self.writers)) == len(self.writers) and set(self.writers) <= set(WRITERS)
    yield 'writers', known, f'a tuple of {one_of(WRITERS)}, each once at most'
    first, last = self.profile if len(self.profile) == 2 else (0, 0)
    is_window = self.profile == () or 1 <= first <= last
    yield 'profile', is_window, '(first, last) update of a stage, from 1 on; or ()'


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Config section `mesh`."""

  replicate: int = 1
  data: int = -1
  parts: int = 0
  model: int = 1


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
  mesh: MeshConfig = MeshConfig()

  @property
  def all_seeds(self) -> tuple[int, ...]:
    """The seeds to run: `seeds`, or the one `seed`."""
    return self.seeds or (self.seed,)

  @property
  def ordered_splits(self) -> tuple[str, ...]:
    """The evaluation splits from shallow to deep, trained ones first."""

    def key(split):
      deepest = max(self.supports[self.eval.splits[split]].depths)
      return deepest, split not in self.eval.trained, split

    return tuple(sorted(self.eval.splits, key=key))

  def pool_of(self, split: str) -> str:
    """The pool of an evaluation split's compositions."""
    return self.supports[self.eval.splits[split]].pool

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
    return stage_order(self)


def stage_order(config: 'Config') -> tuple[str, ...]:
  """Stage names such that every stage comes after the one it starts from.

  Raises:
    ConfigError: the stages start from one another in a circle.
  """
  order: list[str] = []
  while len(order) < len(config.stages):
    ready = [
      name
      for name, stage in config.stages.items()
      if name not in order and (stage.parent == '' or stage.parent in order)
    ]
    if not ready:
      stuck = sorted(set(config.stages) - set(order))
      parent = config.stages[stuck[0]].init_from
      circle, legal = f'a circle through {", ".join(stuck)}', 'a stage that does not start from it'
      raise ConfigError(f'stages.{stuck[0]}.init_from={parent!r}: {circle}; legal is {legal}')
    order += ready
  return tuple(order)
