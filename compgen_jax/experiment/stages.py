"""Runs one stage: resumes, trains, checkpoints, evaluates. A finished stage is not run again.

Each replicate of a group is kept on disk by itself (see `record.py`). What was measured at a
stage's end is all that a report needs of it: its parameters are read, and trained again should they
be lost, when a stage that starts from it or a new evaluation asks for them.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.errors import CheckpointError, DivergedError
from compgen_jax.experiment import (
  interruption,
  lifeline,
  measures,
  processes,
  provenance,
  sampled,
)
from compgen_jax.experiment.checkpoint import StageCheckpoints
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.history import History
from compgen_jax.experiment.pace import Pace
from compgen_jax.experiment.profile import Profile
from compgen_jax.experiment.programs import Stage, initial_params, initial_state, placed, spread
from compgen_jax.experiment.progress import Progress, say
from compgen_jax.experiment.record import Record
from compgen_jax.experiment.replicate import Replicate, arguments
from compgen_jax.learning.state import TrainState

SHOWN = ('loss', 'reward', 'entropy', 'signal')  # metrics on the terminal
Params = Callable[[], Any]  # parameters with a leading replicate axis, read when they are needed


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
    DivergedError: updates in a row brought NaN or infinity; the last good checkpoint stays.
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
      evaluation = evaluator(_one_of(stage, params(), i), stage.name, stage.steps, final=True)
      record.write_evaluation(evaluation, evaluator.settings)
      provenance.count_wall_time()
      say(f'{stage.name:>16} {stage.steps:>6}/{stage.steps}  {measures.line(evaluation.rows)}')
    evaluations[record.seed] = evaluation
  return params, evaluations


def newest_checkpoint(record: Record) -> int:
  """The update of a replicate's newest checkpoint; 0 where there is none. (Process 0 looks.)"""
  return lifeline.of_lead(lambda: record.store.latest() or 0)


def _final_params(
  stage: Stage, replicates: list[Replicate], records: list[Record], parent: Params | None
) -> Any:
  """The parameters at the stage's end: read, or trained from the newest good checkpoints on."""
  if all(newest_checkpoint(record) == stage.steps for record in records):
    try:
      return trained_params(stage, tuple(record.seed for record in records))
    except CheckpointError:
      pass  # `_train` says which one is damaged, and goes on from an older one
  return placed(stage.setup, _train(stage, replicates, records, parent).params)


def trained_params(stage: Stage, seeds: tuple[int, ...], step: int | None = None) -> Any:
  """The parameters that a finished stage ended with, one replicate a seed; or those of the newest
  checkpoint, `step`.

  Raises:
    ConfigError: the stage was trained under another config.
    CheckpointError: the stage has not come so far, or its checkpoint can't be read.
  """
  step = stage.steps if step is None else step
  like = _one_of(stage, initial_state(stage.setup, initial_params(stage.setup, seeds[:1])), 0)
  found = []
  for seed in seeds:
    record = stage.record(seed)
    record.require_origin()
    if newest_checkpoint(record) != step:
      what = f'stage {stage.name} (seed {seed}) has not finished in this workdir'
      raise CheckpointError(f'{record.folder}: {what}')
    found.append(record.restore(like, step).params)
  return placed(stage.setup, jax.tree.map(lambda *xs: jnp.stack(xs), *found))


def _one_of(stage: Stage, tree: Any, i: int) -> Any:
  """Replicate i of arrays with a leading replicate axis."""
  one = jax.tree.map(lambda x: x[i], tree)
  return placed(stage.setup, one, ()) if stage.setup.devices.model > 1 else processes.whole(one)


def _train(
  stage: Stage, replicates: list[Replicate], records: list[Record], parent: Params | None
) -> TrainState:
  """Trains replicates that are all at the same update; returns their state at the end."""
  config = stage.config
  seeds = tuple(record.seed for record in records)
  start = parent() if parent else initial_params(stage.setup, seeds)
  state = initial_state(stage.setup, start)
  done, restored = _resumed(stage, records, state)
  if restored:
    state = placed(stage.setup, jax.tree.map(lambda *xs: jnp.stack(xs), *restored))
  state = spread(stage.setup, state)
  stores = [record.store for record in records]
  for record in records:
    record.begin()
  histories, curves = _told(records, stores, done)
  profile = Profile(config.run.profile, records[0].folder / 'profile')
  _announce(stage, seeds, done)
  given = arguments(stage, replicates, start)
  progress, pace = Progress(stage.name, stage.steps, done), Pace()
  seconds = histories[0].rows[-1]['seconds'] if histories[0].rows else 0.0
  started, saved_at = time.monotonic() - seconds, time.monotonic()
  while True:
    if _is_curve_point(stage, done):
      _measure(stage, replicates, records, state.params, done, curves)
    if done == stage.steps:
      break
    row_ends = _next_row(stage, done)
    with pace.dispatch(row_ends - done) as n:
      profile.before(done, n)
      given = given._replace(learning_rate_K=stage.rates_from(done, len(replicates)))
      state, metrics = processes.call(stage.advance, state, given, n)
      metrics = processes.whole(metrics)
      metrics = {name: np.asarray(value)[:, :n] for name, value in metrics.items()}
    done += n
    profile.after(done, done == stage.steps)
    interruption.unsaved(config.run.grace_s)
    for i, history in enumerate(histories):
      _require_health(stage, history, {name: value[i] for name, value in metrics.items()}, done)
      if done == row_ends:
        history.close_row(done, time.monotonic() - started)
        records[i].append_history('metrics', history.rows[-1:])
    progress.show(done, {k: float(np.mean(metrics[k])) for k in SHOWN if k in metrics})
    is_due = lifeline.of_lead(lambda: saves_at(stage, done, time.monotonic() - saved_at))
    if lifeline.interrupted() or is_due:
      for i, store in enumerate(stores):
        store.save(done, _one_of(stage, state, i), histories[i].pending)
      saved_at = time.monotonic()
      provenance.count_wall_time()
      interruption.saved(f'{stage.name} at update {done} of {stage.steps}')
  for store in stores:
    store.close()
  return state


def _resumed(stage: Stage, records: list[Record], like: TrainState) -> tuple[int, list[TrainState]]:
  """The update to go on from and every replicate's state there; `(0, [])` at the start.

  Raises:
    CheckpointError: no checkpoint of a replicate is good, or damage left the replicates at
      different updates. They train apart when the command is run again.
  """
  found = [record.restore_newest(_one_of(stage, like, i)) for i, record in enumerate(records)]
  updates = [state[0] if state else 0 for state in found]
  if len(set(updates)) > 1:
    at = ', '.join(f'seed {record.seed} at {n}' for record, n in zip(records, updates))
    what = f'stage {stage.name}: its replicates are not at the same update any more ({at})'
    raise CheckpointError(f'{what}; the same command trains them one by one')
  return updates[0], [state[1] for state in found if state]


def _told(
  records: list[Record], stores: list[StageCheckpoints], done: int
) -> tuple[list[History], list[list[dict]]]:
  """What the replicates told of their updates up to `done`, and their curves."""
  histories, curves = [], []
  for record, store in zip(records, stores):
    pending = lifeline.of_lead(lambda: store.pending(done) if done else [])
    rows, curve = lifeline.of_lead(lambda: record.continue_history(done, len(pending)))
    histories.append(History(rows, pending))
    curves.append(curve)
  return histories, curves


def _next_row(stage: Stage, done: int) -> int:
  """The update at which the row of metrics after `done` ends."""
  run, every = stage.config.run, stage.config.eval.every
  rhythms = [run.steps_per_call, run.checkpoint_every] + ([every] if every else [])
  return min(stage.steps, *(done - done % every + every for every in rhythms))


def saves_at(stage: Stage, done: int, since_s: float) -> bool:
  """Whether a checkpoint is due after update `done`, `since_s` seconds after the last one.

  (Before an evaluation too, which may take long: it can then be interrupted at any time.)
  """
  run = stage.config.run
  by_number = done % run.checkpoint_every == 0 or done == stage.steps
  return by_number or since_s >= run.checkpoint_every_s or _is_curve_point(stage, done)


def _is_curve_point(stage: Stage, done: int) -> bool:
  """Whether the learning curve has a point after this update.

  Point 0 is of what the stage starts from; its end is measured by itself, more thoroughly.
  """
  every = stage.config.eval.every
  return every > 0 and done % every == 0 and done < stage.steps


def _measure(
  stage: Stage,
  replicates: list[Replicate],
  records: list[Record],
  params: Any,
  done: int,
  curves: list[list[dict]],
) -> None:
  """Adds the point after update `done` to learning curves that do not have it yet."""
  for i, (replicate, record, curve) in enumerate(zip(replicates, records, curves)):
    if curve and curve[-1]['step'] >= done:
      continue
    mine = _one_of(stage, params, i)
    rows = replicate.evaluator(mine, stage.name, done, final=False).rows
    curve += rows
    record.append_history('curve', rows)
    samples = sampled.lines(replicate.evaluator, mine, stage.config, stage.name, done)
    record.append_history('samples', samples)
    say(f'{stage.name:>16} {done:>6}/{stage.steps}  {measures.line(rows)}')


def _announce(stage: Stage, seeds: tuple[int, ...], done: int) -> None:
  who = stage.name if len(stage.config.all_seeds) == 1 else f'{stage.name}, seeds {seeds}'
  if done:
    say(f'{who}: continues at update {done} of {stage.steps}')
  else:
    say(f'{who}: {stage.steps} updates{", from " + stage.init_from if stage.init_from else ""}')


def _require_health(
  stage: Stage, history: History, metrics: dict[str, np.ndarray], done: int
) -> None:
  """Adds the metrics of updates up to `done` to a history; DivergedError where training must not go
  on."""
  kind, limit = stage.config.stages[stage.name].kind, stage.config.run.max_skipped
  by, stays = f'{stage.name}: by update {done}', 'the last good checkpoint stays'
  if history.add(metrics) >= limit:
    raise DivergedError(
      f'{by} there was NaN or infinity in {limit} updates in a row (run.max_skipped), which were '
      f'skipped; {stays} (try a lower {kind}.lr or a longer warmup)'
    )
  gaps = metrics.get('log_prob_gap', 0.0 * metrics['finite'])
  gap = np.max(gaps, initial=0.0, where=metrics['finite'] > 0)
  if gap > stage.config.run.max_log_prob_gap:
    raise DivergedError(
      f'{by} sampler and learner were {gap:.3g} nats apart; {stays} '
      '(run.max_log_prob_gap is the limit; model.dtype float32 keeps them together)'
    )
