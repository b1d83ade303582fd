"""The main job, end to end, on the smallest experiment."""

import json
import shutil

import jax
import numpy as np
import pytest

import compgen_jax
from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.experiment import platform, stages
from compgen_jax.experiment.evaluate import LeakError, pass_at_k, wilson
from compgen_jax.experiment.files import open_workdir
from configs import default
from tests.experiments import tiny


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A finished run: (workdir, rows)."""
  workdir = tmp_path_factory.mktemp('run')
  return workdir, compgen_jax.run(tiny(), workdir)


def _accuracies(rows, **where):
  return [
    r['value']
    for r in rows
    if r['metric'] == 'accuracy' and all(r[k] == v for k, v in where.items())
  ]


def _params(workdir, name):
  return json.loads((workdir / 'stages' / name / 'metrics.jsonl').read_text().splitlines()[-1])


def test_files_and_fields(finished):
  """A contract file or field that is missing or means something else."""
  workdir, rows = finished
  assert rows == [json.loads(line) for line in (workdir / 'results.jsonl').read_text().splitlines()]
  for row in rows:
    assert {
      'experiment',
      'arm',
      'stage',
      'seed',
      'step',
      'split',
      'depth',
      'metric',
      'value',
      'n',
    } <= set(row)
    assert (
      0 <= row['value'] <= 1
      and row.get('low', 0) <= row['value'] + 1e-9 <= row.get('high', 1) + 2e-9
    )
  assert {r['split'] for r in rows} == {'atoms', 'seen', 'unseen', 'deeper'}
  assert {'accuracy', 'strict_accuracy', 'structure_accuracy', 'pass@1', 'pass@4'} <= {
    r['metric'] for r in rows
  }
  assert {r['arm'] for r in rows} == {'sft', 'rl', 'rft'}
  assert {r['step'] for r in rows if r['arm'] == 'sft'} == {5, 10, 12}
  assert set(default.get_config()) == set(json.loads((workdir / 'config.json').read_text()))
  summary = json.loads((workdir / 'summary.json').read_text())
  contrast = summary['contrasts'][0]
  assert contrast['name'] == 'tiny.unseen.rl_minus_sft' and contrast['n_seeds'] == 1
  last = lambda arm: _accuracies(
    rows, arm=arm, split='unseen', depth=2, step=12 if arm == 'sft' else 4
  )[0]
  np.testing.assert_allclose(contrast['value'], 100 * (last('rl') - last('sft')), atol=1e-9)
  assert (workdir / 'report.html').stat().st_size > 1000


def test_a_finished_run_is_not_run_again(finished):
  """Rerunning a command that trains once more, or changes its results."""
  workdir, rows = finished
  before = {p: p.stat().st_mtime_ns for p in (workdir / 'stages').rglob('*') if p.is_file()}
  assert compgen_jax.run(tiny(), workdir) == rows
  assert {p: p.stat().st_mtime_ns for p in (workdir / 'stages').rglob('*') if p.is_file()} == before


def test_an_interrupted_run_continues_to_the_same_bits(finished, tmp_path, monkeypatch):
  """A resume that replays or skips data, or loses optimizer state."""
  workdir, rows = finished
  save = stages.StageCheckpoints.save

  def save_then_die(self, step, state):
    save(self, step, state)
    if step == 6:
      raise KeyboardInterrupt

  monkeypatch.setattr(stages.StageCheckpoints, 'save', save_then_die)
  with pytest.raises(KeyboardInterrupt):
    compgen_jax.run(tiny(), tmp_path / 'w')
  monkeypatch.undo()
  assert compgen_jax.run(tiny(), tmp_path / 'w') == rows
  drop_time = lambda path: [
    {k: v for k, v in json.loads(line).items() if k != 'seconds'} for line in path.open()
  ]
  for name in ('sft', 'rl', 'rft'):
    file = f'stages/{name}/metrics.jsonl'
    assert drop_time(tmp_path / 'w' / file) == drop_time(workdir / file)


def test_evaluating_more_often_changes_no_training(finished, tmp_path):
  """Evaluation that draws from the training's randomness."""
  workdir, rows = finished
  other = compgen_jax.run(tiny(eval__every=0), tmp_path / 'w')
  assert _accuracies(other) == [
    r['value'] for r in rows if r['metric'] == 'accuracy' and r['step'] in (4, 2, 12)
  ]
  assert _params(tmp_path / 'w', 'rl')['loss'] == pytest.approx(
    _params(workdir, 'rl')['loss'], rel=1e-3
  )


@pytest.mark.parametrize('side_by_side', [False, True])
def test_several_seeds_in_one_program(finished, tmp_path, monkeypatch, side_by_side):
  """A seed of several that is not the run it stands for, or seeds that are all the same."""
  monkeypatch.setattr(platform, 'vmap_seeds', lambda: side_by_side)
  _, rows = finished
  both = compgen_jax.run(tiny(seeds=(0, 1)), tmp_path / 'w')
  assert {r['seed'] for r in both} == {0, 1}
  loss = lambda folder, name: json.loads(
    (folder / f'stages/{name}/metrics.jsonl').read_text().splitlines()[0]
  )['loss']
  pair = loss(tmp_path / 'w', 'sft')
  assert pair[0] != pair[1]
  np.testing.assert_allclose(pair[0], loss(finished[0], 'sft')[0], rtol=1e-4)
  summary = json.loads((tmp_path / 'w' / 'summary.json').read_text())
  assert summary['contrasts'][0]['n_seeds'] == 2 and summary['contrasts'][0]['interval'] == 'seeds'


def test_another_config_is_refused(finished):
  """A workdir whose results mix two configs."""
  workdir, _ = finished
  before = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
  with pytest.raises(ConfigError, match=r'holds another config \(sft.lr=') as e:
    compgen_jax.run(tiny(sft__lr=0.5), workdir)
  assert '\n' not in str(e.value)
  assert {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()} == before


def test_a_workdir_has_one_writer(tmp_path):
  """Two processes that write the same checkpoints."""
  config = from_config_dict(tiny())
  _, lock = open_workdir(tmp_path / 'w', config)
  with lock, pytest.raises(ConfigError, match='another process is using it'):
    open_workdir(tmp_path / 'w', config)


def test_leaks_are_refused(tmp_path):
  """Training on what is reported as unseen."""
  with pytest.raises(
    LeakError, match=r'eval.splits.unseen: \d+ of its compositions are in training data leak'
  ):
    config = tiny()
    config.supports.leak = default.support(pool='test', depths=(2,))
    config.stages.rl.data = ('leak', 'atoms')
    compgen_jax.run(config, tmp_path / 'w')


def test_leaks_behind_a_prefix_are_refused(tmp_path):
  """Training on what is reported as unseen, in traces whose first step is dry."""
  message = r'eval.splits.deeper: \d+ of its compositions are in training data leak'
  with pytest.raises(LeakError, match=message):
    config = tiny()
    config.supports.leak = default.support(pool='test', depths=(1, 2), prefix=1)
    config.eval.splits = {'deeper': 'deeper', 'atoms': 'atoms', 'seen': 'sft'}
    config.eval.curve = ()
    config.contrasts = ()
    config.stages.rl.data = ('leak', 'atoms')
    compgen_jax.run(config, tmp_path / 'w')


def test_supports_too_small_for_what_is_asked(tmp_path):
  """K compositions of a support that has fewer, filled up with repetitions."""
  with pytest.raises(
    ConfigError, match='supports.sft: 50000 compositions of depth 1 wanted, 12 found'
  ):
    compgen_jax.run(tiny(supports__sft__compositions=100_000), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
  """NaN that is trained on, saved or evaluated."""
  config = tiny(sft__warmup=0)
  config.sft.lr = 1.0
  config.optimizer.muon_scale = 1e38
  with pytest.raises(stages.DivergedError, match='sft: NaN or infinity within updates'):
    compgen_jax.run(config, tmp_path / 'w')
  assert not (tmp_path / 'w/stages/sft/evaluation.json').exists()


def test_an_unreadable_checkpoint_is_one_line(finished, tmp_path):
  """A damaged parent from which a child is trained all the same."""
  workdir, _ = finished
  shutil.copytree(workdir, tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w/stages/rl')
  for file in (tmp_path / 'w/stages/sft/checkpoints').rglob('*'):
    if file.is_file() and '/d/' in str(file):
      file.write_bytes(b'\0' * file.stat().st_size)
  with pytest.raises(stages.CheckpointError, match='is (unreadable|damaged)'):
    compgen_jax.run(tiny(), tmp_path / 'w')


def test_pass_at_k_is_unbiased():
  """The biased any-of-k, or 1 - (1 - p)^k."""
  assert pass_at_k(np.array([1]), 4, 2) == pytest.approx(
    0.5
  )  # 1 - C(3,2)/C(4,2); the biased form gives 0.4375
  assert pass_at_k(np.array([0, 4]), 4, 1) == pytest.approx(0.5)
  assert pass_at_k(np.array([3]), 4, 2) == 1.0
  rng = np.random.default_rng(0)
  correct = rng.binomial(16, 0.1, size=20_000)
  assert pass_at_k(correct, 16, 4) == pytest.approx(1 - 0.9**4, abs=5e-3)


def test_wilson_interval():
  """An interval that leaves [0, 1] or vanishes at 0 %."""
  low, high = wilson(0, 100)
  assert low == pytest.approx(0.0, abs=1e-9) and high == pytest.approx(0.0370, abs=1e-4)
  low, high = wilson(50, 100)
  assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_more_devices_change_nothing_but_the_time(finished, tmp_path):
  """A loss, a sample or an average that depends on how many devices share a batch."""
  if jax.device_count() < 2:
    pytest.skip('one device')
  workdir, _ = finished
  compgen_jax.run(tiny(run__data_parallel=2), tmp_path / 'w')
  for name in ('sft', 'rl', 'rft'):
    one, two = _params(workdir, name), _params(tmp_path / 'w', name)
    np.testing.assert_allclose(two['loss'], one['loss'], rtol=2e-3, atol=1e-5)
