"""Measures every part of the chain beside the matrix-product peak of the same run; prints ratios, not promises.

  launch/bench.sh [--json FILE] [--shapes 64x2,128x4] [--repeats 5]

All parts are timed in turn, `repeats` times, and the median is reported, so that a machine whose speed drifts moves all of
them alike. GFLOP/s count the matrix products that the model's shapes ask for (2 per multiply-add; a training step is three
forward passes); softmax, norms, masks and the optimizer are time without a count, as is everything spent on padding.
"""

import functools
import pathlib
import statistics
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from compgen_jax import command_line
from compgen_jax.learning.state import AXIS

_SHAPES = flags.DEFINE_string('shapes', '64x2,128x4', 'Widths and layers to measure, as WIDTHxLAYERS,...')
_JSON = flags.DEFINE_string('json', None, 'Also write the numbers to this file.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed repetitions of each part; the median counts.', lower_bound=1)
_ROWS = flags.DEFINE_integer('rows', 512, 'Rows of prefill, decode and RL.', lower_bound=16)
_STEPS = 4  # training steps a timed call


class Part(NamedTuple):
  """A thing to time: `call` runs `units` units of work with `flops` floating-point operations in matrix products."""

  part: str
  shape: str
  call: Callable[[], Any]
  units: float
  unit: str
  flops: float
  more: dict[str, float]


def forward_flops(model, rows: int, queries: int, keys: int, logits: int) -> float:
  """Operations in the matrix products of a forward pass: per row, `queries` columns that each meet `keys` columns."""
  c = model.config
  layer = 2 * queries * (4 * c.d_model**2 + 2 * c.d_model * c.d_ff) + 4 * queries * keys * c.d_model
  return float(rows * (c.n_layers * layer + 2 * logits * c.d_model * model.vocab_size))


def matmul_peak(repeats: int) -> float:
  """The best GFLOP/s of float32 matrix products over sizes, on one device and on all of the current mesh at once."""
  rows = jax.sharding.PartitionSpec(AXIS)
  each = jax.jit(jax.shard_map(lambda a, b: a @ b, in_specs=(rows, rows), out_specs=rows))
  one = jax.jit(lambda a, b: a @ b)
  best = 0.0
  for n in (512, 1024, 2048):
    for product, devices in ((one, 1), (each, jax.device_count())):
      x = jnp.ones((devices, n, n))
      seconds = min(_seconds(lambda: product(x, x)) for _ in range(3 * repeats + 1))
      best = max(best, 2.0 * devices * n**3 / seconds / 1e9)
  return best


def _seconds(call: Callable[[], Any]) -> float:
  started = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - started


def parts(config, rows: int) -> list[Part]:
  """The parts at one model shape."""
  from compgen_jax.experiment import run, stages
  from compgen_jax.learning import exploration
  from compgen_jax.learning.state import create, in_blocks, on_every_device, sample_problems
  from compgen_jax.task.verify import verify

  n_devices = jax.device_count()
  supports, base = run.build_supports(config), run.build_setup(config, n_devices)
  model, task, depth = base.model, base.task, supports['compounds'].depth_cap
  shape = f'd{config.model.d_model}x{config.model.n_layers}'
  prompt_width, trace_width = task.prompt_width(depth), task.trace_width(depth)
  width = prompt_width + trace_width
  replicate = lambda f, **kw: jax.jit(on_every_device(f, base, **kw))
  mine = lambda n: base.row_ids(0, n)

  def generate(key):
    problems, rendered = sample_problems(key, supports['compounds'], mine(4096))
    strict = jax.vmap(lambda p, t: verify(p, t, task))(problems, rendered.trace).strict
    return rendered.trace, strict

  def prompts(key):
    return jnp.repeat(sample_problems(key, supports['compounds'], mine(rows // 16))[1].prompt, 16, axis=0)

  def prefill(params, key):
    run_block = lambda p: model.prefill(params, p, width)[0]
    return jax.lax.map(run_block, in_blocks(prompts(key), base.rollout_rows)).reshape(-1, model.vocab_size)

  def decode(params, key):
    """As prefill, and then every column of the trace, whatever it holds."""

    def run_block(p):
      _, cache = model.prefill(params, p, width)
      token_B = jnp.full((p.shape[0],), task.label_0)
      step = lambda cache, _: (lambda logits, cache: (cache, logits[:, 0]))(*model.decode_step(params, cache, token_B))
      return jax.lax.scan(step, cache, None, length=trace_width)[1]

    out = jax.lax.map(run_block, in_blocks(prompts(key), base.rollout_rows))
    return out.transpose(0, 2, 1).reshape(-1, trace_width)

  key, params = jax.random.key(0), jax.jit(model.init_params)(jax.random.key(1))
  generate, prefill, decode = (replicate(f, row_outputs=True) for f in (generate, prefill, decode))

  def training(name):
    stage = stages.build(name, config, base, supports, pathlib.Path())
    state, parent = stages.initial_state(stage, params_with_seed)
    compiled = stages.updates(stage)
    held = [state]

    def call():
      held[0], metrics = compiled(held[0], jax.random.split(key, 1), parent, _STEPS)
      return metrics

    return call

  params_with_seed = jax.tree.map(lambda x: x[None], params)
  trace, strict = generate(key)
  assert bool(jnp.all(strict)), 'a golden trace did not pass verification'
  sft_tokens, sft_useful, sft_flops = 0.0, 0.0, 0.0
  for name, n in zip(config.stages['sft'].data, config.stage_rows('sft')):
    cap = supports[name].depth_cap
    columns, written = task.prompt_width(cap) + task.trace_width(cap) - 1, task.trace_width(cap)
    rendered = jax.jit(lambda k, s=supports[name]: sample_problems(k, s, jnp.arange(512))[1])(key)
    sft_tokens += n * columns
    sft_useful += n * float(jnp.mean(rendered.prompt_length + rendered.trace_length - 1))
    sft_flops += 3 * forward_flops(model, n, columns, columns, written)
  prefill_flops = forward_flops(model, rows, prompt_width, prompt_width, 1)
  decode_flops = forward_flops(model, rows, trace_width, width, trace_width)
  rl_flops = prefill_flops + decode_flops + 3 * forward_flops(model, rows, width - 1, width - 1, trace_width)
  return [
      Part('generate', shape, functools.partial(generate, key), 4096, 'problems', 0.0, {}),
      Part('sft_step', shape, training('sft'), _STEPS * sft_tokens, 'tokens', _STEPS * sft_flops, {
          'steps': _STEPS, 'useful_share': sft_useful / sft_tokens}),
      Part('prefill', shape, lambda: prefill(params, key), rows * prompt_width, 'tokens', prefill_flops, {}),
      Part('decode', shape, lambda: decode(params, key), rows * trace_width, 'tokens', prefill_flops + decode_flops, {}),
      Part('rl_step', shape, training('compound'), _STEPS * rows * (width - 1), 'tokens', _STEPS * rl_flops, {'steps': _STEPS}),
  ]  # fmt: skip


def measure(configs: list, rows: int, repeats: int) -> dict[str, Any]:
  """Times all parts of all configs in turn; returns what --json writes."""
  from compgen_jax.experiment import platform, run, summary

  with jax.set_mesh(run.data_mesh(jax.device_count())):
    peak = matmul_peak(repeats)
    todo, compile_s = [], []
    for config in configs:
      for part in parts(config, rows):
        todo.append(part)
        compile_s.append(_seconds(part.call))
    seconds = [[] for _ in todo]
    for _ in range(repeats):
      for taken, part in zip(seconds, todo):
        taken.append(_seconds(part.call))
  entries = []
  for part, taken, first in zip(todo, seconds, compile_s):
    median = statistics.median(taken)
    gflops = part.flops / median / 1e9
    entries.append(
        dict(part=part.part, shape=part.shape, per_second=part.units / median, unit=part.unit, gflops=gflops,
             share_of_peak=gflops / peak, milliseconds=1e3 * median / part.more.get('steps', 1),
             fastest_ms=1e3 * min(taken) / part.more.get('steps', 1), first_call_s=first,
             **{k: v for k, v in part.more.items() if k != 'steps'})
    )  # fmt: skip
  for entry in entries:
    if entry['part'] == 'generate':
      step = next(e for e in entries if e['part'] == 'sft_step' and e['shape'] == entry['shape'])
      entry['share_of_sft_step'] = configs[0].sft.batch / entry['per_second'] / (step['milliseconds'] / 1e3)
  return dict(matmul_peak_gflops=peak, rows=entries, hardware=platform.hardware(), command=summary.command(),
              commit=summary.commit(), repeats=repeats)  # fmt: skip


def text(result: dict[str, Any]) -> str:
  """The numbers as a table for a terminal."""
  lines = [f'matrix product peak {result["matmul_peak_gflops"]:.0f} GFLOP/s (float32), {result["hardware"]}', '']
  lines.append('part       shape      per second  unit       GFLOP/s  of peak  ms (median)  first call s')
  for e in result['rows']:
    share = f'{100 * e["share_of_peak"]:7.1f}%' if e['gflops'] else '       -'
    lines.append(
        f'{e["part"]:10} {e["shape"]:8} {e["per_second"]:12,.0f}  {e["unit"]:9} {e["gflops"]:8.1f} {share} '
        f'{e["milliseconds"]:12.1f} {e["first_call_s"]:13.1f}'
        + (f'   {100 * e["share_of_sft_step"]:.2f} % of an SFT step' if 'share_of_sft_step' in e else '')
        + (f'   {100 * e["useful_share"]:.0f} % of its columns are not padding' if 'useful_share' in e else '')
    )
  return '\n'.join(lines)


def _at_shape(config, d_model: int, n_layers: int, rows: int):
  """The experiment's SFT and RL at another model shape, typed."""
  from compgen_jax import config as config_lib

  config = config.copy_and_resolve_references()
  config.model.update(d_model=d_model, n_layers=n_layers, n_heads=max(1, d_model // 16), d_ff=4 * d_model)
  # A trace of entropy bonus: else an untrained policy has no signal, and its updates would be skipped.
  config.rl.update(prompts=rows // 16, group=16, entropy=1e-6)
  return config_lib.from_config_dict(config)


def _main():
  command_line.require(config=command_line.CONFIG.value)
  from compgen_jax.config import ConfigError
  from compgen_jax.experiment import files

  try:
    shapes = [tuple(int(n) for n in shape.split('x')) for shape in _SHAPES.value.split(',')]
    configs = [_at_shape(command_line.CONFIG.value, d, n, _ROWS.value) for d, n in shapes]
  except ValueError as e:
    raise ConfigError(f'shapes={_SHAPES.value!r}: legal is WIDTHxLAYERS,... such as 64x2,128x4 ({e})') from e
  result = measure(configs, _ROWS.value, _REPEATS.value)
  print(text(result))
  if _JSON.value:
    files.write_json(pathlib.Path(_JSON.value), result)


if __name__ == '__main__':
  command_line.launch(_main)
