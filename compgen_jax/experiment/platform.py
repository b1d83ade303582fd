"""Every choice that depends on the hardware, in one place. None of them changes what is computed, only how fast.

On CPU each core is made a device of its own: small matrices run faster on one thread each, on two halves of a batch, than
on two threads together. And rows are worked off in blocks whose activations stay in a core's cache (a block of 8 instead of
512 rows made a training step 2.3 times as fast at d = 64). An accelerator takes all rows at once.
"""

import os

import jax

CPU_BLOCK_ROWS = 8
CPU_ROLLOUT_ROWS = 128


def prepare() -> None:
  """Settings that must be made before jax first touches a device; what the user set stays."""
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser('~/.cache/compgen_jax'))
  flags = os.environ.get('XLA_FLAGS', '')
  if 'xla_force_host_platform_device_count' not in flags and cores() > 1:
    jax.config.update('jax_num_cpu_devices', cores())


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def block_rows(configured: int) -> int:
  """Rows whose gradient is computed at a time; 0 is all."""
  return configured or (CPU_BLOCK_ROWS if jax.default_backend() == 'cpu' else 0)


def rollout_rows() -> int:
  """Rows whose traces are sampled at a time; 0 is all."""
  return CPU_ROLLOUT_ROWS if jax.default_backend() == 'cpu' else 0


def hardware() -> str:
  """One line on what this process runs on."""
  devices = jax.devices()
  return f'{len(devices)} x {devices[0].device_kind} ({jax.default_backend()}), {cores()} cores'
