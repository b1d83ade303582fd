"""A config file whose config is that of a run: `--config=compgen_jax/from_json.py:RUN/config.json`.

The commands take `--config=RUN/config.json` for it.
"""

import dataclasses
import json
import pathlib
from typing import Any, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from compgen_jax import config as config_lib
from compgen_jax.learning.kinds import KINDS


def get_config(path: str) -> ConfigDict:
  """The config of a config.json, with every field that a flag can set.

  Raises:
    ConfigError: the file holds no config that can work; one line that names the field.
  """
  try:
    held = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except ValueError as e:
    raise config_lib.ConfigError(f'{path}: it is no JSON ({e}); legal is the file of a run') from e
  config = _as_config(config_lib.to_dict(config_lib.from_json(held)))
  for stage in config.stages.values():
    fields = dataclasses.fields(KINDS[stage.kind].section)
    for field in fields:
      if field.name not in stage.settings:
        stage.settings[field.name] = placeholder(get_origin(field.type) or field.type)
  return config


def _as_config(value: Any) -> Any:
  """Dicts as ConfigDicts that keep their order, lists as tuples."""
  if isinstance(value, dict):
    config = ConfigDict(sort_keys=False)
    for name, entry in value.items():
      config[name] = _as_config(entry)
    return config
  return tuple(map(_as_config, value)) if isinstance(value, list | tuple) else value
