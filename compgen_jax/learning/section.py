"""What the config sections of all kinds of stage have in common."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import ClassVar, Self

import numpy as np

from compgen_jax.learning import optimizer
from compgen_jax.learning.exploration import REWARDS
from compgen_jax.learning.optimizer import OPTIMIZERS, SCHEDULES


def one_of(legal: Iterable) -> str:
  """The legal values as they stand in an error message."""
  return ' | '.join(map(str, legal))


@dataclasses.dataclass(frozen=True)
class Section:
  """Settings of a kind of stage; configs/default.py says what each field means.

  A default here is the value of a run that was made before the field existed.
  """

  optimizer: str = 'muon'
  lr: float = 4e-3
  warmup: int = 100
  schedule: str = 'cosine'
  schedule_steps: int = 0

  batch_field: ClassVar[str] = 'batch'  # the field that holds the number of problems in a batch

  @property
  def batch_rows(self) -> int:
    """Problems in a batch."""
    return getattr(self, self.batch_field)

  def rates(self, steps: int) -> np.ndarray:
    """float32[steps]: the learning rate of each update of a stage."""
    rate = optimizer.schedule(self.lr, self.warmup, self.schedule_steps or steps, self.schedule)
    return np.broadcast_to(np.asarray(rate(np.arange(steps)), np.float32), (steps,))

  @property
  def program(self) -> Self:
    """What of the settings a compiled step depends on: all but the learning rate's schedule."""
    blank = {field.name: field.default for field in dataclasses.fields(Section)}
    names = ('lr', 'warmup', 'schedule', 'schedule_steps')
    return dataclasses.replace(self, **{name: blank[name] for name in names})

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    """For each field that can be wrong: its name, whether its value can work, what is legal."""
    yield 'optimizer', self.optimizer in OPTIMIZERS, one_of(OPTIMIZERS)
    yield 'lr', 0 < self.lr <= 1, 'above 0, at most 1'
    yield 'warmup', self.warmup >= 0, '0 or more'
    yield 'schedule', self.schedule in SCHEDULES, one_of(SCHEDULES)
    yield 'schedule_steps', self.schedule_steps >= 0, '0 or more'
    yield self.batch_field, self.batch_rows >= 1, '1 or more'


@dataclasses.dataclass(frozen=True)
class ExploringSection(Section):
  """Settings of a kind of stage that samples traces and is rewarded for them."""

  lr: float = 4e-4
  warmup: int = 20
  prompts: int = 128
  group: int = 4
  temperature: float = 1.2
  reward: str = 'answer'
  anchor: tuple[str, ...] = ()
  anchor_batch: int = 32
  anchor_weight: float = 0.1

  batch_field: ClassVar[str] = 'prompts'
  smallest_group: ClassVar[int] = 1

  def checks(self) -> Iterator[tuple[str, bool, str]]:
    yield from super().checks()
    yield 'group', self.group >= self.smallest_group, f'{self.smallest_group} or more'
    yield 'temperature', self.temperature > 0, 'above 0'
    yield 'reward', self.reward in REWARDS, one_of(REWARDS)
    yield 'anchor_batch', self.anchor_batch >= max(1, len(self.anchor)), 'one per anchor or more'
    yield 'anchor_weight', self.anchor_weight > 0, 'above 0 (without an anchor: anchor=())'
