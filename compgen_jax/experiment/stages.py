"""Runs one stage: resumes, trains, checkpoints, evaluates. A finished stage is not run again.

Each replicate of a group is kept on disk by itself (see `record.py`). What was measured at a
stage's end is all that a report needs of it: its parameters are read, and trained again should they
be lost, when a stage that starts from it or a new evaluation asks for them.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.errors import CheckpointError, DivergedError
from compgen_jax.experiment import measures, sampled
from compgen_jax.experiment.evaluate import Evaluation, Evaluator
from compgen_jax.experiment.programs import (
  Stage,
  initial_params,
  initial_state,
  key_for,
  replicated,
)
from compgen_jax.experiment.progress import Progress, say
from compgen_jax.experiment.record import Record
from compgen_jax.learning.state import Given, TrainState
from compgen_jax.task.support import Support

SHOWN = ('loss', 'reward', 'entropy', 'signal')  # metrics on the terminal
Params = Callable[[], Any]  # parameters with a leading replicate axis, read when they are needed


class Replicate(NamedTuple):
  """One replicate of an experiment: what its seed draws, beside initialisation and samples."""

  seed: int
  supports: dict[str, Support]
  evaluator: Evaluator


def run(
  stage: Stage, replicates: list[Replicate], parent: Params | None
) -> tuple[Params, dict[int, Evaluation]]:
  """Trains a group of replicates to the stage's end, from their newest checkpoints; evaluates them.

  Args:
    stage: the stage.
    replicates: all at the same update.
    parent: the parameters to start from, or None to start from scratch.

  Returns:
    The final parameters, and what was measured by seed.

  Raises:
    DivergedError: NaN or infinity appeared; the last good checkpoint stays.
    CheckpointError: a checkpoint that is needed can't be read.
  """
  seeds = tuple(replicate.seed for replicate in replicates)
  records = [stage.record(seed) for seed in seeds]
  params = functools.cache(lambda: _final_params(stage, replicates, records, parent))
  evaluations = {}
  for i, (record, replicate) in enumerate(zip(records, replicates)):
    evaluator = replicate.evaluator
    evaluation = record.read_evaluation(evaluator.settings)
    if evaluation is None:
      evaluation = evaluator(_one_of(params(), i), stage.name, stage.steps, final=True)
      record.write_evaluation(evaluation, evaluator.settings)
      say(f'{stage.name:>16} {stage.steps:>6}/{stage.steps}  {measures.line(evaluation.rows)}')
    evaluations[record.seed] = evaluation
  return params, evaluations


def newest_checkpoint(record: Record) -> int:
  """The update of a replicate's newest checkpoint; 0 where there is none."""
  return record.store.latest() or 0


def _final_params(
  stage: Stage, replicates: list[Replicate], records: list[Record], parent: Params | None
) -> Any:
  """The parameters at the stage's end: read, or trained from the newest good checkpoints on."""
  if all(newest_checkpoint(record) == stage.steps for record in records):
    try:
      return trained_params(stage, tuple(record.seed for record in records))
    except CheckpointError:
      pass  # `_train` says which one is damaged, and goes on from an older one
  return replicated(_train(stage, replicates, records, parent).params)


def trained_params(stage: Stage, seeds: tuple[int, ...], step: int | None = None) -> Any:
  """The parameters that a finished stage ended with, one replicate a seed; or those of the newest
  checkpoint, `step`.

  Raises:
    ConfigError: the stage was trained under another config.
    CheckpointError: the stage has not come so far, or its checkpoint can't be read.
  """
  step = stage.steps if step is None else step
  like = _one_of(initial_state(stage.setup, initial_params(stage.setup, seeds[:1])), 0)
  found = []
  for seed in seeds:
    record = stage.record(seed)
    record.require_origin()
    if newest_checkpoint(record) != step:
      what = f'stage {stage.name} (seed {seed}) has not finished in this workdir'
      raise CheckpointError(f'{record.folder}: {what}')
    found.append(record.restore(like, step).params)
  return replicated(jax.tree.map(lambda *xs: jnp.stack(xs), *found))


def _one_of(tree: Any, i: int) -> Any:
  """Replicate i of arrays with a leading replicate axis."""
  return jax.tree.map(lambda x: x[i], tree)


def _train(
  stage: Stage, replicates: list[Replicate], records: list[Record], parent: Params | None
) -> TrainState:
  """Trains replicates that are all at the same update; returns their state at the end."""
  config, run_config = stage.config, stage.config.run
  seeds = tuple(record.seed for record in records)
  start = parent() if parent else initial_params(stage.setup, seeds)
  state = initial_state(stage.setup, start)
  done, restored = _resumed(stage, records, state)
  if restored:
    state = replicated(jax.tree.map(lambda *xs: jnp.stack(xs), *restored))
  stores = [record.store for record in records]
  for record in records:
    record.begin()
  histories = [record.continue_history(done) for record in records]
  _announce(stage, seeds, done)
  given = _given(stage, replicates, start)
  curves = [curve for _, curve in histories]
  _measure(stage, replicates, records, state.params, done, curves)
  progress = Progress(stage.name, stage.steps, done)
  seconds = histories[0][0][-1]['seconds'] if histories[0][0] else 0.0
  started = time.monotonic() - seconds
  while done < stage.steps:
    rhythms = [run_config.steps_per_call, run_config.checkpoint_every]
    rhythms += [config.eval.every] if config.eval.every else []
    n = min(stage.steps - done, *(every - done % every for every in rhythms))
    state, metrics = stage.advance(state, given, n)
    done += n
    metrics = {name: np.asarray(value).astype(float) for name, value in metrics.items()}
    _require_health(stage, metrics, done - n + 1, done)
    progress.show(done, {k: float(np.mean(metrics[k])) for k in SHOWN if k in metrics})
    row = {'step': done, 'seconds': time.monotonic() - started}
    for i, record in enumerate(records):
      mine = {name: float(value[i]) for name, value in metrics.items()}
      record.append_history('metrics', [row | mine])
    _measure(stage, replicates, records, state.params, done, curves)
    if done % run_config.checkpoint_every == 0 or done == stage.steps:
      for i, store in enumerate(stores):
        store.save(done, _one_of(state, i))
  for store in stores:
    store.close()
  return state


def _resumed(stage: Stage, records: list[Record], like: TrainState) -> tuple[int, list[TrainState]]:
  """The update to go on from and every replicate's state there; `(0, [])` at the start.

  Raises:
    CheckpointError: no checkpoint of a replicate is good, or damage left the replicates at
      different updates. They train apart when the command is run again.
  """
  found = [record.restore_newest(_one_of(like, i)) for i, record in enumerate(records)]
  updates = [state[0] if state else 0 for state in found]
  if len(set(updates)) > 1:
    at = ', '.join(f'seed {record.seed} at {n}' for record, n in zip(records, updates))
    what = f'stage {stage.name}: its replicates are not at the same update any more ({at})'
    raise CheckpointError(f'{what}; the same command trains them one by one')
  return updates[0], [state[1] for state in found if state]


def _measure(
  stage: Stage,
  replicates: list[Replicate],
  records: list[Record],
  params: Any,
  done: int,
  curves: list[list[dict]],
) -> None:
  """Adds the point after update `done`, where there is one, to learning curves that lack it.

  Point 0 is of what the stage starts from; its end is measured by itself, more thoroughly.
  """
  every = stage.config.eval.every
  if not every or done % every or done == stage.steps:
    return
  for i, (replicate, record, curve) in enumerate(zip(replicates, records, curves)):
    if curve and curve[-1]['step'] >= done:
      continue
    mine = _one_of(params, i)
    rows = replicate.evaluator(mine, stage.name, done, final=False).rows
    curve += rows
    record.append_history('curve', rows)
    samples = sampled.lines(replicate.evaluator, mine, stage.config, stage.name, done)
    record.append_history('samples', samples)
    say(f'{stage.name:>16} {done:>6}/{stage.steps}  {measures.line(rows)}')


def _given(stage: Stage, replicates: list[Replicate], start: Any) -> Given:
  """What all updates are given, with a leading replicate axis."""
  seeds = jnp.asarray([replicate.seed for replicate in replicates])
  names = [source.name for source in (*stage.setup.sources, *stage.setup.anchor)]
  supports = [{name: replicate.supports[name] for name in names} for replicate in replicates]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *supports)
  keys = jax.vmap(lambda seed: key_for(seed, stage.name))(seeds)
  return Given(keys, start, replicated(stacked))


def _announce(stage: Stage, seeds: tuple[int, ...], done: int) -> None:
  who = stage.name if len(stage.config.all_seeds) == 1 else f'{stage.name}, seeds {seeds}'
  if done:
    say(f'{who}: continues at update {done} of {stage.steps}')
  else:
    say(f'{who}: {stage.steps} updates{", from " + stage.init_from if stage.init_from else ""}')


def _require_health(stage: Stage, metrics: dict[str, np.ndarray], first: int, last: int) -> None:
  """Raises DivergedError where updates first to last must not go on; takes `finite` out of
  metrics."""
  within = f'{stage.name}: within updates {first} to {last}'
  kind = stage.config.stages[stage.name].kind
  bad = [name for name, value in metrics.items() if not np.all(np.isfinite(value))]
  if np.any(metrics.pop('finite') < 1.0):
    raise DivergedError(
      f'{within} there was NaN or infinity; the last good checkpoint stays '
      f'(try a lower {kind}.lr or a longer warmup)'
    )
  if bad:
    raise DivergedError(
      f'{within} {bad[0]} was NaN or infinite; the last good checkpoint stays '
      f'(try a lower {kind}.lr or a longer warmup)'
    )
  gap = np.max(metrics.get('log_prob_gap', 0.0))
  if gap > 0.0 and gap > stage.config.settings(stage.name).max_log_prob_gap:
    raise DivergedError(
      f'{within} sampler and learner were {gap:.3g} nats apart; the last good checkpoint stays '
      f'({kind}.max_log_prob_gap is the limit; model.dtype float32 keeps them together)'
    )
