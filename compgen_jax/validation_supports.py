"""Checks of the config section `supports`."""

from compgen_jax import checks
from compgen_jax.checks import NAME, is_name, one_of, require
from compgen_jax.schema import Config
from compgen_jax.task.pools import POOLS


def validate(config: Config) -> None:
  """Raises ConfigError where a support, or what it asks of others, can't work."""
  deepest = config.task.max_depth
  require(bool(config.supports), 'supports', {}, 'at least one support')
  for name, support in config.supports.items():
    path = f'supports.{name}'
    require(is_name(name), 'supports', name, NAME)
    one_of(support.pool, POOLS, f'{path}.pool')
    require(bool(support.depths), f'{path}.depths', support.depths, 'at least one depth')
    legal = f'1 to task.max_depth={deepest}'
    for depth in support.depths:
      require(1 <= depth <= deepest, f'{path}.depths', depth, legal)
    checks.no_repetition(f'{path}.depths', support.depths, 'depths')
    room = 0 if support.dry else deepest - max(support.depths)
    legal = f'0 to {room}: task.max_depth minus the deepest of depths, 0 in a dry support'
    require(0 <= support.prefix <= room, f'{path}.prefix', support.prefix, legal)
    n, most = support.compositions, f'{path}.compositions={support.compositions}'
    ok = n == 0 or len(support.depths) <= n <= 100_000
    require(ok, f'{path}.compositions', n, '0, or one per depth to 100000')
    require(0 <= support.covers <= n, f'{path}.covers', support.covers, f'0 to {most}')
    legal = f'False beside compositions={n}; of 1 to 4096 compositions, True as well'
    require(not support.balanced or 0 < n <= 4096, f'{path}.balanced', support.balanced, legal)
    ok = support.subset == 0 or len(support.depths) <= support.subset <= n
    require(ok, f'{path}.subset', support.subset, f'0, or one per depth to {most}')
    _overlap(config, name)
    for kind, legal_names in (('skills', config.task.skills), ('routings', config.task.routings)):
      without, wanted = getattr(support, f'without_{kind}'), getattr(support, f'with_{kind}')
      checks.names(f'{path}.without_{kind}', without, legal_names)
      checks.names(f'{path}.with_{kind}', wanted, legal_names)
      legal = f'fewer than all {len(legal_names)}'
      require(len(without) < len(legal_names), f'{path}.without_{kind}', without, legal)
      both = set(without) & set(wanted)
      require(not both, f'{path}.with_{kind}', wanted, f'names that without_{kind} does not hold')
    every_pair = {f'{r} {s}' for r in config.task.routings for s in config.task.skills}
    for field in ('without_pairs', 'with_pairs'):
      for pair in getattr(support, field):
        legal = "a routing mechanism and a skill, as 'merge reverse'"
        require(pair in every_pair, f'{path}.{field}', pair, legal)
      checks.no_repetition(f'{path}.{field}', getattr(support, field), 'pairs')


def _overlap(config: Config, name: str) -> None:
  """What a support takes of another: a share of a finite one, whose own is whole."""
  support, path = config.supports[name], f'supports.{name}.overlap'
  if not support.overlap:
    return
  finite = [n for n, s in config.supports.items() if n != name and s.compositions and not s.overlap]
  legal = f'(support, share), share 0 to 1, support one of {" | ".join(finite)}'
  match support.overlap:
    case (str(other), int() | float() as share) if other in finite and 0 <= share <= 1:
      pass
    case _:
      require(False, path, support.overlap, legal)
  n = support.compositions
  require(n > 0, f'supports.{name}.compositions', n, 'a number above 0 beside overlap')
  require(not support.subset, f'supports.{name}.subset', support.subset, '0 beside overlap')
