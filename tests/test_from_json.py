"""A config.json as a config: the run again, with flags on top."""

import json
import re

import pytest

from compgen_jax import from_json
from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.config import from_json as read
from tests.experiments import plain, tiny


def test_the_config_of_a_run_is_read_back(tmp_path):
  """A field that is lost, of another type or in another order, or one that no flag can set."""
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(plain()))
  config = from_json.get_config(str(path))
  assert from_config_dict(config) == read(plain()) == from_config_dict(tiny())
  assert list(config.stages) == ['sft', 'rl', 'rft']
  config.lock()
  config.update_from_flattened_dict({'stages.rl.settings.lr': 1e-3, 'seeds': (0, 1)})
  assert from_config_dict(config).settings('rl').lr == 1e-3


def test_what_is_no_config_is_one_line(tmp_path):
  """A traceback for half a file."""
  path = tmp_path / 'config.json'
  path.write_text('{"seed": ')
  with pytest.raises(ConfigError, match=re.escape(f'{path}: it is no JSON')):
    from_json.get_config(str(path))
