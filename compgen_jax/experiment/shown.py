"""Problems and a model's traces of them as text: what `python -m compgen_jax.show` prints."""

import dataclasses
import os
from collections.abc import Iterator

from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import problems, trained, workdirs
from compgen_jax.experiment.problems import TextProblem
from compgen_jax.experiment.trained import Trained

# What an arm makes of a problem: (right before, right after), None where it does not matter.
FATES = {
  'wrong': (None, False),
  'right': (None, True),
  'fixed': (False, True),
  'broken': (True, False),
}
SEARCHED = problems.ROWS  # problems of a split and depth among which `only` looks


@dataclasses.dataclass(frozen=True)
class Asked:
  """What is to be shown; None leaves the choice open.

  arm: the stage whose model writes; None shows golden traces.
  split, depth: None is all of them.
  seed: of the run; None is its first.
  problem: shows this one instead, in a form that `problems.read` takes.
  only: a name in FATES.
  n: problems of each depth of a split.
  samples: traces of a problem that the model writes.
  temperature: of sampling; None is 0 for one trace, and 1 for several.
  """

  arm: str | None = None
  split: str | None = None
  depth: int | None = None
  seed: int | None = None
  problem: str | None = None
  only: str | None = None
  n: int = 3
  samples: int = 1
  temperature: float | None = None


def show(config: Config | None, workdir: str | os.PathLike | None, asked: Asked) -> Iterator[str]:
  """The text, part by part.

  Args:
    config: None is that of the workdir.
    workdir: the folder of a run, or None.
    asked: what to show.

  Raises:
    ConfigError: what is asked for can't be; one line that says what is legal.
    CheckpointError: the stage has no checkpoint yet, or it can't be read.
  """
  if config is None:
    config = workdirs.read_config(workdir)
  places = _places(config, workdir, asked)
  model = parent = None
  if asked.arm is not None:
    model = trained.restore(config, workdir, asked.arm, asked.seed, newest=True)
    if model.step < config.stages[asked.arm].steps:
      done = f'update {model.step} of {config.stages[asked.arm].steps}'
      yield f'--- {asked.arm} has not finished: its newest checkpoint, {done}'
  if asked.problem is not None:
    given = problems.read(asked.problem, config.task)
    yield repr(given) if model is None else _written(model, given, asked)
    return
  if asked.only is not None and FATES[asked.only][0] is not None:
    parent = trained.parent(config, workdir, asked.arm, asked.seed)
  for split, depth in places:
    support = config.supports[config.eval.splits[split]]
    if asked.split is None and support.prefix:
      yield f'--- {split}, depth {depth} is not shown: its problems begin with dry steps'
      continue
    name = config.eval.splits[split]
    if asked.only is None:
      drawn = problems.draw(config, name, asked.n, depth, asked.seed)
      yield f'--- {split}, depth {depth}'
    else:
      searched = problems.draw(config, name, SEARCHED, depth, asked.seed)
      drawn = _only(model, parent, searched, asked.only)
      yield f'--- {split}, depth {depth}: {len(drawn)} of {SEARCHED} are {asked.only}'
    for problem in drawn[: asked.n]:
      yield repr(problem) if model is None else _written(model, problem, asked)


def _places(
  config: Config, workdir: str | os.PathLike | None, asked: Asked
) -> list[tuple[str, int]]:
  """Every (split, depth) to show.

  Raises ConfigError where what is asked for can't be.
  """

  def require(ok: bool, field: str, legal: str) -> None:
    if not ok:
      raise ConfigError(f'{field}={getattr(asked, field)!r}: {legal}')

  splits, seeds = config.ordered_splits, config.all_seeds
  require(asked.split in (None, *splits), 'split', f'legal is {" | ".join(splits)}')
  require(asked.arm in (None, *config.stages), 'arm', f'legal is {" | ".join(config.stages)}')
  require(asked.arm is None or workdir is not None, 'arm', '--arm needs the --workdir of a run')
  require(asked.seed in (None, *seeds), 'seed', f'legal is {" | ".join(map(str, seeds))}')
  require(asked.only in (None, *FATES), 'only', f'legal is {" | ".join(FATES)}')
  require(asked.only is None or asked.arm is not None, 'only', '--only needs an --arm')
  has_parent = asked.arm is not None and bool(config.stages[asked.arm].init_from)
  compares = asked.only is not None and FATES[asked.only][0] is not None
  require(has_parent or not compares, 'only', f'arm {asked.arm} starts from no stage')
  require(asked.samples == 1 or asked.arm is not None, 'samples', '--samples needs an --arm')
  places = [
    (split, depth)
    for split in splits
    if asked.split in (None, split)
    for depth in sorted(config.supports[config.eval.splits[split]].depths)
  ]
  depths = sorted({depth for _, depth in places})
  require(asked.depth in (None, *depths), 'depth', f'legal is {" | ".join(map(str, depths))}')
  return [place for place in places if asked.depth in (None, place[1])]


def _only(
  model: Trained, parent: Trained | None, drawn: list[TextProblem], fate: str
) -> list[TextProblem]:
  """The problems of which the model makes what is asked for, by its greedy answers."""
  was_right, is_right = FATES[fate]
  after = [sample.answer for sample in model.attempt(drawn)]
  before = [sample.answer for sample in parent.attempt(drawn)] if parent else [None] * len(drawn)
  return [p for p, b, a in zip(drawn, before, after) if b == was_right and a == is_right]


def _written(model: Trained, problem: TextProblem, asked: Asked) -> str:
  """The problem, and below it the traces that the model writes."""
  temperature = asked.temperature
  if temperature is None:
    temperature = 1.0 if asked.samples > 1 else 0.0
  samples = model.sample(problem, asked.samples, temperature)
  return '\n'.join([problem.prompt, *(sample.judged for sample in samples)])
