"""One experiment from config to report: `run(config, workdir)`."""

import functools
import os
import pathlib
import time
from typing import Any

import jax

from compgen_jax import config as config_lib
from compgen_jax import validation
from compgen_jax.config import Config
from compgen_jax.errors import CheckpointError
from compgen_jax.experiment import (
  about,
  ahead,
  ancestry,
  evaluate,
  files,
  lifeline,
  memory,
  platform,
  processes,
  programs,
  provenance,
  stages,
  summary,
  workdirs,
  writers,
)
from compgen_jax.experiment.evaluate import Evaluation, Evaluator, Pooled
from compgen_jax.experiment.programs import Stage
from compgen_jax.experiment.progress import say
from compgen_jax.experiment.record import Record
from compgen_jax.experiment.replicate import Replicate
from compgen_jax.experiment.rows import Rows
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning.devices import DATA, MODEL, REPLICATE, Devices
from compgen_jax.learning.setup import Setup
from compgen_jax.model.transformer import Model
from compgen_jax.report import page


def build_setup(config: Config, n_devices: int, groups: int = 1, model: int = 1) -> Setup:
  """Task, model (sized for the task's tokens) and division of work; no sources, no optimizer.

  `groups`: of the devices, each of which trains other replicates. `model`: over how many devices
  parameters are split, in place of each of the `n_devices`.
  """
  task = config.task
  work = platform.division_of_work(config.model.d_model, config.run.microbatch_rows)
  vocabulary = task.vocab_size, task.alphabet, task.width + 2, task.pad
  return Setup(
    task,
    Model(config.model, *vocabulary, work.chunk),
    tx=None,
    sources=(),
    devices=Devices(
      n_devices,
      groups=groups,
      axis=DATA if groups == 1 else (REPLICATE, DATA),
      parts=config.mesh.parts,
      model=model,
    ),
    row_columns=work.row_columns,
    microbatch_rows=work.microbatch_rows,
    rollout_rows=work.rollout_rows,
    evaluation_rows=work.evaluation_rows,
  )


def data_mesh(n_devices: int, groups: int = 1, model: int = 1) -> jax.sharding.Mesh:
  """The first devices, along the axis that batches are split over; if there are several `groups` of
  them, these along another one; and if each is `model` devices, these along a third."""
  shape, names = (n_devices,), (DATA,)
  if groups > 1:
    shape, names = (groups, n_devices // groups), (REPLICATE, DATA)
  if model > 1:  # neighbours, which exchange most
    shape, names = (*shape, model), (*names, MODEL)
  auto = (jax.sharding.AxisType.Auto,) * len(names)
  return jax.make_mesh(shape, names, axis_types=auto, devices=jax.devices()[: n_devices * model])


def build_replicate(config: Config, setup: Setup, seed: int) -> Replicate:
  """What a seed draws: supports and evaluation problems, checked against each other.

  Raises:
    ConfigError: a support can't hold what is asked of it.
    LeakError: an evaluated composition is in training data.
  """
  supports = build_supports(config, seed)
  training = ancestry.trained_on(config)
  return Replicate(seed, supports, Evaluator(config, setup, seed, supports, training))


def groups(config: Config, workdir: pathlib.Path) -> list[tuple[int, ...]]:
  """The seeds that train together: all that have come equally far; on a CPU one on each group of
  devices."""
  at_once = len(config.all_seeds) if platform.side_by_side() else config.mesh.replicate
  if at_once == 1:
    return [(seed,) for seed in config.all_seeds]
  by_progress: dict[tuple, list[int]] = {}
  for seed in config.all_seeds:
    records = [Record(workdir, config, name, seed) for name in config.stage_order]
    by_progress.setdefault(tuple(map(stages.newest_checkpoint, records)), []).append(seed)
  together = by_progress.values()
  return [tuple(s[i : i + at_once]) for s in together for i in range(0, len(s), at_once)]


def run(config: Any, workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Runs an experiment to its end, or on to it, and writes its results.

  Args:
    config: a ConfigDict as made by configs/*.py, or the typed `Config`.
    workdir: the folder for checkpoints and results. Running again with the same config continues
      there, or changes nothing where it has finished; with more seeds, stages, splits, supports or
      contrasts, what is finished stays and the rest is run.

  Returns:
    The rows of results.jsonl: a list of flat dicts (printed, a table of each arm's end).

  Raises:
    ConfigError: the config, or the workdir for this config, can't work; nothing was overwritten.
  """
  if isinstance(config, Config):
    validation.validate(config)
  else:
    config = config_lib.from_config_dict(config)
  writers.require(config.run.writers)
  platform.prepare()
  plain = config_lib.to_dict(config)
  agreed = files.checksum({'config': plain, 'workdir': str(workdir), 'jax': jax.__version__})
  processes.join(config.run.distributed, config.run.join_s, agreed)
  of_many = jax.process_count() > 1
  n_devices = validation.devices(config, jax.device_count(), use_all=of_many)
  require_foreign_parents(config)
  division = n_devices, config.mesh.replicate, config.mesh.model
  started = time.monotonic()
  # One mesh for both: a program that is needed inside and outside of it would be compiled twice.
  with jax.set_mesh(data_mesh(*division)), lifeline.watched(config.run.stuck_s):
    base = build_setup(config, *division)
    # All that can be refused is refused before anything compiles, except what is drawn.
    workdirs.require_workdir(workdir)
    require_origins(config, pathlib.Path(workdir))
    estimate = memory.require(config, base)
    replicates = {seed: build_replicate(config, base, seed) for seed in config.all_seeds}
    folder, lock = workdirs.open_workdir(workdir)
    provenance.commit()
    with lock:
      require_origins(config, folder)
      say(estimate)
      provenance.start_clock(folder, started)
      _write_config(folder, plain)
      evaluations = _run_stages(config, folder, base, replicates)
      rows = Rows(_result_rows(config, folder, evaluations))
      pooled = {
        name: evaluate.pool([by_seed[seed] for seed in config.all_seeds])
        for name, by_seed in evaluations.items()
      }
      held = lifeline.of_lead(lambda: _held(config, folder, rows, pooled))
      first = replicates[config.all_seeds[0]]
      result = held or _write(config, folder, rows, evaluations, pooled, first)
  lifeline.meet()  # else the files of process 0 might not be there yet
  say(summary.table_text(result))
  if held is not None:
    say('all results were there before: none was written again')
  say(f'report: {folder / "report.html"}')
  return rows


def _write_config(folder: pathlib.Path, plain: dict[str, Any]) -> None:
  """Writes config.json; a report of another config goes."""
  if lifeline.is_lead() and files.read_json(folder / 'config.json') != plain:
    (folder / 'report.html').unlink(missing_ok=True)
    files.write_json(folder / 'config.json', plain)


def _held(
  config: Config, folder: pathlib.Path, rows: list[dict], pooled: dict[str, Pooled]
) -> dict[str, Any] | None:
  """What summary.json holds, if the workdir holds all that this run could write; else None."""
  held = files.read_json(folder / 'summary.json')
  measured = summary.measured(config, pooled)
  is_whole = (
    isinstance(held, dict)
    and {name: held.get(name) for name in measured} == measured
    and (folder / 'results.jsonl').exists()
    and files.read_jsonl(folder / 'results.jsonl') == rows
    and (folder / 'report.html').exists()
    and provenance.wall_time(folder) is not None
  )
  return held if is_whole else None


def _write(
  config: Config,
  folder: pathlib.Path,
  rows: list[dict],
  evaluations: dict[str, dict[int, Evaluation]],
  pooled: dict[str, Pooled],
  first: Replicate,
) -> dict[str, Any]:
  """Writes results, summary, figures and report; returns the summary.

  Examples, of supports and of traces, are those of the first replicate.
  """
  files.write_jsonl(folder / 'results.jsonl', rows)
  wall_s = provenance.count_wall_time()
  result = summary.summarise(config, pooled, wall_s)
  result |= {'supports': about.supports(config, first)}
  result |= {'starts_from': provenance.foreign_parents(config)}
  files.write_json(folder / 'summary.json', result)
  traces = {name: by_seed[first.seed].traces for name, by_seed in evaluations.items()}
  page.write(folder, config, rows, result, traces)
  return result


def foreign_params(
  config: Config, base: Setup, name: str, seeds: tuple[int, ...]
) -> stages.Params | None:
  """The parameters that a stage takes from another run; None where it does not."""
  if config.stages[name].foreign_parent is None:
    return None
  workdir, parent = config.stages[name].foreign_parent
  adopted = ancestry.adopted(config, workdir)
  built = programs.build(parent, adopted, base, pathlib.Path(workdir), len(seeds))
  return functools.cache(lambda: stages.trained_params(built, seeds))


def require_foreign_parents(config: Config) -> None:
  """Raises ConfigError where a stage of another run, from which one here starts, was trained under
  another config, and CheckpointError where it has not finished."""
  for name, stage in config.stages.items():
    ancestry.lineage(config, name)
    if stage.foreign_parent:
      workdir, parent = stage.foreign_parent
      adopted = ancestry.adopted(config, workdir)
      for seed in config.all_seeds:
        record = Record(pathlib.Path(workdir), adopted, parent, seed)
        record.require_origin()
        if stages.newest_checkpoint(record) != adopted.stages[parent].steps:
          what = f'stages.{name}.init_from={stage.init_from!r}: stage {parent} (seed {seed})'
          raise CheckpointError(f'{what} has not finished there')


def require_origins(config: Config, folder: pathlib.Path) -> None:
  """Raises ConfigError where a stage of the workdir has begun under a config that trains it
  otherwise."""
  for name in config.stage_order:
    for seed in config.all_seeds:
      Record(folder, config, name, seed).require_origin()


def _run_stages(
  config: Config, folder: pathlib.Path, base: Setup, replicates: dict[int, Replicate]
) -> dict[str, dict[int, Evaluation]]:
  """Runs every stage of every group of replicates; what was measured, by stage and seed."""
  evaluations: dict[str, dict[int, Evaluation]] = {name: {} for name in config.stage_order}
  built: dict[tuple[str, int], Stage] = {}
  for seeds in groups(config, folder):
    params: dict[str, stages.Params] = {}
    group = [replicates[seed] for seed in seeds]
    for name in config.stage_order:
      key = name, len(seeds)
      if key not in built:  # groups of one size share compiled programs
        built[key] = programs.build(name, config, base, folder, len(seeds))
    with ahead.Ahead() as compiler:
      begun = [compiler.begin(built[name, len(seeds)], group) for name in config.stage_order]
      for name, stage in zip(config.stage_order, begun):
        parent = params.get(config.stages[name].parent) or foreign_params(config, base, name, seeds)
        params[name], measured = stages.run(stage, group, parent)
        evaluations[name] |= measured
        platform.make_room()
  return evaluations


def _result_rows(
  config: Config, folder: pathlib.Path, evaluations: dict[str, dict[int, Evaluation]]
) -> list[dict[str, Any]]:
  """The rows of results.jsonl: for each stage and seed its learning curve, then its end."""
  rows = []
  for name, by_seed in evaluations.items():
    for seed in config.all_seeds:
      record = Record(folder, config, name, seed)
      steps, every = config.stages[name].steps, config.eval.every
      _, curve = lifeline.of_lead(lambda: record.read_history(steps, every))
      rows += curve + by_seed[seed].rows
  return [row | {'experiment': config.experiment} for row in rows]  # it may have been renamed
