"""How much memory a run will take, known before anything compiles.

An estimate from shapes: good to a factor of two or so (tests/test_memory.py measures one), which is
what it takes to say in one line what would end in an out-of-memory error minutes later.
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax

from compgen_jax import validation
from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import platform, programs
from compgen_jax.experiment.evaluate import SLACK
from compgen_jax.learning.setup import Setup
from compgen_jax.learning.sharding import bytes_of_device
from compgen_jax.model.kernels import ceil_div
from compgen_jax.model.modules import DTYPES
from compgen_jax.task.support import step_cap

FLOAT = 4  # bytes of a float32 or an int32
ROW_ARRAYS = 16  # arrays that a batch holds of each of its columns, before and after packing
UNITS = ('B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB', 'ZB', 'YB')


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device.

  `parameters`: those of the stage, of its parent, and of finished stages that others start from.
  `gradients`: their sum, those of a microbatch, and the update. `activations`: what a microbatch
  keeps for its gradient. `cache`: the decode cache. `data`: problems, traces and what is computed
  of each of their tokens.
  """

  parameters: int
  optimizer: int
  gradients: int
  activations: int
  cache: int
  data: int

  @property
  def total(self) -> int:
    return sum(dataclasses.astuple(self))

  def __str__(self) -> str:
    names = {'cache': 'decode cache'}
    parts = [f'{names.get(k, k)} {size(v)}' for k, v in dataclasses.asdict(self).items()]
    return f'{size(self.total)} ({", ".join(parts)})'


def size(n: float) -> str:
  """Bytes for a person: three digits and a unit."""
  unit = 0
  while n >= 999.5 and unit < len(UNITS) - 1:
    n, unit = n / 1000, unit + 1
  return f'{n:.3g} {UNITS[unit]}'


def of_run(config: Config, base: Setup) -> dict[str, Memory]:
  """The memory that each stage takes on one device, its evaluation included; compiles nothing."""
  params = jax.eval_shape(lambda: base.model.init_params(jax.random.key(0)))
  return {name: of_stage(config, base, name, params) for name in config.stage_order}


def of_stage(config: Config, base: Setup, name: str, params: Any) -> Memory:
  """The same of one stage; `params`: the shapes of the model's parameters."""
  side_by_side = len(config.all_seeds) // base.devices.groups if platform.side_by_side() else 1
  stage = programs.build(name, config, base, pathlib.Path())
  n_split = base.devices.model
  n_params = bytes_of_device(params, n_split)
  kept = len({s.init_from for s in config.stages.values()} - {''})
  training, evaluating = _training(config, base, name), _evaluating(config, base)
  return Memory(
    parameters=side_by_side * n_params * (2 + kept),
    optimizer=side_by_side * bytes_of_device(jax.eval_shape(stage.setup.tx.init, params), n_split),
    gradients=side_by_side * n_params * 3,
    activations=side_by_side * training.activations,
    cache=max(side_by_side * training.cache, evaluating.cache),
    data=side_by_side * training.data + evaluating.data,
  )


@dataclasses.dataclass(frozen=True)
class _Rows:
  """What rows of text take, in bytes on one device."""

  activations: int
  cache: int
  data: int


def _training(config: Config, base: Setup, name: str) -> _Rows:
  """Of one update's batch. (An anchor's is smaller, and comes after it.)"""
  settings, stage = config.settings(name), config.stages[name]
  group = settings.group if config.kind(name).explores else 1
  n_rows = settings.batch_rows * group
  deepest = max(step_cap(config.supports[support]) for support in stage.data)
  n_prompt, n_trace = config.task.prompt_width(deepest), config.task.trace_width(deepest)
  here = ceil_div(n_rows, base.devices.n // base.devices.groups)
  at_once = min(base.rollout_rows or here, here)
  return _Rows(
    activations=_activations(base, here, n_prompt + n_trace),
    cache=_cache(base, at_once, n_prompt + n_trace) if config.kind(name).explores else 0,
    # Every device packs all examples, and keeps its own rows.
    data=n_rows * (n_prompt + n_trace) * FLOAT * ROW_ARRAYS,
  )


def _evaluating(config: Config, base: Setup) -> _Rows:
  """Of the problems of all splits and their traces, and of the rows written at a time."""
  supports = [config.supports[name] for name in config.eval.splits.values()]
  deepest = max(map(step_cap, supports))
  n_prompt, n_trace = config.task.prompt_width(deepest), config.task.trace_width(deepest) + SLACK
  n_cells = sum(len(support.depths) for support in supports)
  n_rows = n_cells * config.eval.problems
  here = ceil_div(base.rows_evaluated(config.eval.problems, n_cells), base.devices.n)
  at_once = min(base.rollout_rows or here, here)
  values = (deepest + 2) * (config.task.width + 1)
  problems = n_rows * (n_prompt + n_trace + values) * FLOAT
  traces = n_rows * n_trace * FLOAT * ROW_ARRAYS
  return _Rows(0, _cache(base, at_once, n_prompt + n_trace), problems + traces)


def _activations(base: Setup, n_rows: int, n_columns: int) -> int:
  """What the gradient of one microbatch of packed rows needs: the blocks' intermediate results,
  attention, and logits."""
  model, config = base.model, base.model.config
  width = n_columns * max(1, round(base.row_columns / n_columns))
  at_once = min(base.microbatch_rows[0] if base.microbatch_rows else n_rows, n_rows)
  attended = sum(queries * keys for queries, keys in model.attended(width))
  itemsize = DTYPES[config.dtype].dtype.itemsize
  of_token = 10 * config.d_model + 2 * config.d_ff
  of_block = width * of_token * itemsize + 2 * config.n_heads * attended * FLOAT
  if config.remat:
    of_blocks = of_block + config.depth * width * config.d_model * itemsize
  else:
    of_blocks = config.depth * of_block
  return at_once * (of_blocks + 3 * width * model.vocab_size * FLOAT)


def _cache(base: Setup, n_rows: int, n_columns: int) -> int:
  """Keys and values of the rows that are decoded at a time, before and after a step.

  (Where parameters are split the compiler splits them too, by whole heads.)
  """
  config, n = base.model.config, base.devices.model
  itemsize = DTYPES[config.dtype].dtype.itemsize
  width = config.d_model // (n if config.n_heads % n == 0 else 1)
  return 2 * n_rows * n_columns * config.depth * 2 * width * itemsize


# What there is ------------------------------------------------------------------------------------


def of_device(n_devices: int) -> int | None:
  """Bytes that each of the devices of a run may use: of an accelerator its own memory, on a CPU its
  share of the machine's. None where it can't be told."""
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    return of_machine() // min(n_devices, jax.local_device_count())
  return (device.memory_stats() or {}).get('bytes_limit')


def of_machine() -> int:
  """Bytes of main memory that this process may use: the machine's, or its container's share."""
  limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  for path in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'):
    if os.path.exists(path):
      text = pathlib.Path(path).read_text().strip()
      limits += [int(text)] if text.isdecimal() else []
  return min(limits)


# What can be done ---------------------------------------------------------------------------------


def require(config: Config, base: Setup) -> str:
  """One line that says what the run will take.

  Raises:
    ConfigError: that is more than there is; names the fields that decide it.
  """
  n = base.devices.n * base.devices.model
  found, limit = of_run(config, base), of_device(n)
  name, largest = max(found.items(), key=lambda item: item[1].total)
  of_limit = f' of {size(limit)}' if limit else ''
  devices = 'the device' if n == 1 else f'each of {n} devices'
  if limit and largest.total > limit:
    parts = dataclasses.asdict(largest)
    what = f'{_fields(config, name, max(parts, key=parts.get))}: stage {name} needs about {largest}'
    raise ConfigError(f'{what}{of_limit} on {devices}; legal is what fits, so lower these')
  return f'memory on {devices}, estimated: {largest}{of_limit}'


def _fields(config: Config, stage: str, part: str) -> str:
  """The fields that decide a part of the memory, with their values."""
  model, settings = config.model, config.settings(stage)
  of_model = f'model.d_model={model.d_model}, model.d_ff={model.d_ff}, n_layers={model.n_layers}'
  if part in ('parameters', 'optimizer', 'gradients'):
    return of_model
  if part == 'activations':
    of_run = f'model.repeats={model.repeats}, run.microbatch_rows={config.run.microbatch_rows}'
    return f'{of_model}, {of_run}'
  names = (settings.batch_field, *(['group'] if config.kind(stage).explores else []))
  of_batch = [
    f'{validation.settings_field(config, stage, name)}={getattr(settings, name)}' for name in names
  ]
  return ', '.join([*of_batch, f'eval.problems={config.eval.problems}'])
