"""Times every part of training, beside the matrix-product peak of the same process.

  launch/bench.sh [--json FILE] [--shapes 64x2,128x4,256x6] [--repeats 5] [--growth FILE.png]
  [--peer] [--policy DIR] [--first_update] [--finding] [--scaling]

What is measured of a config: its first stage of SFT and its stage of RL with the deepest problems.
How to read the numbers: results/bench/README.md. With these flags more is measured:

--growth: an SFT step over width, batch, depth cap, modules and seeds, drawn to a file.
--peer: the same SFT step in PyTorch, and GRPO of the same size in TRL (extra `peer`).
--policy: an RL step from the SFT policy of the run in DIR (of this config); with --peer, TRL's with
samples of the same lengths.
--first_update: seconds from the start of a run to its first SFT update, with an empty and with a
filled compile cache.
--finding: minutes of training until RL on compounds shows finding 1, of each seed; nothing else.
--scaling: what more devices and processes of this machine's CPU do; nothing else.
"""

import pathlib
import sys
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from compgen_jax import command_line

_SHAPES = flags.DEFINE_string(
  'shapes', '64x2,128x4,256x6', 'Widths and blocks to measure, as WIDTHxBLOCKS,...'
)
_JSON = flags.DEFINE_string('json', None, 'Also write the numbers to this file.')
_REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Timed repetitions of each part; the median counts.', lower_bound=1
)
_ROWS = flags.DEFINE_integer('rows', 512, 'Rows of prefill, decode and RL.', lower_bound=16)
_SEEDS = flags.DEFINE_integer(
  'seeds', 5, 'Seeds side by side that are compared with one.', lower_bound=2
)
_GROWTH = flags.DEFINE_string(
  'growth', None, 'Also measure how time grows, and draw it to this file.'
)
_PEER = flags.DEFINE_bool(
  'peer', False, 'Also time the same SFT step in PyTorch, eager and compiled, and GRPO in TRL.'
)
_POLICY = flags.DEFINE_string(
  'policy', None, 'Also time an RL step from the SFT policy of this workdir.'
)
_FIRST_UPDATE = flags.DEFINE_bool(
  'first_update', False, 'Also time how long a run takes to its first SFT update.'
)
_FINDING = flags.DEFINE_bool(
  'finding', False, 'Time only how long training takes until RL shows finding 1 (runs to its end).'
)
_SCALING = flags.DEFINE_bool(
  'scaling', False, 'Time only runs on several virtual devices and in several processes (CPU).'
)


def measure(
  config, shapes: list[tuple[int, int]], rows: int, repeats: int, n_seeds: int
) -> dict[str, Any]:
  """Times all parts at all shapes in turn; returns what --json writes."""
  from compgen_jax.benchmark import breakdown, parts, timing
  from compgen_jax.benchmark.workload import Workload, at_shape
  from compgen_jax.experiment import platform, provenance
  from compgen_jax.experiment.progress import say

  peak = timing.matmul_peak(config.model.dtype, repeats)
  works = {f'd{d}x{n}': Workload(at_shape(config, d, n, rows), rows) for d, n in shapes}
  measured = {shape: parts.compiled(work, shape) for shape, work in works.items()}
  first_shape, first_work = next(iter(works.items()))
  pieces = breakdown.compiled(first_work, n_seeds)
  say('timing')
  programs = [part.program for of_shape in measured.values() for part in of_shape]
  timing.in_turn([*programs, *pieces], repeats)
  batch = first_work.config.settings(first_work.chosen.sft).batch_rows
  entries = [
    entry for shape, of_shape in measured.items() for entry in of_shape.entries(shape, peak, batch)
  ]
  return dict(
    matmul_peak_gflops=peak,
    rows=entries,
    breakdown=breakdown.result(pieces, measured[first_shape], first_shape, n_seeds),
    dtype=config.model.dtype,
    hardware=platform.hardware(),
    repeats=repeats,
    command=provenance.command(),
    commit=provenance.commit(),
  )


def _shapes(given: str) -> list[tuple[int, int]]:
  """`64x2,128x4` as [(64, 2), (128, 4)]."""
  from compgen_jax.errors import ConfigError

  shapes = []
  for shape in given.split(','):
    numbers = shape.split('x')
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
      raise ConfigError(f'shapes={given!r}: legal is WIDTHxBLOCKS,... such as 64x2,128x4')
    shapes.append((int(numbers[0]), int(numbers[1])))
  return shapes


def _require_rows(rows: int, config) -> None:
  """Raises ConfigError where prompts and their samples can't be split evenly over all devices."""
  from compgen_jax.benchmark.workload import choose
  from compgen_jax.errors import ConfigError

  group, n_devices = config.settings(choose(config).rl).group, jax.device_count()
  if rows % (group * n_devices):
    legal = f'a multiple of {group} (samples of a prompt) x {n_devices} (devices)'
    raise ConfigError(f'rows={rows}: legal is {legal}')


def _first_update(config) -> dict[str, Any]:
  """`first_update.measure` of this command's config."""
  from compgen_jax.benchmark import first_update, workload

  stage = workload.choose(config).sft
  of_config = flags.FLAGS['config']
  command = [sys.executable, '-m', 'compgen_jax.main']
  command.append(f'--config={config_flags.get_config_filename(of_config)}')
  changed = config_flags.get_override_values(of_config) | {f'stages.{stage}.steps': 1}
  command += [f'--config.{field}={value}' for field, value in changed.items()]
  return first_update.measure(command, stage, config.all_seeds[0], _REPEATS.value)


def _main():
  config = command_line.CONFIG.value
  command_line.require(config=config)
  from compgen_jax import config as config_lib
  from compgen_jax.benchmark import finding, growth, policy, pytorch, scaling, table, trl, workload
  from compgen_jax.experiment import provenance, run

  provenance.commit()  # of the code that is loaded now
  # Mistakes of the user end the command before minutes of measuring.
  typed, shapes = config_lib.from_config_dict(config), _shapes(_SHAPES.value)
  for d_model, n_layers in shapes:
    workload.at_shape(config, d_model, n_layers, _ROWS.value)
  points = growth.points(config) if _GROWTH.value else []
  if _PEER.value:
    pytorch.require()

  if _FINDING.value:
    found = finding.measure(finding.prepared(config))
    _tell('finding', found, table.finding(found))
    return
  if _SCALING.value:
    found = scaling.measure(config)
    _tell('scaling', found, table.scaling(found))
    return

  more: dict[str, Any] = {}
  if _FIRST_UPDATE.value:  # before this process takes an accelerator's memory
    more['first_update'] = _first_update(typed)
  _require_rows(_ROWS.value, typed)
  jax.config.update('jax_enable_compilation_cache', False)  # compile times are measured
  with jax.set_mesh(run.data_mesh(jax.device_count())):
    of_policy, lengths = None, None
    if _POLICY.value:
      of_policy = policy.workload(typed, pathlib.Path(_POLICY.value))
    result = more | measure(config, shapes, _ROWS.value, _REPEATS.value, _SEEDS.value)
    _save(result)
    if of_policy:
      result['policy'], lengths = policy.measure(of_policy, _REPEATS.value)
      _save(result)
    if _PEER.value:
      result['peer'] = pytorch.compare(config, shapes, _REPEATS.value)
      result['peer'] += trl.compare(config, shapes, _ROWS.value, _REPEATS.value)
      if of_policy:
        step = 'rl_step from a trained policy'
        result['peer'].append(trl.beside(of_policy, lengths, _REPEATS.value, step))
      _save(result)
    if points:
      result['growth'] = growth.measure(points, _REPEATS.value)
      _save(result)
      growth.draw(result, pathlib.Path(_GROWTH.value))
  print(table.text(result))


def _tell(name: str, found: Any, text: str) -> None:
  """Writes and prints what was measured by itself."""
  from compgen_jax.experiment import platform, provenance

  about = dict(command=provenance.command(), commit=provenance.commit())
  _save({name: found} | about | dict(hardware=platform.hardware()))
  print(text)


def _save(result: dict[str, Any]) -> None:
  """Writes what is measured so far, so that a later failure loses nothing."""
  from compgen_jax.experiment import files

  if _JSON.value:
    files.write_json(pathlib.Path(_JSON.value), result)


if __name__ == '__main__':
  command_line.launch(_main)
