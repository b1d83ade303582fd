"""What one replicate of a stage keeps on disk: `stages/NAME/seed-S/`.

`origin.json` says all that the stage's parameters depend on, so that a workdir can grow: a config
may add stages, splits, supports, contrasts or seeds, and what is finished stays. What would change
a stage that has begun is refused. `checkpoints/` holds its state, `metrics.jsonl` and `curve.jsonl`
its history, and `evaluation.json` what it measured at its end.
"""

import dataclasses
import json
import pathlib
from typing import Any

from compgen_jax import typed
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import files
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.learning.kinds import KINDS
from compgen_jax.learning.optimizer import OptimizerConfig
from compgen_jax.model.modules import ModelConfig
from compgen_jax.schema import Config, StageConfig
from compgen_jax.task.pools import PoolConfig
from compgen_jax.task.support import SupportConfig
from compgen_jax.task.vocab import TaskConfig


@dataclasses.dataclass(frozen=True)
class Origin:
  """All that the parameters of a stage depend on: its own config and that of its ancestors.

  The settings of every stage are complete: where they were given does not matter.
  """

  seed: int
  task: TaskConfig
  pools: PoolConfig
  model: ModelConfig
  optimizer: OptimizerConfig
  stages: dict[str, StageConfig]
  supports: dict[str, SupportConfig]


def origin(config: Config, stage: str, seed: int) -> Origin:
  """The origin of a stage's parameters."""
  line = [stage]
  while config.stages[line[-1]].init_from:
    line.append(config.stages[line[-1]].init_from)
  stages, supports = {}, {}
  for name in line:
    settings = typed.plain(config.settings(name))
    stages[name] = dataclasses.replace(config.stages[name], settings=settings)
    used = (*config.stages[name].data, *config.anchor_rows(name))
    supports |= {support: config.supports[support] for support in used}
  return Origin(seed, config.task, config.pools, config.model, config.optimizer, stages, supports)


def _read_origin(held: dict) -> dict:
  """An origin.json as plain data; a field that it lacks gets the default of its dataclass.

  (Such a field is newer than the file, and its default is what was done before it existed.)
  """
  made = typed.section(held, Origin, 'origin', fill=True)
  stages = {}
  for name, stage in made.stages.items():
    cls = KINDS[stage.kind].section
    settings = typed.section(stage.settings, cls, f'origin.stages.{name}.settings', fill=True)
    stages[name] = dataclasses.replace(stage, settings=typed.plain(settings))
  return typed.plain(dataclasses.replace(made, stages=stages))


class Record:
  """One replicate of a stage on disk."""

  def __init__(self, workdir: pathlib.Path, config: Config, stage: str, seed: int):
    self.folder = files.stage_folder(workdir, stage, seed)
    self.stage, self.seed = stage, seed
    self._workdir = workdir
    self._origin = typed.plain(origin(config, stage, seed))

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.folder / 'checkpoints'

  @property
  def begun(self) -> bool:
    return (self.folder / 'origin.json').exists()

  def require_origin(self) -> None:
    """Raises ConfigError where the stage has begun under a config that would have trained it
    otherwise."""
    if not self.begun:
      return
    try:
      held = _read_origin(json.loads((self.folder / 'origin.json').read_text()))
    except (ValueError, ConfigError) as e:
      what = f'{self.folder}/origin.json is not readable ({e})'
      raise ConfigError(f'workdir={str(self._workdir)!r}: {what}; legal is another folder') from e
    difference = files.first_difference(held, self._origin)
    if difference:
      raise ConfigError(_refusal(self._workdir, self.stage, *difference))

  def begin(self) -> None:
    """Notes the origin, once."""
    if not self.begun:
      files.write_json(self.folder / 'origin.json', self._origin)

  def write_history(self, metrics: list[dict], curve: list[dict]) -> None:
    files.write_jsonl(self.folder / 'metrics.jsonl', metrics)
    files.write_jsonl(self.folder / 'curve.jsonl', curve)

  def read_history(self, until: int) -> tuple[list[dict], list[dict]]:
    """`(metrics, curve)` up to an update."""
    return tuple(
      [row for row in files.read_jsonl(self.folder / name) if row['step'] <= until]
      for name in ('metrics.jsonl', 'curve.jsonl')
    )

  def write_evaluation(self, evaluation: Evaluation, settings: dict) -> None:
    files.write_json(self.folder / 'evaluation.json', {'settings': settings} | evaluation._asdict())

  def read_evaluation(self, settings: dict) -> Evaluation | None:
    """What was measured at the end under these settings; None where it is not there."""
    path = self.folder / 'evaluation.json'
    if not path.exists():
      return None
    held = json.loads(path.read_text())
    return Evaluation(held['rows'], held['items']) if held['settings'] == settings else None


def _refusal(workdir: pathlib.Path, stage: str, path: str, there: Any, here: Any) -> str:
  """One line: what differs from the config under which a stage began, and what to do."""
  start = f'workdir={str(workdir)!r}: stage {stage}'
  if path in ('task.skills', 'task.routings'):
    new, gone = [x for x in here if x not in there], [x for x in there if x not in here]
    modules = f'new in {path} are {", ".join(new) or "none"}, gone are {", ".join(gone) or "none"}'
    legal = f'legal is another folder, or --config.{path}="{tuple(there)}"'
    return f'{start} was trained with other modules: {modules}; {legal}'
  hint = ''
  if path == f'stages.{stage}.steps':
    hint = f'; for more updates add a stage with init_from={stage!r}'
  return f'{start} was trained with {path}={there!r}, not {here!r}; legal is another folder{hint}'
