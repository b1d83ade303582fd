"""How much work a run does as it gets more devices and processes: strong and weak scaling.

Each point is a run of its own with one stage of SFT and one of RL, on virtual devices of the CPU.
It is pinned to a core for each device, so two devices and two processes show what sharing costs.

Strong: the batch is the same. Weak: every device gets a batch. Work is samples a second, over that
of one device in the same call; n devices on n cores without any cost have n.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from compgen_jax import config as config_lib
from compgen_jax.benchmark import timing, workload
from compgen_jax.errors import UserError
from compgen_jax.experiment import files, places, processes, workdirs
from compgen_jax.experiment.places import Place
from compgen_jax.experiment.progress import say

PLACES = ((1, 1), (1, 2), (2, 1))  # processes, and devices of each
CALL = 4  # updates of a dispatch, and of a row of metrics; those of the first row are not timed
CALLS = {'sft': 12, 'rl': 4}
MOST_S = 900.0  # of a run
_RUN = """
import json, os, sys
os.sched_setaffinity(0, map(int, sys.argv[3:]))
from compgen_jax import config, run
run(config.from_json(json.load(open(sys.argv[1]))), sys.argv[2])
"""


class Point(NamedTuple):
  """A run: so many processes of so many devices each, and batches of how many devices it has."""

  processes: int
  devices: int
  batches: int

  @property
  def kind(self) -> str:
    return 'weak' if self.batches > 1 else 'strong'


def points() -> list[Point]:
  """One device, then strong and weak for each of the other places."""
  more = [(p, d, n) for p, d in PLACES[1:] for n in (1, p * d)]
  return [Point(*PLACES[0], 1), *(Point(*point) for point in more)]


def prepared(config: ConfigDict, batches: int) -> config_lib.Config:
  """The experiment cut down to what is timed, its batches so many times as large.

  Raises:
    ConfigError: it lacks a stage that is measured.
  """
  config = workload.only_chosen(config)
  typed = config_lib.from_config_dict(config)
  chosen = workload.choose(typed)
  for name, kind in ((chosen.sft, 'sft'), (chosen.rl, 'rl')):
    settings = typed.settings(name)
    field = settings.batch_field
    config.stages[name].steps = CALL * CALLS[kind]
    config.stages[name].settings.update({field: batches * getattr(settings, field)})
  # With a trace of an entropy bonus no update is skipped: an untrained policy has no signal.
  config.stages[chosen.rl].settings.update(entropy=1e-6)
  split, support = next(iter(config.eval.splits.items()))  # one: programs of all take minutes
  config.eval.splits = ConfigDict({split: support})
  config.eval.update(every=0, curve=(split,), trained=(split,), pass_k=(), pass_samples=1)
  config.eval.update(problems=max(p * d for p, d in PLACES), curve_problems=0)
  config.run.update(steps_per_call=CALL, checkpoint_every=10**6, checkpoint_every_s=1e6)
  config.update(seed=typed.all_seeds[0], seeds=())
  config.mesh.data = -1
  return config_lib.from_config_dict(config)


def measure(config: ConfigDict) -> list[dict[str, Any]]:
  """A row for each stage and point: `updates_per_s`, and `work`, that of one device being 1.

  Raises:
    ConfigError: the config can't be cut down so.
    UserError: this is not a CPU, or a run failed.
  """
  if jax.default_backend() != 'cpu':
    raise UserError(f'scaling: on {jax.default_backend()}; legal is cpu, whose devices are virtual')
  rows: list[dict[str, Any]] = []
  for point in points():
    typed = prepared(config, point.batches)
    chosen = workload.choose(typed)
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      say(f'scaling: {point.processes} x {point.devices} devices, {point.kind}')
      _run(point, typed, folder)
      for stage in (chosen.sft, chosen.rl):
        of_stage = workdirs.stage_folder(folder / 'run', stage, typed.all_seeds[0])
        row = dict(stage=stage, kind=point.kind, processes=point.processes, devices=point.devices)
        rate, batch = 1.0 / timing.update_s(of_stage), typed.settings(stage).batch_rows
        rows.append(row | dict(batch=batch, updates_per_s=rate))
  for row in rows:
    one = next(r for r in rows if r['stage'] == row['stage'])
    row['work'] = row['updates_per_s'] * row['batch'] / (one['updates_per_s'] * one['batch'])
  return rows


def _run(point: Point, config: config_lib.Config, folder: pathlib.Path) -> None:
  """Runs a config as so many processes, in `folder / 'run'`."""
  files.write_json(folder / 'config.json', config_lib.to_dict(config))
  command = [sys.executable, '-c', _RUN, str(folder / 'config.json'), str(folder / 'run')]
  cores = sorted(os.sched_getaffinity(0))[: point.processes * point.devices]
  port, ran = processes.free_port(), []
  for index in range(point.processes):
    env = os.environ | _environment(point, index, port)
    mine = cores[index * point.devices :][: point.devices] or cores  # too few cores: all of them
    with open(folder / f'{index}.log', 'wb') as log:
      ran.append(subprocess.Popen([*command, *map(str, mine)], env=env, stdout=log, stderr=log))
  try:
    statuses = [process.wait(MOST_S) for process in ran]
  finally:
    for process in ran:
      process.kill()
  for index, status in enumerate(statuses):
    if status:
      said = (folder / f'{index}.log').read_text(errors='replace').strip().splitlines()
      raise UserError(f'scaling: {point}: {said[-1] if said else f"exit status {status}"}')


def _environment(point: Point, index: int, port: int) -> dict[str, str]:
  """What one sets for each of several processes on this machine."""
  where = Place(f'localhost:{port}', point.processes, index, None)
  devices = {'JAX_NUM_CPU_DEVICES': str(point.devices), 'JAX_PLATFORMS': 'cpu'}
  return devices | places.variables(where)
