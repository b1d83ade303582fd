"""One experiment from config to report: `run(config, workdir)`."""

import os
import time
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from compgen_jax import config as config_lib
from compgen_jax.config import Config
from compgen_jax.experiment import files, platform, provenance, stages, summary
from compgen_jax.experiment.evaluate import Evaluator
from compgen_jax.experiment.progress import say
from compgen_jax.learning.state import AXIS, Setup
from compgen_jax.model.transformer import Model
from compgen_jax.report import page
from compgen_jax.task import support as support_lib
from compgen_jax.task.support import Support


def build_supports(config: Config) -> dict[str, Support]:
  """Every support of the config, proved to hold what it promises.

  Raises:
    ConfigError: a support is empty or holds fewer compositions than asked for.
  """
  try:
    return {
      name: support_lib.build(name, c, config.task, config.pools)
      for name, c in config.supports.items()
    }
  except support_lib.EmptySupportError as e:
    raise config_lib.ConfigError(str(e)) from e


def build_setup(config: Config, n_devices: int) -> Setup:
  """Task, model (sized for the task's tokens) and division of work; no sources and no optimizer yet."""
  task = config.task
  work = platform.division_of_work(config.model.d_model, config.run.block_rows)
  model = Model(config.model, task.vocab_size, task.alphabet, task.width + 2, task.pad, work.chunk)
  rows = dict(
    row_columns=work.row_columns, block_rows=work.block_rows, rollout_rows=work.rollout_rows
  )
  return Setup(task, model, None, (), n_devices, **rows)


def data_mesh(n_devices: int) -> jax.sharding.Mesh:
  """The first devices, along the axis that batches are split over."""
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((n_devices,), (AXIS,), axis_types=auto, devices=jax.devices()[:n_devices])


def training_supports(config: Config, supports: dict[str, Support]) -> dict[str, Support]:
  """The supports that some stage trains on."""
  return {name: supports[name] for stage in config.stages.values() for name in stage.data}


def run(config: Any, workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Runs an experiment to its end, or on to it, and writes its results.

  Args:
    config: a ConfigDict as made by configs/*.py, or the typed `Config`.
    workdir: the folder for checkpoints and results; running again with the same config continues there.

  Returns:
    The rows of results.jsonl.

  Raises:
    ConfigError: the config, or the workdir for this config, can't work; nothing was overwritten.
  """
  if not isinstance(config, Config):
    config = config_lib.from_config_dict(config)
  n_devices = config_lib.validate_devices(config, jax.device_count())
  mesh = data_mesh(n_devices)
  with jax.set_mesh(mesh):  # as below, or programs that both need would be compiled twice
    supports = build_supports(config)
  folder, lock = files.open_workdir(workdir, config)
  started = time.monotonic()
  provenance.commit()
  with lock, jax.set_mesh(mesh):
    base = build_setup(config, n_devices)
    evaluator = Evaluator(config, base, supports, training_supports(config, supports))
    params: dict[str, Any] = {}
    evaluations = {}
    replicated = NamedSharding(mesh, PartitionSpec())
    for name in config_lib.stage_order(config):
      stage = stages.build(name, config, base, supports, folder)
      parent = params.get(config.stages[name].init_from)
      params[name] = jax.device_put(stages.run(stage, parent, evaluator), replicated)
      evaluations[name] = stages.read_evaluation(stage)
    rows = [
      row
      for name in evaluations
      for row in files.read_jsonl(folder / 'stages' / name / 'curve.jsonl') + evaluations[name].rows
    ]
    files.write_jsonl(folder / 'results.jsonl', rows)
    wall_s = provenance.accumulate_wall_time(folder, time.monotonic() - started)
    result = summary.summarise(config, evaluations, wall_s)
    files.write_json(folder / 'summary.json', result)
    page.write(folder, config, rows, result)
  say(summary.table_text(result))
  say(f'report: {folder / "report.html"}')
  return rows
