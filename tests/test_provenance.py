"""What a number says about where it comes from."""

import json
import subprocess
import time

import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import provenance
from tests.experiments import tiny


def test_command_is_what_one_would_type(monkeypatch, tmp_path):
  """A machine's path in a committed number."""
  monkeypatch.chdir(tmp_path)
  args = ['--config=configs/quickstart.py', f'--workdir={tmp_path}/runs/a b']
  monkeypatch.setattr('sys.argv', ['/x/compgen_jax/main.py', *args])
  wanted = "python -m compgen_jax.main --config=configs/quickstart.py '--workdir=runs/a b'"
  assert provenance.command() == wanted


def test_changes_show_in_the_commit(monkeypatch):
  """A number from changed code that claims a commit, or a crash outside a checkout."""

  def commit(code, status):
    def git(args, **_):
      return subprocess.CompletedProcess(args, code, 'abc\n' if 'HEAD' in args else status)

    monkeypatch.setattr(subprocess, 'run', git)
    return provenance.commit.__wrapped__()

  assert commit(0, '') == 'abc'
  assert commit(0, ' M compgen_jax/main.py\n') == 'abc+changes'
  assert commit(128, '') is None


def test_commit_without_git(monkeypatch):
  """A run that ends in a traceback because git is not installed."""

  def no_git(*_, **__):
    raise FileNotFoundError

  monkeypatch.setattr(subprocess, 'run', no_git)
  assert provenance.commit.__wrapped__() is None


def test_commit_is_that_of_the_start(monkeypatch):
  """A number made by the code that was loaded, with the commit that came while it ran."""
  before = provenance.commit()
  monkeypatch.setattr(subprocess, 'run', None)
  assert provenance.commit() == before


def test_wall_time_adds_up_over_calls(tmp_path):
  """An interrupted run that reports only the time of its last call."""
  assert provenance.accumulate_wall_time(tmp_path, 2.0) == 2.0
  assert provenance.accumulate_wall_time(tmp_path, 3.0) == 5.0


def test_wall_time_is_counted_up_to_the_last_save(tmp_path):
  """A run that is killed after an hour and reports the minutes since."""
  provenance.start_clock(tmp_path, time.monotonic() - 100.0)
  assert 100.0 <= provenance.count_wall_time() < 110.0
  assert 100.0 <= provenance.count_wall_time() < 110.0  # once only
  assert provenance.wall_time(tmp_path) >= 100.0


@pytest.mark.parametrize('held', [None, '{"commit": "ab', '[]', '{"commit": "abc"}'])
def test_where_parameters_of_another_run_come_from(tmp_path, held):
  """A run that ends in a traceback because another's summary is damaged or still to come."""
  if held is not None:
    (tmp_path / 'summary.json').write_text(held)
  config = tiny(stages__rl__init_from=f'{tmp_path}:sft')
  wanted = {'workdir': str(tmp_path), 'stage': 'sft', 'commit': None, 'command': None}
  if held and held.endswith('"}'):
    wanted |= json.loads(held)
  assert provenance.foreign_parents(from_config_dict(config)) == {'rl': wanted}
