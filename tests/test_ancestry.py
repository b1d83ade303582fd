"""Starting from a stage of another run: the same parameters, and never by mistake others."""

import json
import re
import shutil

import pytest

import compgen_jax
from compgen_jax.config import ConfigError
from compgen_jax.errors import CheckpointError, LeakError
from configs import default
from tests.experiments import history, tiny


def _config(parent, **overrides):
  """Only the stage `rl` of `tiny`, from `parent`."""
  config = tiny(eval__every=0, contrasts=(), **overrides)
  rl = config.stages.rl
  rl.init_from = parent
  config.stages = {'rl': rl}
  return config


def test_a_stage_of_another_run_is_as_good_as_ones_own(finished, tmp_path):
  """Fresh or other parameters, or other data, where another run's stage was asked for; and nothing
  about it in the provenance."""
  workdir, rows = finished
  got = compgen_jax.run(_config(f'{workdir}:sft'), tmp_path / 'w')
  assert history(tmp_path / 'w', 'rl') == history(workdir, 'rl')
  assert got == [row for row in rows if row['arm'] == 'rl' and row['step'] == 4]
  summary = json.loads((tmp_path / 'w/summary.json').read_text())
  assert summary['starts_from']['rl']['workdir'] == str(workdir)
  assert f'sft of {workdir}, made by' in (tmp_path / 'w/report.html').read_text()
  assert compgen_jax.load(tmp_path / 'w', 'rl').step == 4
  assert compgen_jax.run(_config(f'{workdir}:sft'), tmp_path / 'w') == got  # and continues


def _leaking():
  config = _config('{workdir}:sft')
  config.supports.copy = default.support(compositions=8, depths=(1, 2))
  config.eval.splits.unseen = 'copy'
  return config


@pytest.mark.parametrize('config, message', [
  (_config('{workdir}:sft', sft__lr=1e-3), 'stages.sft.settings.lr=0.004, not 0.001'),
  (_config('{workdir}:sft', supports__sft__compositions=6), 'supports.sft.compositions=8, not 6'),
  (_config('{workdir}:sft', model__d_ff=48), 'model.d_ff=32, not 48'),
  (_config('{workdir}:nope'), '{workdir} has no such stage; legal is sft | rl | rft'),
  (_config('{workdir}:rl'), 'a stage and its parent of one name'),
  (_config('{workdir}/nowhere:sft'), 'no readable config.json'),
  (_config('{workdir}:'), "stages.rl.init_from='{workdir}:': legal is  | WORKDIR:STAGE"),
  (_config('{workdir}:sft', seed=1), 'stage sft (seed 1) has not finished there'),
  (_leaking(), 'of its compositions are in training data sft'),
])  # fmt: skip
def test_what_does_not_fit_is_refused(config, message, finished, tmp_path):
  """A setting of the parent's that has changed and passes in silence, or compositions that only the
  parent was trained on reported as unseen."""
  workdir, _ = finished
  config.stages.rl.init_from = config.stages.rl.init_from.replace('{workdir}', str(workdir))
  wanted = re.escape(message.replace('{workdir}', str(workdir)))
  with pytest.raises((ConfigError, CheckpointError, LeakError), match=wanted) as error:
    compgen_jax.run(config, tmp_path / 'w')
  assert '\n' not in str(error.value) and not (tmp_path / 'w').exists()


def test_half_a_parent_is_refused(finished, tmp_path):
  """Parameters of the middle of training taken for those of its end."""
  shutil.copytree(finished[0], tmp_path / 'other')
  shutil.rmtree(tmp_path / 'other/stages/sft/seed-0/checkpoints/12')
  with pytest.raises(CheckpointError, match='has not finished there'):
    compgen_jax.run(_config(f'{tmp_path}/other:sft'), tmp_path / 'w')
