"""The workdir: one writer, and files that are there whole or not at all."""

import errno
import json
import os
import subprocess
import sys

import pytest

from compgen_jax import config as config_lib
from compgen_jax.errors import ConfigError, DamageError, StorageError
from compgen_jax.experiment import files, workdirs
from tests.experiments import tiny


def test_a_workdir_has_one_writer(tmp_path):
  """Two processes that write the same checkpoints."""
  _, lock = workdirs.open_workdir(tmp_path / 'w')
  with lock, pytest.raises(ConfigError, match='another process is using it'):
    workdirs.open_workdir(tmp_path / 'w')


def test_a_workdir_is_a_folder(tmp_path):
  """A traceback where the workdir is a file."""
  (tmp_path / 'w').write_text('')
  with pytest.raises(ConfigError, match='a folder that can be written is wanted'):
    workdirs.open_workdir(tmp_path / 'w')


def test_a_lock_does_not_outlive_its_process(tmp_path):
  """A crash after which a workdir has to be unlocked by hand."""
  hold = f"""
import time
from compgen_jax.experiment import files, workdirs
folder, lock = workdirs.open_workdir({str(tmp_path)!r})
print('held', flush=True)
time.sleep(60)
"""
  command = [sys.executable, '-c', hold]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'held\n'
  with pytest.raises(ConfigError, match='another process is using it'):
    workdirs.open_workdir(tmp_path)
  process.kill()
  process.communicate()
  workdirs.open_workdir(tmp_path)[1].close()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  """A traceback, half a file in place of a whole one, or a leftover."""
  files.write_json(tmp_path / 'a.json', [1])

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(StorageError, match=r'a.json could not be written \(No space left') as e:
    files.write_json(tmp_path / 'a.json', [2])
  assert '\n' not in str(e.value)
  assert json.loads((tmp_path / 'a.json').read_text()) == [1]
  assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_content_is_on_disk_before_its_name(tmp_path, monkeypatch):
  """A power cut after which a file is there and empty."""
  done, replace = [], os.replace

  def fsync(descriptor):
    done.append(os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}')))

  def replaced(*args):
    done.append('replace')
    replace(*args)

  monkeypatch.setattr(os, 'fsync', fsync)
  monkeypatch.setattr(os, 'replace', replaced)
  files.write_text(tmp_path / 'a', 'x')
  assert done == ['a.tmp', 'replace', tmp_path.name]


def test_a_bad_line_is_left_out(tmp_path, capsys):
  """A bad line that hides the lines behind it, half a row that counts, or a loss in silence."""
  lines = [b'{"step": 1}', b'\xff\x00', b'3', b'{"step": 2}', b'[' * 100_000, b'{"st']
  (tmp_path / 'a.jsonl').write_bytes(b'\n'.join(lines))
  assert files.read_jsonl(tmp_path / 'a.jsonl') == [{'step': 1}, {'step': 2}]
  assert '4 of 6 lines are damaged and left out' in capsys.readouterr().err
  assert files.read_jsonl(tmp_path / 'b.jsonl') == []


def test_sealed_lines(tmp_path, capsys):
  """A changed digit in a line that counts."""
  rows = [{'step': 1, 'loss': 0.25}, {'step': 2, 'loss': 1e-9}, {'step': 3, 'loss': 0.75}]
  path = tmp_path / 'a.jsonl'
  files.write_sealed_jsonl(path, rows)
  assert files.read_sealed_jsonl(path) == rows and not capsys.readouterr().err
  path.write_text(path.read_text().replace('0.25', '0.35'))
  assert files.read_sealed_jsonl(path) == rows[1:]
  assert '1 of 3 lines' in capsys.readouterr().err


DAMAGED = {
  'digit': lambda text: text.replace('1.5', '1.6'),
  'cut': lambda text: text[: len(text) // 2],
  'empty': lambda text: '',
  'entry lost': lambda text: '{"a": 1.5}',
  'other JSON': lambda text: '[1, 2]',
  'other': lambda text: 'nothing',
  'nested': lambda text: '[' * 100_000,
  'nan': lambda text: text.replace('1.5', 'NaN'),
}


@pytest.mark.parametrize('kind', DAMAGED)
def test_sealed_files(tmp_path, kind):
  """Damage that is believed, or that ends in a traceback."""
  path, value = tmp_path / 'a.json', {'a': 1.5, 'b': {'c': [1, True, None, 'é']}}
  assert files.read_sealed(path) is None
  files.write_sealed(path, value)
  assert files.read_sealed(path) == value
  path.write_text(DAMAGED[kind](path.read_text()))
  with pytest.raises(DamageError, match='a.json: it'):
    files.read_sealed(path)


def test_config_of_a_run(tmp_path):
  """A workdir's config that is not what was run, or a traceback where there is none."""
  config = config_lib.from_config_dict(tiny())
  files.write_json(tmp_path / 'config.json', config_lib.to_dict(config))
  assert workdirs.read_config(tmp_path) == config
  (tmp_path / 'config.json').write_text('{"seed": 3')
  for workdir in (tmp_path, tmp_path / 'nowhere'):
    with pytest.raises(ConfigError, match='it has no readable config.json') as e:
      workdirs.read_config(workdir)
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
