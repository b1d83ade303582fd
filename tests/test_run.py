"""The main job, end to end, on the smallest experiment."""

import json
import pickle
import shutil
import socket

import jax
import numpy as np
import pytest

import compgen_jax
from compgen_jax import verifier
from compgen_jax.config import ConfigError
from compgen_jax.errors import LeakError
from configs import default
from tests.experiments import history, tiny, trained_files

FIELDS = {'experiment', 'arm', 'stage', 'seed', 'step', 'split', 'depth', 'metric', 'value', 'n'}
METRICS = {'accuracy', 'strict_accuracy', 'structure_accuracy', 'pass@1', 'pass@4'}


def _accuracies(rows, **where):
  return [
    row['value']
    for row in rows
    if row['metric'] == 'accuracy' and all(row[k] == v for k, v in where.items())
  ]


def test_files_and_fields(finished):
  """A contract file or field that is missing or means something else."""
  workdir, rows = finished
  assert rows == [json.loads(line) for line in (workdir / 'results.jsonl').read_text().splitlines()]
  for row in rows:
    assert set(row) >= FIELDS and 0 <= row['value'] <= 1
    assert row.get('low', 0) <= row['value'] + 1e-9 <= row.get('high', 1) + 2e-9
  assert {row['split'] for row in rows} == {'atoms', 'seen', 'unseen', 'deeper'}
  assert {row['metric'] for row in rows} >= METRICS
  assert {row['arm'] for row in rows} == {'sft', 'rl', 'rft'}
  assert {row['step'] for row in rows if row['arm'] == 'sft'} == {0, 5, 10, 12}
  assert {row['step'] for row in rows if row['arm'] == 'rl'} == {0, 4}
  assert set(default.get_config()) == set(json.loads((workdir / 'config.json').read_text()))
  assert (workdir / 'report.html').stat().st_size > 1000
  summary = json.loads((workdir / 'summary.json').read_text())
  (contrast,) = summary['contrasts']
  assert contrast['name'] == 'tiny.unseen.rl_minus_sft' and contrast['n_seeds'] == 1
  (rl,) = _accuracies(rows, arm='rl', split='unseen', step=4)
  (sft,) = _accuracies(rows, arm='sft', split='unseen', step=12)
  np.testing.assert_allclose(contrast['value'], 100 * (rl - sft), atol=1e-9)


def test_samples_can_be_read_while_a_stage_learns(finished):
  """Traces without rewards or of one problem only, or of a stage that samples none."""
  workdir, _ = finished
  lines = (workdir / 'stages/rl/seed-0/samples.jsonl').read_text().splitlines()
  samples = [json.loads(line) for line in lines]
  places = [(sample['split'], sample['depth']) for sample in samples]
  assert places == [
    place for place in (('atoms', 1), ('seen', 1), ('seen', 2), ('unseen', 2)) for _ in range(4)
  ]
  for sample in samples:
    assert sample['step'] == 0 and sample['prompt'].startswith('solve ')
    assert sample['reward'] == verifier.verify(sample, sample['written'])['answer']
  assert len({sample['prompt'] for sample in samples}) == 4
  assert len({sample['written'] for sample in samples}) > 8
  assert not (workdir / 'stages/sft/seed-0/samples.jsonl').exists()


def test_a_finished_run_is_not_run_again(finished):
  """Rerunning a command that trains once more, or changes its results."""
  workdir, rows = finished
  before = trained_files(workdir)
  assert compgen_jax.run(tiny(), workdir) == rows
  assert trained_files(workdir) == before and len(before) > 12


def test_no_network_and_no_pickle(finished, tmp_path, monkeypatch):
  """A run that can't be made without the network, or that loads a file which runs code."""

  def refused(*_, **__):
    raise AssertionError('network or pickle')

  workdir, rows = finished
  shutil.copytree(workdir, tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w/stages/rft')  # a stage to train, from a checkpoint to read
  for name in ('connect', 'connect_ex', 'sendto', 'bind'):
    monkeypatch.setattr(socket.socket, name, refused)
  monkeypatch.setattr(socket, 'getaddrinfo', refused)
  for name in ('load', 'loads', 'Unpickler'):
    monkeypatch.setattr(pickle, name, refused)
  assert compgen_jax.run(tiny(), tmp_path / 'w') == rows


def test_a_run_may_be_renamed(finished, tmp_path):
  """Rows of one run under two names, which a table over runs would take for two experiments."""
  workdir, rows = finished
  shutil.copytree(workdir, tmp_path / 'w')
  renamed = compgen_jax.run(tiny(experiment='other'), tmp_path / 'w')
  assert renamed == [row | {'experiment': 'other'} for row in rows]
  assert trained_files(tmp_path / 'w') == trained_files(workdir)


def test_evaluating_more_often_changes_no_training(finished, tmp_path, caplog):
  """Evaluation that draws from the training's randomness; and a second run in a process that
  compiles again what the first has compiled."""
  workdir, rows = finished
  compgen_jax.run(tiny(), tmp_path / 'first')
  with jax.log_compiles():
    other = compgen_jax.run(tiny(eval__every=0), tmp_path / 'w')
  compiled = [message for message in caplog.messages if message.startswith('Compiling')]
  assert not compiled
  ends = {'sft': 12, 'rl': 4, 'rft': 2}
  assert other == [row for row in rows if row['step'] == ends[row['arm']]]
  got, want = history(tmp_path / 'w', 'rl')[-1], history(workdir, 'rl')[-1]
  assert got['loss'] == pytest.approx(want['loss'], rel=1e-3)


@pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')
def test_more_devices_change_nothing_but_the_time(finished, tmp_path):
  """A loss, a sample or an average that depends on how many devices share a batch."""
  workdir, _ = finished
  compgen_jax.run(tiny(mesh__data=2), tmp_path / 'w')
  for stage in ('sft', 'rl', 'rft'):
    one, two = history(workdir, stage)[-1], history(tmp_path / 'w', stage)[-1]
    assert set(one) == set(two)
    for name in ('loss', 'entropy', 'anchor_loss'):
      np.testing.assert_allclose(two.get(name, 0), one.get(name, 0), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize('where', ['data', 'anchor'])
def test_leaks_are_refused(tmp_path, where):
  """Training on what is reported as unseen, by prompts or by an anchor."""
  config = tiny()
  config.supports.leak = default.support(pool='test', depths=(2,))
  if where == 'data':
    config.stages.rl.data = ('leak', 'atoms')
  else:
    config.stages.rl.settings.anchor = ('leak',)
  message = r'eval.splits.unseen: \d+ of its compositions are in training data leak'
  with pytest.raises(LeakError, match=message):
    compgen_jax.run(config, tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def test_leaks_behind_a_prefix_are_refused(tmp_path):
  """Training on what is reported as unseen, in traces whose first step is dry."""
  config = tiny()
  config.supports.leak = default.support(pool='test', depths=(1, 2), prefix=1)
  config.eval.splits = {'deeper': 'deeper', 'atoms': 'atoms', 'seen': 'sft'}
  config.eval.curve = ()
  config.contrasts = ()
  config.stages.rl.data = ('leak', 'atoms')
  message = r'eval.splits.deeper: \d+ of its compositions are in training data leak'
  with pytest.raises(LeakError, match=message):
    compgen_jax.run(config, tmp_path / 'w')


def test_supports_too_small_for_what_is_asked(tmp_path):
  """K compositions of a support that has fewer, filled up with repetitions."""
  message = 'supports.sft: at least 50000 compositions of depth 1 wanted, 12 found'
  with pytest.raises(ConfigError, match=message):
    compgen_jax.run(tiny(supports__sft__compositions=100_000), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()
