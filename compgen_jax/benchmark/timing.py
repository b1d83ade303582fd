"""Timing compiled programs side by side.

Programs are timed in turn, repeat after repeat, and medians are compared. So a machine whose speed
drifts moves all of them alike. The matrix-product peak is measured in the same process.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from compgen_jax.experiment import files
from compgen_jax.learning.devices import DATA

_AT_LEAST_S = 0.2  # seconds that are timed together
_MOST_CALLS = 50


@dataclasses.dataclass
class Program:
  """A compiled program with its arguments.

  Attributes:
    call: runs it once.
    compile_s: seconds of tracing and compiling; nothing is taken from a cache.
    peak_mb: MiB of arguments, results and temporaries on all devices, as XLA plans them.
    repeat: calls in a row that are timed together. A short program is then not timed with a CPU
      cache that another program left behind.
    seconds: of one call, one entry a repetition.
  """

  call: Callable[[], Any]
  compile_s: float
  peak_mb: float
  repeat: int
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self) -> float:
    """Median seconds of a call."""
    return statistics.median(self.seconds)


def program(function: Callable, *args: Any, carry: bool = False) -> Program:
  """Compiles `function` (jitted or not) for `args`, and runs it once.

  With `carry` the first result of a call is the first argument of the next.
  """
  started = time.perf_counter()
  jitted = function if hasattr(function, 'lower') else jax.jit(function)
  compiled = jitted.lower(*args).compile()
  compile_s = time.perf_counter() - started
  memory = compiled.memory_analysis()
  n_bytes = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
  held = list(args)

  def call():
    out = compiled(*held)
    if carry:
      held[0] = out[0]
    return out

  jax.block_until_ready(call())
  repeat = max(1, min(_MOST_CALLS, round(_AT_LEAST_S / seconds(call))))
  return Program(call, compile_s, n_bytes / 2**20, repeat)


def in_turn(programs: list[Program], repeats: int) -> None:
  """Times each program `repeats` times, all programs once before any is timed again."""
  for _ in range(repeats):
    for p in programs:
      if p.repeat > 1:
        seconds(p.call)
      p.seconds.append(statistics.mean(seconds(p.call) for _ in range(p.repeat)))


def seconds(call: Callable[[], Any]) -> float:
  """Wall-clock seconds until the result of `call` is there."""
  started = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - started


def matmul_peak(dtype: str, repeats: int) -> float:
  """The best GFLOP/s of square matrix products: of several sizes, on one device and on all at once.

  All devices are those of the current mesh.
  """
  rows = jax.sharding.PartitionSpec(DATA)
  on_each_device = jax.shard_map(jnp.matmul, in_specs=(rows, rows), out_specs=rows)
  products = ((jax.jit(jnp.matmul), 1), (jax.jit(on_each_device), jax.device_count()))
  best = 0.0
  for n in (512, 1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192):
    for product, devices in products:
      x = jnp.ones((devices, n, n), dtype)
      fastest = min(seconds(lambda: product(x, x)) for _ in range(3 * repeats + 1))
      best = max(best, 2.0 * devices * n**3 / fastest / 1e9)
  return best


def update_s(stage_folder: pathlib.Path, every: int = 0) -> float:
  """Seconds of an update of a stage that was run: the median over rows of its metrics but the
  first, in which it compiles, and those after an evaluation, `every` so many updates (0: none)."""
  rows = files.read_sealed_jsonl(stage_folder / 'metrics.jsonl')
  return statistics.median(
    (row['seconds'] - before['seconds']) / (row['step'] - before['step'])
    for before, row in zip(rows, rows[1:])
    if not every or before['step'] % every
  )
