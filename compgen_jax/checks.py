"""What checks of a config are made of: each raises an error that names field, value and what is
legal."""

from typing import Any

from compgen_jax.errors import ConfigError


def require(ok: bool, path: str, value: Any, legal: str) -> None:
  """Raises ConfigError, which names all three, unless `ok`."""
  if not ok:
    raise ConfigError(f'{path}={value!r}: legal is {legal}')


def one_of(value: Any, legal, path: str) -> None:
  """Raises ConfigError unless `value` is in `legal`. (True is not 1, and a list is nothing.)"""
  found = any(type(value) is type(x) and value == x for x in legal)
  require(found, path, value, ' | '.join(str(x) for x in legal))


def at_least(low: float, **fields) -> None:
  """Raises ConfigError where a field (dots in its name as `__`) is below `low`."""
  for path, value in fields.items():
    require(value >= low, path.replace('__', '.'), value, f'{low} or more')


def no_repetition(path: str, values: tuple, what: str) -> None:
  """Raises ConfigError where a value comes twice; `what` they are, as a plural."""
  require(len(set(values)) == len(values), path, values, f'{what} without repetition')


def is_name(name: str) -> bool:
  """Whether stages, splits and supports may be called so: it fits a path and a flag."""
  return name.isascii() and name.isidentifier() and len(name) <= 64


NAME = 'letters, digits and underscores, 64 at most'


def names(path: str, named: tuple[str, ...], legal) -> None:
  """Raises ConfigError unless all are in `legal`, each once."""
  for name in named:
    one_of(name, legal, path)
  no_repetition(path, named, 'names')
