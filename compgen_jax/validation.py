"""All checks of a config that single types can't make, and all that involve several fields."""

from compgen_jax import checks, validation_supports
from compgen_jax.checks import NAME, is_name, one_of, require
from compgen_jax.model.modules import DTYPES, POSITIONS
from compgen_jax.schema import Config, stage_order
from compgen_jax.task import modules
from compgen_jax.task.pools import POOLS
from compgen_jax.task.render import TRACES
from compgen_jax.task.routing import ROUTINGS
from compgen_jax.task.skills import SKILLS
from compgen_jax.task.vocab import TaskConfig

# Beyond these the size of an array is not a number that can be worked with.
LARGEST = {
  'd_model': 2**16,
  'n_layers': 2**10,
  'repeats': 2**6,
  'n_heads': 2**16,
  'd_ff': 2**20,
  'address_markers': 2**6,
}


def module_names(task: TaskConfig) -> None:
  """Raises ConfigError where a module is named that does not exist."""
  checks.names('task.skills', task.skills, modules.names(SKILLS))
  checks.names('task.routings', task.routings, modules.names(ROUTINGS))


def validate(config: Config) -> None:
  """Raises ConfigError where a value, or a combination of values, can't work."""
  is_line = config.experiment.isprintable() and 1 <= len(config.experiment) <= 200
  require(is_line, 'experiment', config.experiment, 'one line of 1 to 200 characters')
  _task(config)
  _model(config)
  _learning(config)
  validation_supports.validate(config)
  _stages(config)
  _eval(config)
  _contrasts(config)


def _task(config: Config) -> None:
  task, pools = config.task, config.pools
  one_of(task.trace, TRACES, 'task.trace')
  is_even = task.alphabet in range(6, 27, 2)
  require(is_even, 'task.alphabet', task.alphabet, 'an even number from 6 to 26')
  require(4 <= task.width <= 32, 'task.width', task.width, '4 to 32')
  legal = f'2 to task.width={task.width}'
  require(2 <= task.min_input <= task.width, 'task.min_input', task.min_input, legal)
  legal = f'task.min_input={task.min_input} to task.width={task.width}'
  require(task.min_input <= task.max_input <= task.width, 'task.max_input', task.max_input, legal)
  require(1 <= task.max_depth <= 64, 'task.max_depth', task.max_depth, '1 to 64')
  fewest = task.max_depth + 2
  legal = f'task.max_depth + 2 = {fewest} to 128'
  require(fewest <= task.n_labels <= 128, 'task.n_labels', task.n_labels, legal)
  require('previous' in task.routings, 'task.routings', task.routings, "a tuple with 'previous'")
  checks.at_least(0, pools__salt=pools.salt)
  for pool in POOLS:
    share = getattr(pools, pool)
    require(0.0 < share < 1.0, f'pools.{pool}', share, 'between 0 and 1')
  total = sum(getattr(pools, pool) for pool in POOLS)
  require(abs(total - 1.0) < 1e-6, 'pools', total, 'test + validation + sft + rl = 1')


def _model(config: Config) -> None:
  model = config.model
  one_of(model.positions, POSITIONS, 'model.positions')
  one_of(model.dtype, DTYPES, 'model.dtype')
  for name, most in LARGEST.items():
    value = getattr(model, name)
    require(1 <= value <= most, f'model.{name}', value, f'1 to {most}')
  require(0 <= model.conv_width <= 16, 'model.conv_width', model.conv_width, '0 to 16')
  legal = f'a divisor of model.d_model={model.d_model}'
  require(model.d_model % model.n_heads == 0, 'model.n_heads', model.n_heads, legal)
  can_rotate = model.positions != 'rope' or (model.d_model // model.n_heads) % 2 == 0
  legal = "for positions 'rope' such that d_model / n_heads is even"
  require(can_rotate, 'model.n_heads', model.n_heads, legal)


def _learning(config: Config) -> None:
  sections = {'optimizer': config.optimizer, 'run': config.run} | config.kinds
  for path, section in sections.items():
    for field, ok, legal in section.checks():
      require(ok, f'{path}.{field}', getattr(section, field), legal)


def _stages(config: Config) -> None:
  checks.at_least(0, seed=config.seed)
  for seed in config.seeds:
    require(seed >= 0, 'seeds', seed, '0 or more')
  checks.no_repetition('seeds', config.seeds, 'seeds')
  require(bool(config.stages), 'stages', {}, 'at least one stage')
  for name in config.stages:
    _stage(config, name)
  stage_order(config)


def _stage(config: Config, name: str) -> None:
  stage, path, kind = config.stages[name], f'stages.{name}', config.kind(name)
  require(is_name(name), 'stages', name, NAME)
  require(stage.steps >= 1, f'{path}.steps', stage.steps, '1 or more')
  others = ('', *(n for n in config.stages if n != name))
  is_known = all(stage.foreign_parent) if stage.foreign_parent else stage.init_from in others
  legal = f'{" | ".join(others)} | WORKDIR:STAGE'
  require(is_known, f'{path}.init_from', stage.init_from, legal)
  can_start = stage.init_from != '' or not kind.explores
  legal = f'a stage to start from ({stage.kind} needs one)'
  require(can_start, f'{path}.init_from', stage.init_from, legal)
  require(bool(stage.data), f'{path}.data', stage.data, f'some of {" | ".join(config.supports)}')
  for support in stage.data:
    one_of(support, config.supports, f'{path}.data')
    can_solve = not (kind.explores and config.supports[support].dry)
    legal = 'a support that is not dry (stages that explore need answers)'
    require(can_solve, f'{path}.data', support, legal)
  shares = stage.shares
  ok = len(shares) == len(stage.data) and min(shares) > 0 and abs(sum(shares) - 1) < 1e-6
  legal = f'{len(stage.data)} positive numbers that add up to 1'
  require(ok, f'{path}.shares', shares, legal)
  _settings(config, name)


def _settings(config: Config, name: str) -> None:
  """A stage's settings, and what follows from them: how a batch is divided over its supports."""
  stage, settings, path = config.stages[name], config.settings(name), f'stages.{name}'
  for field, ok, legal in settings.checks():
    require(ok, f'{path}.settings.{field}', getattr(settings, field), legal)
  rows, total = config.stage_rows(name), settings.batch_rows
  field = batch_field(config, name)
  whole = sum(rows) == total and min(rows) >= 1
  legal = f'shares that split {field}={total} into whole rows'
  require(whole, f'{path}.shares', stage.shares, legal)
  if config.kind(name).explores:
    n_samples, legal = total * settings.group, f'such that {field} x group is below 2^31'
    require(n_samples < 2**31, settings_field(config, name, 'group'), settings.group, legal)
    checks.names(settings_field(config, name, 'anchor'), settings.anchor, config.supports)
  for n in config.anchor_rows(name).values():
    even = n * len(settings.anchor) == settings.anchor_batch
    legal = f'a multiple of the number of anchors, {len(settings.anchor)}'
    field = settings_field(config, name, 'anchor_batch')
    require(even, field, settings.anchor_batch, legal)


def settings_field(config: Config, stage: str, field: str) -> str:
  """Where a stage's setting was given: in the stage itself or in its kind's section."""
  own = field in config.stages[stage].settings
  return f'stages.{stage}.settings.{field}' if own else f'{config.stages[stage].kind}.{field}'


def batch_field(config: Config, stage: str) -> str:
  """Where the number of problems in a stage's batch was given."""
  return settings_field(config, stage, config.settings(stage).batch_field)


def _eval(config: Config) -> None:
  ev = config.eval
  checks.at_least(2, eval__problems=ev.problems)
  legal = f'1 to eval.problems={ev.problems}'
  require(1 <= ev.pass_samples <= ev.problems, 'eval.pass_samples', ev.pass_samples, legal)
  checks.at_least(0, eval__every=ev.every, eval__curve_problems=ev.curve_problems)
  require(bool(ev.splits), 'eval.splits', {}, 'at least one split')
  for split, support in ev.splits.items():
    require(is_name(split), 'eval.splits', split, NAME)
    one_of(support, config.supports, f'eval.splits.{split}')
    has_answers = not config.supports[support].dry
    require(has_answers, f'eval.splits.{split}', support, 'a support that is not dry')
  for path, names in (('eval.trained', ev.trained), ('eval.curve', ev.curve)):
    for name in names:
      one_of(name, ev.splits, path)
  for k in ev.pass_k:
    legal = f'1 to eval.pass_samples={ev.pass_samples}'
    require(1 <= k <= ev.pass_samples, 'eval.pass_k', k, legal)


def _contrasts(config: Config) -> None:
  form = '(name, ((weight, arm, split, depth), ...))'
  for contrast in config.contrasts:
    ok = isinstance(contrast, tuple) and len(contrast) == 2 and isinstance(contrast[0], str)
    ok = ok and contrast[0].isprintable() and 1 <= len(contrast[0]) <= 200
    ok = ok and isinstance(contrast[1], tuple) and len(contrast[1]) > 0
    require(ok, 'contrasts', contrast, form)
    for term in contrast[1]:
      path = f'contrasts[{contrast[0]}]'
      ok = isinstance(term, tuple) and len(term) == 4
      require(ok, path, term, '(weight, arm, split, depth)')
      weight, arm, split, depth = term
      is_number = type(weight) in (int, float) and abs(weight) <= 1e6
      require(is_number, path, weight, 'a number from -1e6 to 1e6 as weight')
      one_of(arm, config.stages, path)
      one_of(split, config.eval.splits, path)
      one_of(depth, (0, *config.supports[config.eval.splits[split]].depths), path)
  checks.no_repetition('contrasts', tuple(name for name, _ in config.contrasts), 'names')


def devices(config: Config, n_devices: int, use_all: bool = False) -> int:
  """The number of devices that batches and replicates are split over (each is `mesh.model` ones),
  which with `use_all` has to be all there are; ConfigError where there are fewer, or where
  something can't be split evenly over them."""
  mesh, n_seeds, problems = config.mesh, len(config.all_seeds), config.eval.problems
  there = f'at most the {n_devices} devices there are'
  _split_model(config, n_devices, use_all)
  n_devices //= mesh.model
  ok = 1 <= mesh.replicate <= n_devices and n_seeds % mesh.replicate == 0
  legal = f'a divisor of the number of seeds, {n_seeds}, and {there}'
  require(ok, 'mesh.replicate', mesh.replicate, legal)
  most = n_devices // mesh.replicate
  n, least = most if mesh.data == -1 else mesh.data, most if use_all else 1
  others = f'mesh.replicate={mesh.replicate}'
  others += f' and mesh.model={mesh.model}' if mesh.model > 1 else ''
  legal = f'-1 (the rest) or {least} to {most}, with {others} {there}'
  require(least <= n <= most, 'mesh.data', n, legal)
  legal = f'0, or a multiple of {2 * n} (two parts or more on each device)'
  is_even = mesh.parts >= 0 and mesh.parts % (2 * n) == 0
  require(is_even, 'mesh.parts', mesh.parts, legal)
  shares, what = (mesh.parts, 'mesh.parts') if mesh.parts else (n, 'devices')
  for name, stage in config.stages.items():
    field, total = batch_field(config, name), config.settings(name).batch_rows
    for support, rows in zip(stage.data, config.stage_rows(name)):
      legal = (
        f'such that stages.{name} gives {support} a multiple of {shares} rows ({what}), not {rows}'
      )
      require(rows % shares == 0, field, total, legal)
    for support, rows in config.anchor_rows(name).items():
      field = settings_field(config, name, 'anchor_batch')
      legal = f'such that anchor {support} gets a multiple of {shares} rows ({what}), not {rows}'
      require(rows % shares == 0, field, config.settings(name).anchor_batch, legal)
  n *= mesh.replicate
  require(problems % n == 0, 'eval.problems', problems, f'a multiple of {n} (devices)')
  return n


def _split_model(config: Config, n_devices: int, use_all: bool) -> None:
  """Raises ConfigError where parameters can't be split over `mesh.model` devices."""
  n, model, parts = config.mesh.model, config.model, config.mesh.parts
  legal = f'1 with mesh.parts={parts} (bits would depend on it)'
  require(n == 1 or not parts, 'mesh.model', n, legal)
  legal = f'1 to the {n_devices} devices there are, a divisor of model.d_model={model.d_model}'
  ok = 1 <= n <= n_devices and model.d_model % n == 0 and model.d_ff % n == 0
  require(ok, 'mesh.model', n, f'{legal} and of model.d_ff={model.d_ff}')
  legal = f'a divisor of the {n_devices} devices there are (each process uses all of its own)'
  require(not use_all or n_devices % n == 0, 'mesh.model', n, legal)
