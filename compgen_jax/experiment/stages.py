"""Runs one stage: resumes, trains, checkpoints, evaluates. A finished stage is not run again."""

import dataclasses
import json
import pathlib
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import files, platform
from compgen_jax.experiment.checkpoint import CheckpointError, StageCheckpoints
from compgen_jax.experiment.evaluate import Evaluation, Evaluator
from compgen_jax.experiment.progress import Progress, say
from compgen_jax.learning import optimizer, policy_gradient, rejection, sft
from compgen_jax.learning.state import SEEDS, Setup, Source, TrainState, create, on_every_device
from compgen_jax.task.support import Support

SHOWN = ('loss', 'reward', 'entropy')
MAY_DIFFER = (
  'experiment',
  'supports',
  'eval',
  'contrasts',
  'run',
)  # between a config and that of the parameters it reads


class DivergedError(RuntimeError):
  """Training produced NaN or infinity."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage that can be run: its parts, put together from the config."""

  name: str
  config: Config
  setup: Setup
  folder: pathlib.Path

  @property
  def steps(self) -> int:
    return self.config.stages[self.name].steps

  @property
  def finished(self) -> bool:
    return is_finished(self.folder)


def is_finished(folder: pathlib.Path) -> bool:
  """Whether the stage of this folder has been trained and evaluated."""
  return (folder / 'evaluation.json').exists()


def build(
  name: str, config: Config, base: Setup, supports: dict[str, Support], workdir: pathlib.Path
) -> Stage:
  """Puts a stage together from `base` (task, model, devices); compiles nothing."""
  stage = config.stages[name]
  section = getattr(config, stage.kind)
  peak = stage.lr_scale * section.lr
  learning_rate = optimizer.schedule(peak, section.warmup, stage.steps, section.schedule)
  tx = optimizer.make(config.optimizer, section.optimizer, learning_rate)
  n_seeds = len(config.all_seeds) if platform.vmap_seeds() else 1
  sources = tuple(
    Source(supports[support], rows) for support, rows in zip(stage.data, config.stage_rows(name))
  )
  return Stage(
    name,
    config,
    dataclasses.replace(base, tx=tx, sources=sources, n_seeds=n_seeds),
    workdir / 'stages' / name,
  )


def step_function(stage: Stage) -> Callable:
  """`(state, key, parent) -> (state, metrics)`: one update of this stage's kind, for one seed."""
  config, setup = stage.config, stage.setup
  match config.stages[stage.name].kind:
    case 'sft':
      return lambda state, key, parent: sft.step(state, key, setup)
    case 'rl':
      return lambda state, key, parent: policy_gradient.step(state, key, setup, config.rl, parent)
    case 'rft':
      return lambda state, key, parent: rejection.step(state, key, setup, config.rft, parent)


def over_seeds(f: Callable, n: int, side_by_side: bool) -> Callable:
  """`f` on arguments with a leading seed axis of length n, by `vmap` or one after the other in the same program."""
  if n > 1 and side_by_side:
    return jax.vmap(f, axis_name=SEEDS)
  if n > 1:
    return lambda *args: jax.lax.map(lambda args: f(*args), args)
  first = lambda tree: jax.tree.map(lambda x: x[0], tree)
  return lambda *args: jax.tree.map(lambda x: x[None], f(*map(first, args)))


def updates(stage: Stage) -> Callable:
  """The compiled `(state, keys, parent, n) -> (state, metrics)`: n updates in one dispatch, metrics averaged over them.

  n is traced, so one program serves every number; the state is donated. With several devices the whole loop runs inside
  one `shard_map`: devices meet only where a step sums over the batch.
  """
  # Under jit, so that it is traced once for its shapes and for the loop.
  one = jax.jit(
    over_seeds(step_function(stage), len(stage.config.all_seeds), stage.setup.n_seeds > 1)
  )

  def run(state, keys, parent, n):
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, state, keys, parent)[1]
    )

    def body(_, carry):
      state, sums = carry
      state, metrics = one(state, keys, parent)
      return state, jax.tree.map(jnp.add, sums, metrics)

    state, sums = jax.lax.fori_loop(0, n, body, (state, zeros))
    return state, jax.tree.map(lambda x: x / n, sums)

  return jax.jit(on_every_device(run, stage.setup), donate_argnums=0)


def initial_state(stage: Stage, parent: Any | None) -> tuple[TrainState, Any]:
  """The state before the first update and the parameters it starts from, with a leading seed axis."""
  seeds = jnp.asarray(stage.config.all_seeds)
  if parent is None:
    init = lambda seed: stage.setup.model.init_params(
      jax.random.fold_in(jax.random.key(seed), zlib.crc32(b'init'))
    )
    parent = jax.jit(jax.vmap(init))(seeds)
  # Copied, because the loop takes the state's memory over.
  state = jax.jit(jax.vmap(lambda p: create(stage.setup, jax.tree.map(jnp.copy, p))))(parent)
  return state, parent


def run(stage: Stage, parent: Any | None, evaluator: Evaluator) -> Any:
  """Trains the stage to its end (from its newest checkpoint, if there is one) and evaluates it.

  Args:
    stage: the stage.
    parent: parameters to start from (leading seed axis), or None to start from scratch.
    evaluator: measures on the evaluation splits.

  Returns:
    The final parameters, with a leading seed axis.

  Raises:
    DivergedError: NaN or infinity appeared; the last good checkpoint stays.
  """
  checkpoints = StageCheckpoints(stage.folder / 'checkpoints')
  state, parent = initial_state(stage, parent)
  latest = checkpoints.latest()
  if latest is not None:
    state = checkpoints.restore(state)
  if not stage.finished:
    state = _train(stage, state, parent, checkpoints, evaluator)
    evaluation = evaluator(state.params, stage.name, stage.steps, final=True)
    files.write_json(stage.folder / 'evaluation.json', evaluation._asdict())
  elif latest != stage.steps:
    raise CheckpointError(
      f'{stage.folder}: its evaluation is there but its checkpoint {stage.steps} is not'
    )
  checkpoints.close()
  return state.params


def trained_params(stage: Stage) -> Any:
  """The parameters that a finished stage ended with, with a leading seed axis.

  Raises:
    ConfigError: the workdir's config differs in more than MAY_DIFFER.
    CheckpointError: the stage has not finished, or its checkpoint can't be read.
  """
  if not stage.finished:
    raise CheckpointError(f'{stage.folder}: stage {stage.name} has not finished in this workdir')
  files.require_config(stage.folder.parent.parent, stage.config, MAY_DIFFER)
  checkpoints = StageCheckpoints(stage.folder / 'checkpoints')
  params = checkpoints.restore(initial_state(stage, None)[0]).params
  checkpoints.close()
  return params


def _train(
  stage: Stage, state: TrainState, parent, checkpoints: StageCheckpoints, evaluator: Evaluator
) -> TrainState:
  config = stage.config
  done = int(state.step[0])
  curve = [row for row in files.read_jsonl(stage.folder / 'curve.jsonl') if row['step'] <= done]
  history = [row for row in files.read_jsonl(stage.folder / 'metrics.jsonl') if row['step'] <= done]
  if done == 0:
    say(
      f'{stage.name}: {stage.steps} updates{", from " + config.stages[stage.name].init_from if config.stages[stage.name].init_from else ""}'
    )
  elif done < stage.steps:
    say(f'{stage.name}: continues at update {done} of {stage.steps}')
  purpose = jnp.uint32(zlib.crc32(stage.name.encode()))
  keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), purpose))(
    jnp.asarray(config.all_seeds)
  )
  advance = updates(stage)
  progress = Progress(stage.name, stage.steps, done)
  started = time.monotonic() - (history[-1]['seconds'] if history else 0.0)
  while done < stage.steps:
    n = min(
      _until(done, config.run.steps_per_call),
      _until(done, config.run.checkpoint_every),
      stage.steps - done,
    )
    if config.eval.every:
      n = min(n, _until(done, config.eval.every))
    state, metrics = advance(state, keys, parent, n)
    done += n
    metrics = {name: np.asarray(value).astype(float) for name, value in metrics.items()}
    if np.any(metrics.pop('finite') < 1.0):
      raise DivergedError(
        f'{stage.name}: NaN or infinity within updates {done - n + 1} to {done}; the last good checkpoint stays '
        f'(try a lower {config.stages[stage.name].kind}.lr or a longer warmup)'
      )
    history.append(
      {'step': done, 'seconds': time.monotonic() - started}
      | {k: list(v) for k, v in metrics.items()}
    )
    progress.show(done, {k: float(np.mean(metrics[k])) for k in SHOWN if k in metrics})
    if config.eval.every and done % config.eval.every == 0 and done < stage.steps:
      curve += evaluator(state.params, stage.name, done, final=False).rows
    if done % config.run.checkpoint_every == 0 or done == stage.steps:
      files.write_jsonl(stage.folder / 'metrics.jsonl', history)
      files.write_jsonl(stage.folder / 'curve.jsonl', curve)
      checkpoints.save(done, state)
  return state


def _until(done: int, every: int) -> int:
  """Updates from `done` to the next multiple of `every`."""
  return every - done % every


def read_evaluation(stage: Stage) -> Evaluation:
  """What a finished stage measured."""
  return Evaluation(**json.loads((stage.folder / 'evaluation.json').read_text()))
