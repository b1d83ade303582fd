"""ConfigDict -> frozen, typed, validated `Config`. All checks across fields are here.

Every mistake is a `ConfigError` of one line that names the field, the value and the legal values, raised before
anything compiles.
"""

import dataclasses
import difflib
import math
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict

from compgen_jax.learning.losses import AVERAGES, ESTIMATORS
from compgen_jax.learning.optimizer import OPTIMIZERS, SCHEDULES, OptimizerConfig
from compgen_jax.learning.policy_gradient import RLConfig
from compgen_jax.learning.rejection import SAMPLERS, RFTConfig
from compgen_jax.learning.sft import SFTConfig
from compgen_jax.model.transformer import DTYPES, POSITIONS, ModelConfig
from compgen_jax.task.render import TRACES
from compgen_jax.task.routing import ROUTINGS
from compgen_jax.task.skills import SKILLS
from compgen_jax.task.support import POOLS, PoolConfig, SupportConfig
from compgen_jax.task.vocab import TaskConfig

KINDS = ('sft', 'rl', 'rft')


class ConfigError(ValueError):
  """A user's mistake, in one line."""


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """One entry of config section `stages`."""

  kind: str
  init_from: str
  steps: int
  data: tuple[str, ...]
  shares: tuple[float, ...]
  lr_scale: float


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Config section `eval`."""

  problems: int
  every: int
  curve: tuple[str, ...]
  pass_k: tuple[int, ...]
  pass_samples: int
  splits: dict[str, str]
  trained: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Config section `run`."""

  steps_per_call: int
  checkpoint_every: int
  data_parallel: int
  block_rows: int


@dataclasses.dataclass(frozen=True)
class Config:
  """The whole experiment; see configs/default.py for what each field means."""

  experiment: str
  seed: int
  seeds: tuple[int, ...]
  task: TaskConfig
  pools: PoolConfig
  supports: dict[str, SupportConfig]
  model: ModelConfig
  optimizer: OptimizerConfig
  sft: SFTConfig
  rl: RLConfig
  rft: RFTConfig
  stages: dict[str, StageConfig]
  eval: EvalConfig
  contrasts: tuple
  run: RunConfig

  @property
  def all_seeds(self) -> tuple[int, ...]:
    """The seeds to run: `seeds`, or the one `seed`."""
    return self.seeds or (self.seed,)

  @property
  def ordered_splits(self) -> tuple[str, ...]:
    """The evaluation splits from shallow to deep, trained ones first (a ConfigDict forgets the order it was given)."""
    key = lambda split: (
      max(self.supports[self.eval.splits[split]].depths),
      split not in self.eval.trained,
      split,
    )
    return tuple(sorted(self.eval.splits, key=key))

  def batch_rows(self, kind: str) -> int:
    """Problems in a batch of a stage of that kind."""
    return {'sft': self.sft.batch, 'rl': self.rl.prompts, 'rft': self.rft.prompts}[kind]

  def stage_rows(self, name: str) -> tuple[int, ...]:
    """Problems of each of a stage's supports in a batch."""
    stage = self.stages[name]
    return tuple(round(share * self.batch_rows(stage.kind)) for share in stage.shares)


# Types --------------------------------------------------------------------------------------------------------


def _typed(value: Any, kind: Any, path: str) -> Any:
  """`value` as `kind`, or a ConfigError that names `path`."""
  if dataclasses.is_dataclass(kind):
    return _section(value, kind, path)
  origin = get_origin(kind)
  if origin is dict:
    if not hasattr(value, 'items'):
      raise ConfigError(f'{path}={value!r}: a section with named entries is wanted')
    return {str(k): _typed(v, get_args(kind)[1], f'{path}.{k}') for k, v in value.items()}
  if kind is tuple:  # contrasts: nested, checked below
    return _nested_tuple(value)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f'{path}={value!r}: a tuple of {get_args(kind)[0].__name__} is wanted')
    return tuple(_typed(v, get_args(kind)[0], path) for v in value)
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if kind is float and is_number:
    value = float(value)
  if type(value) is not kind:
    raise ConfigError(f'{path}={value!r}: {kind.__name__} is wanted, not {type(value).__name__}')
  if kind is float and not math.isfinite(value):
    raise ConfigError(f'{path}={value!r}: a finite number is wanted')
  if kind is int and not -(2**31) <= value < 2**31:
    raise ConfigError(f'{path}={value!r}: a whole number of 32 bits is wanted')
  return value


def _nested_tuple(value: Any) -> Any:
  return tuple(_nested_tuple(v) for v in value) if isinstance(value, (tuple, list)) else value


def _section(value: Any, cls: type, path: str) -> Any:
  if not hasattr(value, 'items'):
    raise ConfigError(
      f'{path}={value!r}: a section with the fields of configs/default.py is wanted'
    )
  fields = {f.name: f.type for f in dataclasses.fields(cls)}
  prefix = f'{path}.' if path else ''
  for name in value:
    if name not in fields:
      near = difflib.get_close_matches(name, fields, 1)
      raise ConfigError(
        f'{prefix}{name}: no such field; {"did you mean " + near[0] + "? " if near else ""}legal: {", ".join(fields)}'
      )
  for name in fields:
    if name not in value:
      raise ConfigError(f'{prefix}{name}: missing; start from configs/default.py')
  return cls(**{name: _typed(value[name], kind, prefix + name) for name, kind in fields.items()})


def from_config_dict(config: ConfigDict | dict) -> Config:
  """The typed and validated config.

  Raises:
    ConfigError: one line naming the field, the value and the legal values.
  """
  typed = _section(config, Config, '')
  validate(typed)
  return typed


def to_dict(config: Config) -> dict:
  """Plain nested dicts, lists and scalars, as written to config.json; `from_config_dict(to_dict(c)) == c`."""
  plain = lambda v: (
      {f.name: plain(getattr(v, f.name)) for f in dataclasses.fields(v)} if dataclasses.is_dataclass(v)
      else {k: plain(x) for k, x in v.items()} if isinstance(v, dict)
      else [plain(x) for x in v] if isinstance(v, tuple) else v
  )  # fmt: skip
  return plain(config)


# Values -------------------------------------------------------------------------------------------------------


def _require(ok: bool, path: str, value: Any, legal: str) -> None:
  if not ok:
    raise ConfigError(f'{path}={value!r}: legal is {legal}')


def _one_of(value: str, legal, path: str) -> None:
  _require(value in legal, path, value, ' | '.join(str(x) for x in legal))


def _at_least(low: float, **fields) -> None:
  for path, value in fields.items():
    _require(value >= low, path.replace('__', '.'), value, f'{low} or more')


def validate(config: Config) -> None:
  """Raises ConfigError where a value, or a combination of values, can't work."""
  _validate_task(config)
  _validate_model(config)
  _validate_learning(config)
  _validate_supports(config)
  _validate_stages(config)
  _validate_eval(config)
  _validate_contrasts(config)


def _validate_task(config: Config) -> None:
  task, pools = config.task, config.pools
  _one_of(task.trace, TRACES, 'task.trace')
  _require(
    task.alphabet in range(6, 27, 2), 'task.alphabet', task.alphabet, 'an even number from 6 to 26'
  )
  _require(4 <= task.width <= 32, 'task.width', task.width, '4 to 32')
  _require(
    2 <= task.min_input <= task.width,
    'task.min_input',
    task.min_input,
    f'2 to task.width={task.width}',
  )
  _require(
      task.min_input <= task.max_input <= task.width, 'task.max_input', task.max_input,
      f'task.min_input={task.min_input} to task.width={task.width}',
  )  # fmt: skip
  _require(1 <= task.max_depth <= 64, 'task.max_depth', task.max_depth, '1 to 64')
  _require(
      task.max_depth + 2 <= task.n_labels <= 128, 'task.n_labels', task.n_labels,
      f'task.max_depth + 2 = {task.max_depth + 2} to 128',
  )  # fmt: skip
  for path, names, registry in (
    ('task.skills', task.skills, SKILLS),
    ('task.routings', task.routings, ROUTINGS),
  ):
    _names(path, names, [entry.__name__ for entry in registry])
  _require(
    not task.routings or 'previous' in task.routings,
    'task.routings',
    task.routings,
    "a tuple with 'previous'",
  )
  _at_least(0, pools__salt=pools.salt)
  for pool in POOLS:
    _require(
      0.0 < getattr(pools, pool) < 1.0, f'pools.{pool}', getattr(pools, pool), 'between 0 and 1'
    )
  total = sum(getattr(pools, pool) for pool in POOLS)
  _require(abs(total - 1.0) < 1e-6, 'pools', total, 'test + validation + sft + rl = 1')


def _names(path: str, names: tuple[str, ...], legal) -> None:
  for name in names:
    _require(name in legal, path, name, ' | '.join(legal))
  _require(len(set(names)) == len(names), path, names, 'names without repetition')


def _validate_model(config: Config) -> None:
  model = config.model
  _one_of(model.positions, POSITIONS, 'model.positions')
  _one_of(model.dtype, DTYPES, 'model.dtype')
  _at_least(
    1,
    model__d_model=model.d_model,
    model__n_layers=model.n_layers,
    model__n_heads=model.n_heads,
    model__d_ff=model.d_ff,
    model__address_markers=model.address_markers,
  )
  _require(0 <= model.conv_width <= 16, 'model.conv_width', model.conv_width, '0 to 16')
  _require(
    model.d_model % model.n_heads == 0,
    'model.n_heads',
    model.n_heads,
    f'a divisor of model.d_model={model.d_model}',
  )
  even = model.positions != 'rope' or (model.d_model // model.n_heads) % 2 == 0
  _require(
    even, 'model.n_heads', model.n_heads, "for positions 'rope' such that d_model / n_heads is even"
  )


def _validate_learning(config: Config) -> None:
  optimizer, rl = config.optimizer, config.rl
  for name in ('b1', 'b2'):
    _require(
      0 <= getattr(optimizer, name) < 1,
      f'optimizer.{name}',
      getattr(optimizer, name),
      '0 to below 1',
    )
  _require(optimizer.eps > 0, 'optimizer.eps', optimizer.eps, 'above 0')
  _require(optimizer.clip_norm > 0, 'optimizer.clip_norm', optimizer.clip_norm, 'above 0')
  _require(optimizer.muon_scale > 0, 'optimizer.muon_scale', optimizer.muon_scale, 'above 0')
  _at_least(0, optimizer__weight_decay=optimizer.weight_decay)
  for kind in KINDS:
    section = getattr(config, kind)
    _one_of(section.schedule, SCHEDULES, f'{kind}.schedule')
    _one_of(section.optimizer, OPTIMIZERS, f'{kind}.optimizer')
    _require(0 < section.lr <= 1, f'{kind}.lr', section.lr, 'above 0, at most 1')
    _require(section.warmup >= 0, f'{kind}.warmup', section.warmup, '0 or more')
    _require(
      config.batch_rows(kind) >= 1,
      f'{kind}.{"batch" if kind == "sft" else "prompts"}',
      config.batch_rows(kind),
      '1 or more',
    )
    if kind != 'sft':
      _require(section.temperature > 0, f'{kind}.temperature', section.temperature, 'above 0')
      _require(
        section.group >= (2 if kind == 'rl' else 1),
        f'{kind}.group',
        section.group,
        '2 or more (rft: 1)',
      )
  _one_of(rl.estimator, ESTIMATORS, 'rl.estimator')
  _one_of(rl.average, AVERAGES, 'rl.average')
  _one_of(config.rft.sampler, SAMPLERS, 'rft.sampler')
  _at_least(1, rl__epochs=rl.epochs)
  _at_least(0, rl__kl=rl.kl, rl__entropy=rl.entropy, rl__clip_high=rl.clip_high)
  _require(0 <= rl.clip_low <= 1, 'rl.clip_low', rl.clip_low, '0 to 1')


def _validate_supports(config: Config) -> None:
  skills = [f.__name__ for f in config.task.skill_inventory]
  routings = [r.__name__ for r in config.task.routing_inventory]
  _require(bool(config.supports), 'supports', {}, 'at least one support')
  for name, support in config.supports.items():
    path = f'supports.{name}'
    _one_of(support.pool, POOLS, f'{path}.pool')
    _require(bool(support.depths), f'{path}.depths', support.depths, 'at least one depth')
    for depth in support.depths:
      _require(
        1 <= depth <= config.task.max_depth,
        f'{path}.depths',
        depth,
        f'1 to task.max_depth={config.task.max_depth}',
      )
    _require(
      len(set(support.depths)) == len(support.depths),
      f'{path}.depths',
      support.depths,
      'depths without repetition',
    )
    room = config.task.max_depth - max(support.depths)
    legal = f'0 to task.max_depth - max(depths) = {room}'
    _require(0 <= support.prefix <= room, f'{path}.prefix', support.prefix, legal)
    legal = '0 (where all steps are dry)'
    _require(not (support.dry and support.prefix), f'{path}.prefix', support.prefix, legal)
    few = support.compositions == 0 or support.compositions >= len(support.depths)
    _require(
      few and 0 <= support.compositions <= 100_000,
      f'{path}.compositions',
      support.compositions,
      '0, or one per depth to 100000',
    )
    for kind, legal in (('skills', skills), ('routings', routings)):
      without, wanted = getattr(support, f'without_{kind}'), getattr(support, f'with_{kind}')
      _names(f'{path}.without_{kind}', without, legal)
      _names(f'{path}.with_{kind}', wanted, legal)
      _require(
        len(without) < len(legal), f'{path}.without_{kind}', without, f'fewer than all {len(legal)}'
      )
      both = set(without) & set(wanted)
      _require(not both, f'{path}.with_{kind}', wanted, f'names that without_{kind} does not hold')


def _validate_stages(config: Config) -> None:
  _at_least(0, seed=config.seed)
  for seed in config.seeds:
    _require(seed >= 0, 'seeds', seed, '0 or more')
  _require(
    len(set(config.seeds)) == len(config.seeds), 'seeds', config.seeds, 'seeds without repetition'
  )
  _require(bool(config.stages), 'stages', {}, 'at least one stage')
  for name, stage in config.stages.items():
    path = f'stages.{name}'
    _require(name.isidentifier(), path, name, 'letters, digits and underscores')
    _one_of(stage.kind, KINDS, f'{path}.kind')
    _require(stage.steps >= 1, f'{path}.steps', stage.steps, '1 or more')
    _require(0 < stage.lr_scale <= 100, f'{path}.lr_scale', stage.lr_scale, 'above 0, at most 100')
    _one_of(stage.init_from, ('', *(n for n in config.stages if n != name)), f'{path}.init_from')
    _require(bool(stage.data), f'{path}.data', stage.data, f'some of {" | ".join(config.supports)}')
    for support in stage.data:
      _one_of(support, config.supports, f'{path}.data')
      solvable = stage.kind == 'sft' or not config.supports[support].dry
      _require(
        solvable,
        f'{path}.data',
        support,
        'a support that is not dry (only sft stages use dry ones)',
      )
    shares_ok = (
      len(stage.shares) == len(stage.data)
      and all(s > 0 for s in stage.shares)
      and abs(sum(stage.shares) - 1) < 1e-6
    )
    _require(
      shares_ok,
      f'{path}.shares',
      stage.shares,
      f'{len(stage.data)} positive numbers that add up to 1',
    )
    rows, total = config.stage_rows(name), config.batch_rows(stage.kind)
    field = f'{stage.kind}.{"batch" if stage.kind == "sft" else "prompts"}'
    _require(
      sum(rows) == total and min(rows) >= 1,
      f'{path}.shares',
      stage.shares,
      f'shares that split {field}={total} into whole rows',
    )
    _require(
      stage.init_from != '' or stage.kind == 'sft',
      f'{path}.init_from',
      '',
      f'a stage to start from ({stage.kind} needs one)',
    )
  stage_order(config)


def stage_order(config: Config) -> tuple[str, ...]:
  """Stage names such that every stage comes after the one it starts from.

  Raises:
    ConfigError: the stages start from one another in a circle.
  """
  order: list[str] = []
  while len(order) < len(config.stages):
    ready = [
      n
      for n, s in config.stages.items()
      if n not in order and (s.init_from == '' or s.init_from in order)
    ]
    if not ready:
      stuck = sorted(set(config.stages) - set(order))
      raise ConfigError(
        f'stages.{stuck[0]}.init_from={config.stages[stuck[0]].init_from!r}: a circle through {", ".join(stuck)}'
      )
    order += ready
  return tuple(order)


def _validate_eval(config: Config) -> None:
  ev, run = config.eval, config.run
  _at_least(2, eval__problems=ev.problems)
  _require(
    1 <= ev.pass_samples <= ev.problems,
    'eval.pass_samples',
    ev.pass_samples,
    f'1 to eval.problems={ev.problems}',
  )
  _at_least(
    0, eval__every=ev.every, run__data_parallel=run.data_parallel, run__block_rows=run.block_rows
  )
  _at_least(1, run__steps_per_call=run.steps_per_call, run__checkpoint_every=run.checkpoint_every)
  _require(bool(ev.splits), 'eval.splits', {}, 'at least one split')
  for split, support in ev.splits.items():
    _require(split.isidentifier(), 'eval.splits', split, 'letters, digits and underscores')
    _one_of(support, config.supports, f'eval.splits.{split}')
    _require(
      not config.supports[support].dry, f'eval.splits.{split}', support, 'a support that is not dry'
    )
  for path, names in (('eval.trained', ev.trained), ('eval.curve', ev.curve)):
    for name in names:
      _one_of(name, ev.splits, path)
  for k in ev.pass_k:
    _require(
      1 <= k <= ev.pass_samples, 'eval.pass_k', k, f'1 to eval.pass_samples={ev.pass_samples}'
    )


def _validate_contrasts(config: Config) -> None:
  for contrast in config.contrasts:
    ok = (
      isinstance(contrast, tuple)
      and len(contrast) == 2
      and isinstance(contrast[0], str)
      and isinstance(contrast[1], tuple)
    )
    _require(ok, 'contrasts', contrast, '(name, ((weight, arm, split, depth), ...))')
    for term in contrast[1]:
      _require(
        isinstance(term, tuple) and len(term) == 4,
        f'contrasts[{contrast[0]}]',
        term,
        '(weight, arm, split, depth)',
      )
      weight, arm, split, depth = term
      _require(
        type(weight) in (int, float), f'contrasts[{contrast[0]}]', weight, 'a number as weight'
      )
      _one_of(arm, config.stages, f'contrasts[{contrast[0]}]')
      _one_of(split, config.eval.splits, f'contrasts[{contrast[0]}]')
      depths = config.supports[config.eval.splits[split]].depths
      _one_of(depth, (0, *depths), f'contrasts[{contrast[0]}]')


def validate_devices(config: Config, n_devices: int) -> int:
  """The number of devices that share a batch; ConfigError where batches can't be split evenly over them."""
  n = config.run.data_parallel or n_devices
  _require(n <= n_devices, 'run.data_parallel', n, f'at most the {n_devices} devices there are')
  for name, stage in config.stages.items():
    for support, rows in zip(stage.data, config.stage_rows(name)):
      field = f'{stage.kind}.{"batch" if stage.kind == "sft" else "prompts"}'
      _require(rows % n == 0, field, config.batch_rows(stage.kind),
               f'such that stages.{name} gives {support} a multiple of {n} rows (devices), not {rows}')  # fmt: skip
  _require(
    config.eval.problems % n == 0,
    'eval.problems',
    config.eval.problems,
    f'a multiple of {n} (devices)',
  )
  return n
