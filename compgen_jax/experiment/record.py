"""What one replicate of a stage keeps on disk: `stages/NAME/seed-S/`.

`origin.json` says all that the stage's parameters depend on, so that a workdir can grow: a config
may add stages, splits, supports, contrasts or seeds, and what is finished stays. What would change
a stage that has begun is refused. `checkpoints/` holds its state, and `evaluation.json` what it
measured at its end. `metrics.jsonl`, `curve.jsonl` and `samples.jsonl` (see `sampled.py`) are its
history, written as it comes. Checkpoints and evaluation say of what origin they are, so that none
passes for that of another training.
"""

import dataclasses
import functools
import pathlib
from typing import Any

from compgen_jax import typed
from compgen_jax.errors import CheckpointError, ConfigError, DamageError
from compgen_jax.experiment import ancestry, files, lifeline, workdirs, writers
from compgen_jax.experiment.checkpoint import StageCheckpoints
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.progress import say
from compgen_jax.learning.kinds import KINDS
from compgen_jax.learning.optimizer import OptimizerConfig
from compgen_jax.model.modules import ModelConfig
from compgen_jax.schema import Config, StageConfig
from compgen_jax.task.pools import PoolConfig
from compgen_jax.task.support import SupportConfig
from compgen_jax.task.vocab import TaskConfig

HISTORY = ('metrics', 'curve', 'samples')  # files NAME.jsonl of rows with a `step`


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
  """The origin of a stage's parameters; that of another run's stage is as if it were of this run.

  Raises:
    ConfigError: a stage of another run can't be an ancestor (see `ancestry.lineage`).
  """
  stages, supports = {}, {}
  for name, whole in ancestry.lineage(config, stage):
    settings = typed.plain(whole.settings(name))
    mine = whole.stages[name]
    parent = mine.foreign_parent[1] if mine.foreign_parent else mine.init_from
    stages[name] = dataclasses.replace(mine, settings=settings, init_from=parent)
    used = (*mine.data, *whole.anchor_rows(name))
    supports |= {support: whole.supports[support] for support in used}
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


def _filled_settings(held: dict) -> dict:
  """Settings of an evaluation; fields of its splits that they lack are filled as in an origin."""
  splits = {
    split: typed.plain(typed.section(support, SupportConfig, f'splits.{split}', fill=True))
    for split, support in held['splits'].items()
  }
  return held | {'splits': splits}


class Record:
  """One replicate of a stage on disk."""

  def __init__(self, workdir: pathlib.Path, config: Config, stage: str, seed: int):
    self.folder = workdirs.stage_folder(workdir, stage, seed)
    self.stage, self.seed = stage, seed
    self._workdir = workdir
    self._origin = typed.plain(origin(config, stage, seed))
    self._writers = functools.cache(
      lambda: writers.made(config.run.writers, workdir, config.experiment, stage, seed)
    )

  @functools.cached_property
  def store(self) -> StageCheckpoints:
    """Its checkpoints."""
    return StageCheckpoints(self.folder / 'checkpoints', self._origin)

  def restore(self, like: Any, step: int) -> Any:
    """The state of a checkpoint; see `StageCheckpoints.restore`.

    Raises:
      ConfigError: it is of another origin.
      CheckpointError: it can't be read.
    """
    state = self.store.restore(like, step)
    self._require(self.store.origin(step))
    return state

  def restore_newest(self, like: Any) -> tuple[int, Any] | None:
    """`(step, state)` of the newest good checkpoint; see `StageCheckpoints.restore_newest`."""
    found = self.store.restore_newest(like)
    if found:
      self._require(self.store.origin(found[0]))
    return found

  # What it was trained with -----------------------------------------------------------------------

  def require_origin(self) -> None:
    """Raises ConfigError where the stage has begun under a config that would have trained it
    otherwise, or where its folder can't be used."""
    for folder in (self.folder / 'checkpoints', self.folder, *self.folder.parents):
      if folder.exists() and not folder.is_dir():
        raise ConfigError(f'{folder}: a folder is wanted there, not a file; legal is to remove it')
    held = self._held_origin()
    if held is not None:
      self._require(held)

  def begin(self) -> None:
    """Notes the origin, once."""
    try:
      held = files.read_sealed(self.folder / 'origin.json')
    except DamageError:
      held = None  # `require_origin` has found what a checkpoint says
    if held is None:
      files.write_sealed(self.folder / 'origin.json', self._origin)

  def _held_origin(self) -> dict | None:
    """What the stage was trained with; None where it has not begun.

    It stands in origin.json. Where that is lost, the newest checkpoint that can be read tells.
    """
    path, cause = self.folder / 'origin.json', None
    try:
      held = files.read_sealed(path)
    except DamageError as e:
      held, cause = None, e
    if held is not None:
      return held
    steps = self.store.steps()
    for step in reversed(steps):
      try:
        return self.store.origin(step)
      except CheckpointError as e:
        cause = cause or e
    if cause is None:
      return None
    what = f'{path} is not readable ({cause}), and no checkpoint tells what it held'
    raise ConfigError(f'workdir={str(self._workdir)!r}: {what}; legal is another folder') from cause

  def _require(self, held: dict) -> None:
    """Raises ConfigError where an origin is not that of this config."""
    try:
      there = _read_origin(held)
    except ConfigError as e:
      what = f'the origin of {self.folder} is not readable ({e})'
      raise ConfigError(f'workdir={str(self._workdir)!r}: {what}; legal is another folder') from e
    difference = files.first_difference(there, self._origin)
    if difference:
      raise ConfigError(_refusal(self._workdir, self.stage, *difference))

  # What it measured -------------------------------------------------------------------------------

  def read_history(
    self, until: int, every: int = 0, in_no_row: int = 0
  ) -> tuple[list[dict], list[dict]]:
    """`(metrics, curve)` up to an update, with a warning where rows are missing.

    `every`: updates between the points that a curve should have before the stage's end; 0 where it
    need not be whole. `in_no_row`: the last updates that no row of metrics stands for yet.
    """
    metrics, curve = (
      [row for row in files.read_sealed_jsonl(self.folder / name) if row['step'] <= until]
      for name in ('metrics.jsonl', 'curve.jsonl')
    )
    last = until - in_no_row
    if last and last not in {row['step'] for row in metrics}:
      say(f'warning: {self.folder / "metrics.jsonl"}: rows up to update {last} are missing')
    wanted = range(every, until, every) if every else ()
    missing = sorted(set(wanted) - {row['step'] for row in curve})
    if missing:
      updates = ', '.join(map(str, missing[:5])) + (', ...' if len(missing) > 5 else '')
      say(f'warning: {self.folder / "curve.jsonl"}: points at updates {updates} are missing')
    return metrics, curve

  def continue_history(self, until: int, in_no_row: int = 0) -> tuple[list[dict], list[dict]]:
    """As `read_history`; what was written of later updates is dropped from the files."""
    held = self.read_history(until, in_no_row=in_no_row)
    for name in HISTORY:
      path = self.folder / f'{name}.jsonl'
      if path.exists():
        rows = [row for row in files.read_sealed_jsonl(path) if row['step'] <= until]
        files.write_sealed_jsonl(path, rows)
    return held

  def append_history(self, name: str, rows: list[dict]) -> None:
    """Adds rows to a file of HISTORY at once, so that a stage can be watched (`tail -f`)."""
    if rows:
      files.append_sealed_jsonl(self.folder / f'{name}.jsonl', rows)
    if name != 'samples' and lifeline.is_lead():
      for row in rows:
        for writer in self._writers():
          writer.scalars(row['step'], writers.numbers(name, row))

  def write_evaluation(self, evaluation: Evaluation, settings: dict) -> None:
    # Of the origin as the stage began with it: code that knows more fields finds it there.
    origin = files.checksum(self._held_origin() or self._origin)
    about = {'settings': settings, 'origin': origin}
    files.write_sealed(self.folder / 'evaluation.json', about | evaluation._asdict())

  def read_evaluation(self, settings: dict) -> Evaluation | None:
    """What was measured at the end under these settings, of parameters of this origin.

    None where it is not there; where it is damaged, with a warning. (Process 0 reads.)
    """
    return lifeline.of_lead(lambda: self._held_evaluation(settings))

  def _held_evaluation(self, settings: dict) -> Evaluation | None:
    try:
      held = files.read_sealed(self.folder / 'evaluation.json')
      if held is None or _filled_settings(held['settings']) != settings:
        return None
      if held['origin'] != files.checksum(self._origin):
        began = self._held_origin()  # maybe by code that knew fewer fields
        if held['origin'] != files.checksum(began) or _read_origin(began) != self._origin:
          return None
    except DamageError as e:
      say(f'warning: {e}')
      return None
    except ConfigError:  # its fields are no longer there
      return None
    return Evaluation(held['rows'], held['items'], held['traces'])


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
