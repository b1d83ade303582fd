"""Every choice that depends on the hardware, in one place. None of them changes what is computed,
only how fast, and how sums are rounded (`mesh.parts` fixes that too).

On CPU each core is made a device of its own: small matrices run faster on one thread each, on two
halves of a batch, than on two threads together. And rows are worked off in blocks whose activations
stay in a core's cache (a block of 8 instead of 512 rows made a training step 2.3 times as fast at d
= 64). An accelerator takes large blocks, and several seeds at once.
"""

import dataclasses
import os
import pathlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from compgen_jax.experiment.progress import say


def prepare() -> None:
  """Settings that must be made before jax first touches a device; what the user set stays.

  Every entrance calls it (commands, `run`, `load`, `export`); the first call counts.
  """
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser('~/.cache/compgen_jax'))
    compilation_cache.reset_cache()  # or a process that has compiled before would not look there
  # By default programs that compile within a second are not kept: here they are many, and add up to
  # several seconds.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  # By default an accelerator rounds the factors of float32 products: a GPU to TF32 (sampler and
  # learner were up to .04 nats apart on an H100), a TPU to bfloat16.
  if jax.config.jax_default_matmul_precision is None:
    jax.config.update('jax_default_matmul_precision', 'float32')
  flags = os.environ.get('XLA_FLAGS', '')
  is_chosen = 'xla_force_host_platform_device_count' in flags or jax.config.jax_num_cpu_devices > 0
  if is_chosen or cores() == 1:
    return
  try:
    jax.config.update('jax_num_cpu_devices', cores())
  except RuntimeError:  # jax is in use already, as after `jax.devices()` in a notebook
    if jax.default_backend() == 'cpu':
      what = f'jax was used before compgen_jax: {jax.device_count()} of {cores()} cores work'
      say(f'{what}; set jax.config.update("jax_num_cpu_devices", {cores()}) right after the import')


def has_device() -> bool:
  """Whether jax finds a device of a platform that it may use (JAX_PLATFORMS)."""
  try:
    return jax.device_count() > 0
  except Exception:  # jax raises AssertionError or RuntimeError, by version and platform
    return False


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Work:
  """How work is cut: see `learning.state.Setup` (`row_columns`, `microbatch_rows`, `rollout_rows`,
  `evaluation_rows`) and `Model` (`chunk`)."""

  row_columns: int
  microbatch_rows: tuple[int, ...]
  rollout_rows: int
  evaluation_rows: int
  chunk: int


def division_of_work(d_model: int, microbatch_rows: int) -> Work:
  """The division that suits this platform and model width; `microbatch_rows` of the user's, or
  0."""
  if jax.default_backend() == 'cpu':
    return Work(
      row_columns=144,
      microbatch_rows=(microbatch_rows or 3, 1),
      rollout_rows=max(16, d_model // 4),
      evaluation_rows=0,
      chunk=72,
    )
  return Work(
    row_columns=256,
    microbatch_rows=(microbatch_rows or 256,),
    rollout_rows=0,
    evaluation_rows=8192,
    chunk=0,
  )


def compiles_ahead() -> bool:
  """Whether programs are compiled in a thread beside. (Not on an accelerator, whose compiler
  measures kernels on the device that trains.)"""
  return jax.default_backend() == 'cpu' and cores() > 1


def is_crowded() -> bool:
  """Whether half of the memory maps that Linux gives a process are taken. (On CPU each training
  program takes a few thousand of 65,530, and LLVM ends a process that has none left.)"""
  try:
    most = int(pathlib.Path('/proc/sys/vm/max_map_count').read_text())
    taken = pathlib.Path('/proc/self/maps').read_bytes().count(b'\n')
  except OSError:  # not Linux
    return False
  return taken > most // 2


def make_room() -> None:
  """Drops the compiled programs where there are too many; what is needed again comes from disk."""
  if is_crowded():
    jax.clear_caches()


def side_by_side() -> bool:
  """Whether several seeds run side by side. A CPU runs them one after the other: side by side they
  leave its cache."""
  return jax.default_backend() != 'cpu'


def hardware() -> str:
  """One line on what this process runs on."""
  devices, n = jax.devices(), jax.process_count()
  each = f', each of {n} processes with' if n > 1 else ','
  kind = f'{devices[0].device_kind} ({jax.default_backend()})'
  return f'{len(devices)} x {kind}{each} {cores()} cores'
