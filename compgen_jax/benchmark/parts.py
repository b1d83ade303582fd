"""The parts of training that are timed, each with the work of a call.

GFLOP/s count what `flops.py` counts: three forward passes a training step, and the optimizer's
products.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.benchmark import flops
from compgen_jax.benchmark.timing import Program
from compgen_jax.benchmark.workload import STEPS, Packed, Workload
from compgen_jax.experiment.progress import say
from compgen_jax.learning import batches, gradients
from compgen_jax.learning.setup import Source
from compgen_jax.model.kernels import ceil_div
from compgen_jax.model.rollout import rollout
from compgen_jax.task.verify import verify

PROBLEMS = 4096  # at least, a timed call of the generator


@dataclasses.dataclass
class Part:
  """A program and the work of one call.

  Attributes:
    part: its name.
    program: what is timed.
    unit: what is counted, tokens or problems.
    units: of one call.
    useful: those of them that are not padding.
    flops: operations in matrix products, the optimizer's included.
    optimizer_flops: the optimizer's.
    calls: repetitions inside one call, e.g. updates.
    prelude: a part that the program begins with and whose time is not this part's.
  """

  part: str
  program: Program
  unit: str
  units: float
  useful: float
  flops: float
  optimizer_flops: float = 0.0
  calls: int = 1
  prelude: 'Part | None' = None

  @property
  def seconds(self) -> float:
    """Median seconds of one call."""
    return self.program.median - (self.prelude.seconds if self.prelude else 0.0)

  @property
  def step_ms(self) -> float:
    """Median milliseconds of one repetition inside a call."""
    return 1e3 * self.seconds / self.calls

  def entry(self, shape: str, peak: float) -> dict[str, Any]:
    """What the JSON file holds of it; `peak` in GFLOP/s."""
    gflops = self.flops / self.seconds / 1e9
    model_gflops = (self.flops - self.optimizer_flops) / self.seconds / 1e9
    return dict(
      part=self.part,
      shape=shape,
      per_second=self.units / self.seconds,
      unit=self.unit,
      useful_per_second=self.useful / self.seconds,
      useful_share=self.useful / self.units,
      gflops=gflops,
      share_of_peak=gflops / peak,
      model_share_of_peak=model_gflops / peak,
      milliseconds=self.step_ms,
      compile_s=self.program.compile_s,
      peak_mb=self.program.peak_mb,
    )


class Parts(NamedTuple):
  """The parts at one shape."""

  generate: Part
  sft_step: Part
  sft_forward: Part
  prefill: Part
  decode: Part
  rl_step: Part

  def entries(self, shape: str, peak: float, sft_batch: int) -> list[dict[str, Any]]:
    """What the JSON file holds of them; `sft_batch`: problems of a batch of SFT."""
    entries = Parts(*(part.entry(shape, peak) for part in self))
    generate_ms = 1e3 * sft_batch / entries.generate['per_second']
    entries.generate['share_of_sft_step'] = generate_ms / entries.sft_step['milliseconds']
    of_forward = entries.decode['per_second'] / entries.sft_forward['per_second']
    entries.decode['tokens_per_forward_token'] = of_forward
    return list(entries)


def compiled(work: Workload, shape: str) -> Parts:
  """All parts, ready to be timed."""

  def told(part: Part) -> Part:
    say(f'{shape}: {part.part} compiled in {part.program.compile_s:.0f} s')
    return part

  prefill_part = told(prefill(work))
  return Parts(
    told(generate(work)),
    told(sft_step(work)),
    told(sft_forward(work)),
    prefill_part,
    told(decode(work, prefill_part)),
    told(rl_step(work)),
  )


def generate(work: Workload) -> Part:
  """Sampling, rendering and verifying problems, as many at a time as an update of SFT takes."""
  at_a_time = work.config.settings(work.chosen.sft).batch_rows
  n_batches = ceil_div(PROBLEMS, at_a_time)
  sources = (Source(work.chosen.support, work.support, at_a_time),)

  def one(key):
    _, problems, rendered = batches.draw(key, sources, work.samplers, work.base)
    verdict = jax.vmap(lambda p, t: verify(p, t, work.task))(problems, rendered.trace)
    return rendered.trace, verdict.strict

  def generate(key):
    traces, strict = jax.lax.map(lambda i: one(jax.random.fold_in(key, i)), jnp.arange(n_batches))
    return traces.reshape(-1, traces.shape[-1]), strict.reshape(-1)

  program = work.on_devices(generate, work.key)
  assert np.all(jax.device_get(program.call()[1])), 'a golden trace did not pass verification'
  n_problems = n_batches * at_a_time
  return Part('generate', program, 'problems', n_problems, n_problems, 0.0)


def sft_step(work: Workload) -> Part:
  """Updates of SFT."""
  return _step('sft_step', work, work.chosen.sft, work.packed(work.sft_rows), 0.0)


def rl_step(work: Workload) -> Part:
  """Updates of RL. Each prompt is run once, and decoded once for each of its samples."""
  prompts = work.config.settings(work.chosen.rl).batch_rows
  rollouts = _prefill_flops(work, prompts) + _decode_flops(work)
  return _step('rl_step', work, work.chosen.rl, work.packed(work.rl_rows), rollouts)


def _step(part: str, work: Workload, stage: str, packed: Packed, rollout_flops: float) -> Part:
  n_rows = packed.columns / packed.width
  training = 3 * n_rows * flops.packed_row(work.model, packed.width)
  of_optimizer = flops.update(work.config.settings(stage).optimizer, work.params)
  return Part(
    part,
    work.step(stage),
    'tokens',
    units=STEPS * packed.columns,
    useful=STEPS * packed.useful,
    flops=STEPS * (training + rollout_flops + of_optimizer),
    optimizer_flops=STEPS * of_optimizer,
    calls=STEPS,
  )


def sft_forward(work: Workload) -> Part:
  """The forward pass of SFT, without gradients, on packed rows: empty ones too."""

  def forward(params, key):
    rows, _ = work.sft_rows(key)
    params = work.model.unstack(params)
    n_rows = rows['token'].shape[0]
    size = gradients.microbatches(work.base, n_rows, 0)[0][0]
    whole = jax.tree.map(lambda x: x[: n_rows // size * size], rows)

    def best_logit(part):
      logits = work.model.apply(params, part['token'], document_BxT=part['document'])
      return jnp.max(logits, axis=-1)

    out = jax.lax.map(best_logit, gradients.in_parts(whole, size))
    return out.reshape(-1, out.shape[-1])

  program = work.on_devices(forward, work.params, work.key)
  n_rows, width = program.call().shape
  columns = n_rows * width
  operations = n_rows * flops.packed_row(work.model, width)
  return Part('sft_forward', program, 'tokens', columns, columns, operations)


def prefill(work: Workload) -> Part:
  """Prompts, run in one pass."""

  def logits_of(params, prompts, ids):
    del ids
    return work.model.prefill(params, prompts, work.n_prompt + work.n_trace)[0]

  columns = work.rows * work.n_prompt
  operations = _prefill_flops(work, work.rows)
  return Part('prefill', _on_prompts(work, logits_of), 'tokens', columns, columns, operations)


def decode(work: Workload, prefill: Part) -> Part:
  """Every column of the traces, sampled after a prefill: no row ends."""
  never = -1

  def sampled(params, prompts, ids):
    return rollout(
      work.model,
      params,
      prompts,
      work.key,
      ids,
      n_tokens=work.n_trace,
      end=never,
      temperature=1.0,
    ).tokens

  columns, operations = work.rows * work.n_trace, _decode_flops(work)
  program = _on_prompts(work, sampled)
  return Part('decode', program, 'tokens', columns, columns, operations, prelude=prefill)


def _on_prompts(work: Workload, function: Callable) -> Program:
  """`function(params, prompts, row ids)` on `work.rows` prompts, as many at a time as in a run."""

  def run(params, key):
    prompts = work.rendered(key, work.rows).prompt
    rows = (prompts, jnp.arange(prompts.shape[0]))
    parts = gradients.in_parts(rows, work.base.rollout_rows)
    out = jax.lax.map(lambda part: function(params, *part), parts)
    return out.reshape(-1, out.shape[-1])

  return work.on_devices(run, work.params, work.key)


def _prefill_flops(work: Workload, rows: int) -> float:
  return flops.forward(work.model, rows, work.n_prompt, work.n_prompt, 1)


def _decode_flops(work: Workload) -> float:
  # Every step meets the whole cache. It has room for half of the trace columns during the first
  # half, for all of them during the second.
  met = work.n_prompt + 0.75 * work.n_trace
  return flops.forward(work.model, work.rows, work.n_trace, met, work.n_trace)
