"""What a stage starts from: stages of its own run, and of other runs (init_from='WORKDIR:STAGE').

A stage of another run is taken as if it were one of this run: it must have been trained with this
config's task, pools, model, optimizer, section of its kind, and supports. So a changed `sft.lr` is
refused, as it is for a stage of one's own.
"""

import dataclasses

from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import workdirs


def adopted(config: Config, workdir: str) -> Config:
  """The config with the stages of another run in place of its own.

  Raises:
    ConfigError: the folder holds no run.
  """
  return dataclasses.replace(config, stages=workdirs.read_config(workdir).stages)


def lineage(config: Config, stage: str) -> list[tuple[str, Config]]:
  """A stage and its ancestors, each with the config that it stands in.

  Raises:
    ConfigError: a workdir holds no run or no such stage, this config lacks a support that an
      ancestor was trained on, or two stages of the line have one name (and so one randomness).
  """
  line = [(stage, config)]
  while line[-1][1].stages[line[-1][0]].init_from:
    name, whole = line[-1]
    mine = whole.stages[name]
    if mine.foreign_parent is None:
      line.append((mine.parent, whole))
      continue
    workdir, parent = mine.foreign_parent
    field = f'stages.{name}.init_from={mine.init_from!r}'
    whole = adopted(config, workdir)
    if parent not in whole.stages:
      legal = ' | '.join(whole.stages)
      raise ConfigError(f'{field}: {workdir} has no such stage; legal is {legal}')
    if parent in [known for known, _ in line]:
      raise ConfigError(f'{field}: a stage and its parent of one name; legal is another name here')
    line.append((parent, whole))
  for name, whole in line:
    for support in (*whole.stages[name].data, *whole.anchor_rows(name)):
      if support not in config.supports:
        what = f'supports.{support}: missing, and stage {name} was trained on it'
        raise ConfigError(f'{what}; legal is that support as it stands in the run of {name}')
  return line


def trained_on(config: Config) -> list[str]:
  """The supports that any stage, or an ancestor in another run, is trained on."""
  used: dict[str, None] = {}
  for stage in config.stages:
    for name, whole in lineage(config, stage):
      used |= dict.fromkeys((*whole.stages[name].data, *whole.anchor_rows(name)))
  return sorted(used)
