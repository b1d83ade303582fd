"""The workdir: one writer, and files that are there whole or not at all."""

import json

import pytest

from compgen_jax import config as config_lib
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import files
from tests.experiments import tiny


def test_a_workdir_has_one_writer(tmp_path):
  """Two processes that write the same checkpoints."""
  _, lock = files.open_workdir(tmp_path / 'w')
  with lock, pytest.raises(ConfigError, match='another process is using it'):
    files.open_workdir(tmp_path / 'w')


def test_a_workdir_is_a_folder(tmp_path):
  """A traceback where the workdir is a file."""
  (tmp_path / 'w').write_text('')
  with pytest.raises(ConfigError, match='a folder that can be written is wanted'):
    files.open_workdir(tmp_path / 'w')


def test_a_cut_line_is_left_out(tmp_path):
  """A crash within a line that makes all lines unreadable, or half a row that counts."""
  (tmp_path / 'a.jsonl').write_text('{"step": 1}\n{"step": 2}\n{"st')
  assert files.read_jsonl(tmp_path / 'a.jsonl') == [{'step': 1}, {'step': 2}]
  assert files.read_jsonl(tmp_path / 'b.jsonl') == []


def test_config_of_a_run(tmp_path):
  """A workdir's config that is not what was run, or a traceback where there is none."""
  config = config_lib.from_config_dict(tiny())
  files.write_json(tmp_path / 'config.json', config_lib.to_dict(config))
  assert files.read_config(tmp_path) == config
  (tmp_path / 'config.json').write_text('{"seed": 3')
  for workdir in (tmp_path, tmp_path / 'nowhere'):
    with pytest.raises(ConfigError, match='it has no readable config.json') as e:
      files.read_config(workdir)
    assert '\n' not in str(e.value)


def test_first_difference():
  """A difference that is not found, or a wrong name for it."""
  a = {'x': 1, 'y': {'z': [1, 2], 'w': None}}
  b = json.loads(json.dumps(a))
  assert files.first_difference(a, b) is None
  b['y']['z'] = [1, 3]
  assert files.first_difference(a, b) == ('y.z', [1, 2], [1, 3])
  assert files.first_difference({}, {'v': 1}) == ('v', None, 1)
  assert files.first_difference({'v': 1}, {}) == ('v', 1, None)
