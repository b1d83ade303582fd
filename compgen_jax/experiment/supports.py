"""The supports of a replicate, as a config asks for them."""

import functools

from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.task import tables
from compgen_jax.task.pools import PoolConfig
from compgen_jax.task.support import Support, SupportConfig
from compgen_jax.task.vocab import TaskConfig


def build_support(name: str, config: Config, seed: int) -> Support:
  """A support of a replicate, proved to hold what it promises; see `tables.build`.

  The same object for the same arguments, as making it takes seconds.

  Raises:
    ConfigError: it is empty or holds fewer compositions than asked for.
  """
  support = config.supports[name]
  other = support.overlap[0] if support.overlap else ''
  taken = config.supports[other] if other else None
  try:
    return _build(name, support, other, taken, config.task, config.pools, seed)
  except tables.EmptySupportError as e:
    raise ConfigError(str(e)) from e


def build_supports(config: Config, seed: int) -> dict[str, Support]:
  """Every support of a replicate, by name; see `build_support`."""
  return {name: build_support(name, config, seed) for name in config.supports}


@functools.cache
def _build(
  name: str,
  config: SupportConfig,
  other: str,
  taken: SupportConfig | None,
  task: TaskConfig,
  pools: PoolConfig,
  seed: int,
) -> Support:
  beside = _build(other, taken, '', None, task, pools, seed) if taken else None
  return tables.build(name, config, task, pools, seed, beside)
