"""Untyped nested mappings (a ConfigDict, a JSON object) -> frozen dataclasses, strictly by type."""

import dataclasses
import difflib
import math
from typing import Any, get_args, get_origin

from compgen_jax.errors import ConfigError

SMALLEST, LARGEST = 2.0**-126, 2.0**128  # float32: devices take what is smaller for 0


def section(value: Any, cls: type, path: str, fill: bool) -> Any:
  """A mapping as the dataclass `cls`.

  Args:
    value: the mapping.
    cls: a dataclass whose fields are scalars, tuples of them, dataclasses, or dicts of any of
      these.
    path: the name of `value` in error messages; '' for the outermost.
    fill: whether a missing field takes the default of `cls` (else it is an error).

  Raises:
    ConfigError: an unknown or missing field, or a value of another type.
  """
  require_fields(value, [f.name for f in dataclasses.fields(cls)], path)
  made = {}
  for field in dataclasses.fields(cls):
    where = f'{path}.{field.name}' if path else field.name
    if field.name in value:
      made[field.name] = typed(value[field.name], field.type, where, fill)
    elif not (fill and has_default(field)):
      raise ConfigError(f'{where}: missing; start from configs/default.py')
  return cls(**made)


def require_fields(value: Any, legal: list[str], path: str) -> None:
  """Raises ConfigError unless `value` is a mapping whose keys are all in `legal`."""
  if not hasattr(value, 'items'):
    raise ConfigError(f'{path}={value!r}: a section with fields is wanted: {", ".join(legal)}')
  for name in value:
    if name not in legal:
      near = difflib.get_close_matches(name, legal, 1)
      hint = f'did you mean {near[0]}? ' if near else ''
      where = f'{path}.{name}' if path else name
      raise ConfigError(f'{where}: no such field; {hint}legal: {", ".join(legal)}')


def has_default(field: dataclasses.Field) -> bool:
  """Whether a dataclass can be made without this field."""
  missing = dataclasses.MISSING
  return field.default is not missing or field.default_factory is not missing


def typed(value: Any, kind: Any, path: str, fill: bool = False) -> Any:
  """`value` as type `kind`.

  Raises:
    ConfigError: it is not of that type. (Whole numbers are taken as floats, nothing else is cast.)
  """
  if dataclasses.is_dataclass(kind):
    return section(value, kind, path, fill)
  origin = get_origin(kind)
  if origin is dict:
    if not hasattr(value, 'items'):
      raise ConfigError(f'{path}={value!r}: a section with named entries is wanted')
    of = get_args(kind)[1]
    return {str(k): typed(v, of, f'{path}.{k}', fill) for k, v in value.items()}
  if kind is tuple:
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f'{path}={value!r}: a tuple is wanted')
    return _nested_tuple(value)
  if origin is tuple:
    of = get_args(kind)[0]
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f'{path}={value!r}: a tuple of {of.__name__} is wanted')
    return tuple(typed(v, of, path, fill) for v in value)
  if kind is Any:
    return value
  return _scalar(value, kind, path)


def _scalar(value: Any, kind: type, path: str) -> Any:
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if type(value) is not kind:
    raise ConfigError(f'{path}={value!r}: {kind.__name__} is wanted, not {type(value).__name__}')
  if kind is float and not math.isfinite(value):
    raise ConfigError(f'{path}={value!r}: a finite number is wanted')
  if kind is float and value and not SMALLEST <= abs(value) < LARGEST:
    raise ConfigError(f'{path}={value!r}: 0, or 1.2e-38 to 3.4e38 is wanted, as float32 holds it')
  if kind is int and not -(2**31) <= value < 2**31:
    raise ConfigError(f'{path}={value!r}: a whole number of 32 bits is wanted')
  return value


def _nested_tuple(value: Any) -> Any:
  if isinstance(value, (tuple, list)):
    return tuple(_nested_tuple(v) for v in value)
  return value


def plain(value: Any) -> Any:
  """A dataclass as nested dicts, lists and scalars, as JSON can hold them."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, dict):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, tuple):
    return [plain(v) for v in value]
  return value
