"""A finished run as the theory reads it: what each arm was trained on, and what it answered."""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import run, workdirs
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.record import Record
from compgen_jax.experiment.replicate import Replicate
from compgen_jax.learning.setup import Setup
from compgen_jax.task import modules
from compgen_jax.task.latent import Composition
from compgen_jax.theory import witnesses
from compgen_jax.theory.witnesses import Witnesses


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
  """The stages of a run that have been evaluated, and what their replicates drew.

  `evaluations`: by stage and seed. `replicates`: by seed; every seed of an evaluation is there.
  """

  folder: pathlib.Path
  config: Config
  setup: Setup
  replicates: dict[int, Replicate]
  evaluations: dict[str, dict[int, Evaluation]]

  @property
  def arms(self) -> list[str]:
    """The evaluated stages, each behind the one that it starts from."""
    return [arm for arm in self.config.stage_order if arm in self.evaluations]

  def data(self, stage: str) -> tuple[str, ...]:
    """The supports that a stage trains on, without those whose steps are all dry."""
    supports = self.config.supports
    return tuple(name for name in self.config.stages[stage].data if not supports[name].dry)

  def root_data(self, arm: str) -> tuple[str, ...]:
    """The data of the stage at the start of an arm's line: its SFT parent's."""
    while self.config.stages[arm].parent:
      arm = self.config.stages[arm].parent
    return self.data(arm)

  def compositions(self, data: tuple[str, ...], seed: int) -> Composition:
    """All compositions of some supports of a replicate; samples of those that have no table."""
    supports = self.replicates[seed].supports
    return witnesses.join([witnesses.compositions_of(supports[name]) for name in data])

  def groups_of_modules(self) -> list[np.ndarray]:
    """int, indices: classes of modules that all arms practise alike, such as finding 2's held
    skills, and the others; routing mechanisms and skills apart."""
    task, supports = self.config.task, next(iter(self.replicates.values())).supports
    levels = [
      witnesses.practised([supports[name] for name in self.data(arm)], task) for arm in self.arms
    ]
    is_skill_M = np.arange(task.n_routings + task.n_skills) >= task.n_routings
    columns = np.stack([is_skill_M, *levels])
    _, group_M = np.unique(columns, axis=1, return_inverse=True)
    return [np.flatnonzero(group_M == group) for group in range(group_M.max() + 1)]

  @functools.cached_property
  def _witnesses(self) -> dict[tuple[tuple[str, ...], int], Witnesses]:
    return {}

  def witnessed(self, arm: str, seed: int) -> Witnesses:
    """What the data at the start of an arm's line witness."""
    return self._of_data(self.root_data(arm), seed)

  def own_witnesses(self, arm: str, seed: int) -> Witnesses:
    """What an arm's own data witness."""
    return self._of_data(self.data(arm), seed)

  def _of_data(self, data: tuple[str, ...], seed: int) -> Witnesses:
    if (data, seed) not in self._witnesses:
      task, compositions = self.config.task, self.compositions(data, seed)
      steps = witnesses.steps_of(compositions, task)
      self._witnesses[data, seed] = witnesses.of_steps(steps, task)
    return self._witnesses[data, seed]


def open_run(
  workdir: str | os.PathLike, arms: tuple[str, ...] = (), config: Config | None = None
) -> Finished:
  """Reads a run. It may still be going on: stages that have been evaluated count.

  Args:
    workdir: the folder of the run.
    arms: stages; () is all that have been evaluated.
    config: one under which the stages would have been trained likewise; None is the run's.

  Raises:
    ConfigError: no run, no such stage, none of them has been evaluated, or one was evaluated on
      problems that this code does not draw.
  """
  folder, held = pathlib.Path(workdir), workdirs.read_config(workdir)
  config = config or held
  for arm in arms:
    if arm not in config.stages:
      raise ConfigError(f'arm={arm!r}: legal is {" | ".join(config.stages)}')
  asked = [arm for arm in config.stage_order if arm in (arms or config.stages)]
  setup = run.build_setup(config, n_devices=1)
  evaluations: dict[str, dict[int, Evaluation]] = {}
  replicates: dict[int, Replicate] = {}
  for seed in config.all_seeds:
    records = [Record(folder, config, arm, seed) for arm in asked]
    if not any((record.folder / 'evaluation.json').exists() for record in records):
      continue
    replicates[seed] = run.build_replicate(config, setup, seed)
    for record in records:
      evaluation = record.read_evaluation(replicates[seed].evaluator.settings)
      if evaluation is not None:
        _require_same_problems(record, evaluation, replicates[seed])
        evaluations.setdefault(record.stage, {})[seed] = evaluation
  if not evaluations:
    what = f'none of {", ".join(asked)} has been evaluated under its config.json'
    raise ConfigError(f'workdir={str(workdir)!r}: {what}; legal is the folder of a finished run')
  return Finished(folder, config, setup, replicates, evaluations)


def _require_same_problems(record: Record, evaluation: Evaluation, replicate: Replicate) -> None:
  """Raises ConfigError where the evaluation counts more steps of a skill than its problems have.

  (It counts those of traces with the right structure, nearly all once a model knows the format. An
  older version of the code may have drawn other problems.)
  """
  task = next(iter(replicate.supports.values())).task
  skills = modules.names(task.skill_inventory)
  for (split, depth), (steps, dry_B) in replicate.evaluator.steps.items():
    used_BxM = witnesses.times_used(witnesses.steps_of(steps, task, dry_B), task)
    has = dict(zip(skills, used_BxM.sum(axis=0)[task.n_routings :]))
    for row in evaluation.rows:
      is_mine = (row['split'], row['depth'], row['metric']) == (split, depth, 'skill_accuracy')
      if is_mine and row['n'] > has[row['module']]:
        what = f'was evaluated on other problems of {split}/{depth} than this code draws'
        raise ConfigError(f'{record.folder}: {what}; legal is a run of the same code')
