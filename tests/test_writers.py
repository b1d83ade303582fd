"""Metrics that also go elsewhere, with stand-ins for the packages, and the profile of a stage."""

import sys
import types

import pytest

import compgen_jax
from compgen_jax import schema
from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.experiment import writers
from tests.experiments import history, tiny


def _one_stage(**changes):
  config = tiny(eval__every=6, eval__pass_k=(), contrasts=(), **changes)
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  return config


@pytest.fixture
def told(monkeypatch):
  """What both packages were told: `(writer, folder or name, step, name) -> value`."""
  found = {}

  class SummaryWriter:
    def __init__(self, folder, flush_secs):
      self.folder = folder

    def add_scalar(self, name, value, step):
      found['tensorboard', self.folder, step, name] = value

    def flush(self):
      pass

  class Run:
    def __init__(self, name, dir, mode, **_):
      assert mode == 'offline'
      self.where = f'{dir} {name}'

    def log(self, values):
      for name, value in values.items():
        found['wandb', self.where, values['update'], name] = value

  def settings(silent):
    return silent

  tensorboard = types.SimpleNamespace(SummaryWriter=SummaryWriter)
  monkeypatch.setitem(sys.modules, 'tensorboardX', tensorboard)
  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=Run, Settings=settings))
  monkeypatch.delenv('WANDB_MODE', raising=False)
  return found


def test_metrics_and_curves_and_a_profile(told, tmp_path, capsys):
  """A metric that is missing, of another update, or under another name; a run that a writer or the
  profiler changes."""
  workdir = tmp_path / 'w'
  config = _one_stage(run__writers=('tensorboard', 'wandb'), run__profile=(5, 7))
  rows = compgen_jax.run(config, workdir)
  assert compgen_jax.run(_one_stage(), tmp_path / 'other') == rows
  assert history(workdir, 'sft') == history(tmp_path / 'other', 'sft')
  board, run = str(workdir / 'tensorboard/sft/seed-0'), f'{workdir} w/sft/seed-0'
  for row in history(workdir, 'sft'):
    for name, value in row.items():
      if name != 'step':
        assert told['tensorboard', board, row['step'], name] == value
        assert told['wandb', run, row['step'], name] == value
  curve = [row for row in rows if row['step'] == 6]
  assert len(curve) > 10
  for row in curve:
    name = f'{row["metric"]}/{row["split"]}/{row["depth"]}'
    assert told['tensorboard', board, 6, name] == told['wandb', run, 6, name] == row['value']
  profile = workdir / 'stages/sft/seed-0/profile'
  assert list(profile.rglob('*.xplane.pb')) and not (tmp_path / 'other/stages/sft/profile').exists()
  (said,) = [line for line in capsys.readouterr().err.splitlines() if 'profile' in line]
  assert said == f'profile of updates 4 to 9: {profile}'


def test_a_package_that_is_not_there(tmp_path, monkeypatch):
  """An import error after an hour."""
  monkeypatch.setitem(sys.modules, 'wandb', None)
  message = r"run.writers='wandb': it needs the package wandb .*; legal is pip install -e"
  with pytest.raises(ConfigError, match=message):
    compgen_jax.run(_one_stage(run__writers=('wandb',)), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  'field, value, legal',
  [
    ('writers', ('mlflow',), 'a tuple of tensorboard | wandb, each once at most'),
    ('writers', ('wandb', 'wandb'), 'a tuple of tensorboard | wandb, each once at most'),
    ('profile', (3,), r'\(first, last\) update of a stage, from 1 on; or \(\)'),
    ('profile', (5, 4), r'\(first, last\) update of a stage, from 1 on; or \(\)'),
  ],
)
def test_mistakes(field, value, legal):
  """A writer or a window that is ignored."""
  with pytest.raises(ConfigError, match=f'run.{field}=.*: legal is {legal}'):
    from_config_dict(_one_stage(**{f'run__{field}': value}))


def test_all_writers_are_named():
  """A writer that can't be asked for."""
  assert tuple(writers.WRITERS) == schema.WRITERS
