"""Timing compiled programs side by side.

Programs are timed in turn, repeat after repeat, and medians are compared, so that a machine whose
speed drifts moves all of them alike. The matrix-product peak is measured in the same process.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from compgen_jax.learning.state import AXIS


@dataclasses.dataclass
class Program:
  """A compiled program that is called with itself as its only state.

  `compile_s`: seconds of tracing and of compiling, nothing cached. `peak_mb`: MiB of arguments,
  results and temporaries, all devices (XLA's plan). `repeat`: calls in a row that are timed
  together, so that a short program is not timed with a cache that another left behind. `seconds`:
  of one call, each time.
  """

  call: Callable[[], Any]
  compile_s: float
  peak_mb: float
  repeat: int
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)


def program(function: Callable, *args: Any, carry: bool = False) -> Program:
  """Compiles `function` (a jitted one as it is) for `args`; with `carry`, its first result replaces
  its first argument."""
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
  repeat = max(1, min(50, round(0.2 / seconds(call))))
  return Program(call, compile_s, n_bytes / 2**20, repeat)


def in_turn(programs: list[Program], repeats: int) -> None:
  """Times each program `repeats` times, interleaved."""
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
  """The best GFLOP/s of square matrix products over sizes, on one device and on all of the current
  mesh at once."""
  rows = jax.sharding.PartitionSpec(AXIS)
  each = jax.jit(jax.shard_map(lambda a, b: a @ b, in_specs=(rows, rows), out_specs=rows))
  one = jax.jit(lambda a, b: a @ b)
  best = 0.0
  for n in (512, 1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192):
    for product, devices in ((one, 1), (each, jax.device_count())):
      x = jnp.ones((devices, n, n), dtype)
      fastest = min(seconds(lambda: product(x, x)) for _ in range(3 * repeats + 1))
      best = max(best, 2.0 * devices * n**3 / fastest / 1e9)
  return best
