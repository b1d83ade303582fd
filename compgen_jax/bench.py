"""Measures every part of the chain beside the matrix-product peak of the same run; prints ratios,
not promises.

  launch/bench.sh [--json FILE] [--shapes 64x2,128x4,256x6] [--repeats 5] [--growth FILE.png]
  [--peer] [--policy DIR]

Work, shares and padding: see `benchmark/workload.py`; timing: `benchmark/timing.py`. `--growth`
also times an SFT step against width, batch, depth cap, modules and seeds, and draws it; `--peer`
also times the same SFT step in PyTorch, and GRPO of the same size in TRL (extra `peer`); `--policy`
also times an RL step from the policy that the run of this config in the workdir DIR ended SFT with,
and, with `--peer`, TRL's with samples as long as that policy's.
"""

import dataclasses
import pathlib
from typing import Any

import jax
from absl import flags

from compgen_jax import command_line

_SHAPES = flags.DEFINE_string(
  'shapes', '64x2,128x4,256x6', 'Widths and layers to measure, as WIDTHxLAYERS,...'
)
_JSON = flags.DEFINE_string('json', None, 'Also write the numbers to this file.')
_REPEATS = flags.DEFINE_integer(
  'repeats', 5, 'Timed repetitions of each part; the median counts.', lower_bound=1
)
_ROWS = flags.DEFINE_integer('rows', 512, 'Rows of prefill, decode and RL.', lower_bound=16)
_SEEDS = flags.DEFINE_integer(
  'seeds', 5, 'Seeds of the steps that are compared with one.', lower_bound=2
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


def measure(
  config, shapes: list[tuple[int, int]], rows: int, repeats: int, n_seeds: int
) -> dict[str, Any]:
  """Times all parts at all shapes in turn; returns what --json writes."""
  from compgen_jax.benchmark import timing
  from compgen_jax.benchmark.workload import Workload, at_shape
  from compgen_jax.experiment import platform, provenance
  from compgen_jax.experiment.progress import say

  provenance.commit()
  peak = timing.matmul_peak(config.model.dtype, repeats)
  todo, pieces = [], {}
  for d_model, n_layers in shapes:
    shape = f'd{d_model}x{n_layers}'
    work = Workload(at_shape(config, d_model, n_layers, rows), rows)
    for make in (
      work.generate,
      work.sft_step,
      work.forward,
      work.prefill,
      work.decode,
      work.rl_step,
    ):
      todo.append((shape, make()))
      say(f'{shape}: {todo[-1][1].part} compiled in {todo[-1][1].program.compile_s:.0f} s')
    if not pieces:
      seeds = tuple(range(n_seeds))
      many = Workload(at_shape(config, d_model, n_layers, rows, seeds=seeds), rows)
      pieces = work.pieces() | {
        'sft_step of all seeds': many.step('sft'),
        'rl_step of all seeds': many.step('compound'),
      }
  say('timing')
  timing.in_turn([part.program for _, part in todo] + list(pieces.values()), repeats)

  by_name = {(shape, part.part): part for shape, part in todo}
  entries = []
  for shape, part in todo:
    taken = part.program.median
    if part.part == 'decode':  # what is timed begins with a prefill
      part = dataclasses.replace(part, flops=part.flops - by_name[shape, 'prefill'].flops)
      taken -= by_name[shape, 'prefill'].program.median
    gflops = part.flops / taken / 1e9
    model_gflops = (part.flops - part.optimizer_flops) / taken / 1e9
    entries.append(
        dict(part=part.part, shape=shape, per_second=part.units / taken, unit=part.unit,
             useful_per_second=part.useful / taken, useful_share=part.useful / part.units,
             gflops=gflops, share_of_peak=gflops / peak, model_share_of_peak=model_gflops / peak,
             milliseconds=1e3 * taken / part.calls, compile_s=part.program.compile_s, peak_mb=part.program.peak_mb)
    )  # fmt: skip
  table = {(e['shape'], e['part']): e for e in entries}
  for shape in dict.fromkeys(e['shape'] for e in entries):
    step, generate, decode = (table[shape, part] for part in ('sft_step', 'generate', 'decode'))
    generate['share_of_sft_step'] = (
      config.sft.batch / generate['per_second'] / (step['milliseconds'] / 1e3)
    )
    decode['tokens_per_forward_token'] = (
      decode['per_second'] / table[shape, 'sft_forward']['per_second']
    )
  return dict(matmul_peak_gflops=peak, rows=entries, breakdown=_breakdown(pieces, by_name, n_seeds),
              dtype=config.model.dtype, hardware=platform.hardware(), repeats=repeats,
              command=provenance.command(), commit=provenance.commit())  # fmt: skip


def _breakdown(pieces: dict, by_name: dict, n_seeds: int) -> dict[str, Any]:
  """Milliseconds of each piece of a step at the first shape, and the time of several seeds over
  that of one."""
  shape = next(iter(by_name))[0]
  ms = {name: 1e3 * p.median for name, p in pieces.items()}
  step = {
    part: 1e3 * by_name[shape, part].program.median / by_name[shape, part].calls
    for part in ('sft_step', 'rl_step')
  }
  calls = by_name[shape, 'sft_step'].calls
  return dict(
      shape=shape,
      sft_step=dict(
          sample=ms['sft.sample'], pack=ms['sft.sample+pack'] - ms['sft.sample'],
          gradient=step['sft_step'] - ms['sft.sample+pack'] - ms['update'], update=ms['update'],
      ),
      rl_step=dict(
          sample=ms['rl.sample'], rollout_and_verify=ms['rl.explore'] - ms['rl.sample'],
          gradient=step['rl_step'] - ms['rl.explore'] - ms['update'], update=ms['update'],
      ),
      rl_rollout_share=ms['rl.explore'] / step['rl_step'],
      seeds=n_seeds,
      sft_step_over_one_seed=ms['sft_step of all seeds'] / calls / step['sft_step'],
      rl_step_over_one_seed=ms['rl_step of all seeds'] / calls / step['rl_step'],
  )  # fmt: skip


def text(result: dict[str, Any]) -> str:
  """The numbers as a table for a terminal."""
  lines = [
    f'matrix product peak {result["matmul_peak_gflops"]:.0f} GFLOP/s ({result["dtype"]}), {result["hardware"]}',
    '',
  ]
  lines.append(
    'part         shape      per second  unit     not padding  GFLOP/s  of peak         ms  compile s  peak MiB'
  )
  for e in result['rows']:
    share = f'{100 * e["share_of_peak"]:7.1f}%' if e['gflops'] else '       -'
    lines.append(
      f'{e["part"]:12} {e["shape"]:8} {e["per_second"]:12,.0f}  {e["unit"]:9} {100 * e["useful_share"]:9.0f}% '
      f'{e["gflops"]:8.1f} {share} {e["milliseconds"]:10.1f} {e["compile_s"]:10.1f} {e["peak_mb"]:9.0f}'
      + (
        f'   {100 * e["model_share_of_peak"]:.1f} % without the optimizer'
        if e['part'].endswith('_step')
        else ''
      )
      + (
        f'   {100 * e["share_of_sft_step"]:.1f} % of an SFT step'
        if 'share_of_sft_step' in e
        else ''
      )
      + (
        f'   {e["tokens_per_forward_token"]:.2f} of the tokens of sft_forward'
        if 'tokens_per_forward_token' in e
        else ''
      )
    )
  b = result['breakdown']
  for step in ('sft_step', 'rl_step'):
    parts = ', '.join(f'{name.replace("_", " ")} {ms:.1f} ms' for name, ms in b[step].items())
    seeds = f'{b["seeds"]} seeds take {b[f"{step}_over_one_seed"]:.2f} times as long as one'
    lines.append(f'\n{step} at {b["shape"]}: {parts}; {seeds}')
  lines.append(
    f'rollouts (sampling and judging) are {100 * b["rl_rollout_share"]:.0f} % of rl_step'
  )
  if 'policy' in result:
    p = result['policy']
    lines.append(
      f'\nrl_step from a trained policy: {p["step_milliseconds"]:.0f} ms, of which rollouts {100 * p["rollout_share"]:.0f} %; '
      f'{100 * p["decoded_useful"]:.0f} % of the decoded columns hold a token; '
      f'{100 * p["signal"]:.0f} % of the samples carry a signal'
    )
  for peer in result.get('peer', ()):
    lines.append(
      f'\n{peer["step"]} at {peer["shape"]} in {peer["what"]}: {peer["milliseconds"]:.1f} ms, '
      f'{peer["milliseconds"] / peer["ours_milliseconds"]:.2f} times as long as ours'
    )
  return '\n'.join(lines)


def _main():
  config = command_line.CONFIG.value
  command_line.require(config=config)
  from compgen_jax import config as config_lib
  from compgen_jax.benchmark import growth, policy, pytorch, trl
  from compgen_jax.benchmark.workload import at_shape
  from compgen_jax.experiment import run

  try:
    shapes = [tuple(int(n) for n in shape.split('x')) for shape in _SHAPES.value.split(',')]
    for d_model, n_layers in shapes:
      at_shape(config, d_model, n_layers, _ROWS.value)
  except ValueError as e:
    raise config_lib.ConfigError(
      f'shapes={_SHAPES.value!r}: legal is WIDTHxLAYERS,... such as 64x2,128x4 ({e})'
    ) from e
  if _PEER.value:
    pytorch.require()
  trained = config_lib.from_config_dict(config)
  if _POLICY.value:
    policy.require(trained, pathlib.Path(_POLICY.value))
  jax.config.update('jax_enable_compilation_cache', False)  # compile times are measured
  with jax.set_mesh(run.data_mesh(jax.device_count())):
    result = measure(config, shapes, _ROWS.value, _REPEATS.value, _SEEDS.value)
    _save(result)
    if _POLICY.value:
      of_policy = policy.workload(trained, pathlib.Path(_POLICY.value))
      result['policy'], lengths = policy.measure(of_policy, _REPEATS.value)
      _save(result)
    if _PEER.value:
      result['peer'] = pytorch.compare(config, shapes, _REPEATS.value)
      result['peer'] += trl.compare(config, shapes, _ROWS.value, _REPEATS.value)
      if _POLICY.value:
        result['peer'].append(
          trl.beside(of_policy, lengths, _REPEATS.value, 'rl_step from a trained policy')
        )
      _save(result)
    if _GROWTH.value:
      result['growth'] = growth.measure(config, _REPEATS.value)
      _save(result)
      growth.draw(result, pathlib.Path(_GROWTH.value))
  print(text(result))


def _save(result: dict[str, Any]) -> None:
  """Part by part, so that a failure later loses nothing."""
  from compgen_jax.experiment import files

  if _JSON.value:
    files.write_json(pathlib.Path(_JSON.value), result)


if __name__ == '__main__':
  command_line.launch(_main)
