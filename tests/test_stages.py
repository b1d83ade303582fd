"""Stages: resumed to the same bits, replicate by replicate or side by side, never past NaN."""

import json
import shutil

import numpy as np
import pytest

import compgen_jax
from compgen_jax.config import from_config_dict
from compgen_jax.errors import CheckpointError, DivergedError
from compgen_jax.experiment import checkpoint, platform, programs, run, stages
from configs import default
from tests.experiments import history, tiny, trained_files

STAGES = ('sft', 'rl', 'rft')
REPLICATES = dict(seeds=(0, 1))


def assert_same_training(got, want, seed):
  """Up to rounding: programs of one and of several replicates round differently."""
  for stage in STAGES:
    for a, b in zip(history(got, stage, seed), history(want, stage, seed), strict=True):
      assert set(a) == set(b)
      for name in ('loss', 'entropy', 'length', 'anchor_loss'):
        np.testing.assert_allclose(a.get(name, 0), b.get(name, 0), rtol=1e-4, atol=1e-6)


def _die_at(monkeypatch, module, name, is_fatal):
  """`module.name` raises KeyboardInterrupt after a call for which `is_fatal(*args)`."""
  whole = getattr(module, name)

  def call(*args, **kwargs):
    out = whole(*args, **kwargs)
    if is_fatal(*args):
      raise KeyboardInterrupt
    return out

  monkeypatch.setattr(module, name, call)


def test_an_interrupted_run_continues_to_the_same_bits(finished, tmp_path, monkeypatch):
  """A resume that replays or skips data, or loses optimizer state; a history that comes only with
  checkpoints, or that keeps what is trained again."""
  workdir, rows = finished
  _die_at(monkeypatch, stages, '_measure', lambda *args: args[4] == 5)
  with pytest.raises(KeyboardInterrupt):
    compgen_jax.run(tiny(), tmp_path / 'w')
  monkeypatch.undo()
  assert history(tmp_path / 'w', 'sft') == history(workdir, 'sft')[:2]
  curve = (workdir / 'stages/sft/seed-0/curve.jsonl').read_text()
  assert curve.startswith((tmp_path / 'w/stages/sft/seed-0/curve.jsonl').read_text())
  _die_at(monkeypatch, checkpoint.StageCheckpoints, 'save', lambda self, step, *_: step == 6)
  with pytest.raises(KeyboardInterrupt):
    compgen_jax.run(tiny(), tmp_path / 'w')
  monkeypatch.undo()
  assert compgen_jax.run(tiny(), tmp_path / 'w') == rows
  for stage in STAGES:
    assert history(tmp_path / 'w', stage) == history(workdir, stage)


@pytest.fixture(scope='module')
def one_by_one(tmp_path_factory):
  """Two replicates, interrupted after the first: (workdir, rows, its files then, and at the
  end)."""
  workdir = tmp_path_factory.mktemp('one_by_one')
  with pytest.MonkeyPatch.context() as patch:

    def is_last(stage, replicates, *_):
      return stage.name == 'rft' and [r.seed for r in replicates] == [0]

    _die_at(patch, stages, 'run', is_last)
    with pytest.raises(KeyboardInterrupt):
      compgen_jax.run(tiny(**REPLICATES), workdir)
  before = trained_files(workdir, seed=0)
  assert not trained_files(workdir, seed=1)
  rows = compgen_jax.run(tiny(**REPLICATES), workdir)
  return workdir, rows, before, trained_files(workdir, seed=0)


def test_a_replicate_that_is_done_is_not_trained_again(one_by_one):
  """An interruption that costs the replicates before it."""
  workdir, _, before, after = one_by_one
  assert before == after and len(before) > 10
  for seed in (0, 1):
    for stage in STAGES:
      origin = workdir / 'stages' / stage / f'seed-{seed}' / 'origin.json'
      assert json.loads(origin.read_text())['seed'] == seed


def test_a_replicate_of_several_is_the_run_of_its_seed(finished, one_by_one):
  """A seed of several that is not the run it stands for, or seeds that are all the same."""
  (alone, rows), (workdir, both, _, _) = finished, one_by_one
  assert [row for row in both if row['seed'] == 0] == rows
  assert {row['seed'] for row in both} == {0, 1}
  assert_same_training(workdir, alone, seed=0)
  for stage in STAGES:
    a, b = (history(workdir, stage, seed)[0] for seed in (0, 1))
    assert a != b  # here nothing is earned, so what differs in `rl` is lengths and entropies
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['contrasts'][0]['n_seeds'] == 2 and summary['contrasts'][0]['interval'] == 'seeds'


@pytest.mark.slow
def test_side_by_side_is_one_by_one(one_by_one, tmp_path, monkeypatch):
  """Replicates side by side that share randomness, a parent, a trip count or a file."""
  monkeypatch.setattr(platform, 'side_by_side', lambda: True)
  workdir, rows, _, _ = one_by_one
  got = compgen_jax.run(tiny(**REPLICATES), tmp_path / 'w')
  for seed in (0, 1):
    assert_same_training(tmp_path / 'w', workdir, seed)
  labels = [{k: v for k, v in row.items() if k not in ('value', 'n', 'low', 'high')} for row in got]
  for label, row in zip(labels, rows, strict=True):
    assert label.items() <= row.items()
  for a, b in zip(got, rows):
    assert abs(a['value'] - b['value']) <= 1 / a['n'] + 1e-9  # a token may round the other way


@pytest.mark.parametrize('side_by_side', [False, True])
def test_groups(finished, tmp_path, monkeypatch, side_by_side):
  """A seed that joins later and would train the others again, or seeds at different updates in one
  program."""
  monkeypatch.setattr(platform, 'side_by_side', lambda: side_by_side)
  config = from_config_dict(tiny(seeds=(3, 0, 1)))
  workdir, _ = finished  # of seed 0
  joining = [(3, 1), (0,)] if side_by_side else [(3,), (0,), (1,)]
  assert sorted(run.groups(config, workdir)) == sorted(joining)
  new = [(3, 0, 1)] if side_by_side else [(3,), (0,), (1,)]
  assert run.groups(config, tmp_path) == new


def test_when_a_checkpoint_is_due(tmp_path):
  """Updates of an hour that a crash takes along because the next round number was far; an
  evaluation during which there is something to lose."""
  config = from_config_dict(tiny(run__checkpoint_every=8, eval__every=5))
  stage = programs.build('sft', config, run.build_setup(config, 1), tmp_path)
  due = [n for n in range(1, 13) if stages.saves_at(stage, n, since_s=59.0)]
  assert due == [5, 8, 10, 12]  # curve, number, curve, end
  assert all(stages.saves_at(stage, n, since_s=60.0) for n in range(1, 13))


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
  """NaN that is trained on, saved or evaluated."""
  config = tiny(sft__warmup=0, sft__lr=1.0, optimizer__muon_scale=1e38)
  message = r'sft: by update \d+ there was NaN or infinity in 3 updates in a row'
  with pytest.raises(DivergedError, match=message) as e:
    compgen_jax.run(config, tmp_path / 'w')
  assert e.value.exit_status == 3 and '\n' not in str(e.value)
  folder = tmp_path / 'w/stages/sft/seed-0'
  assert folder.exists() and not (folder / 'evaluation.json').exists()


@pytest.mark.slow
def test_sampler_and_learner_apart_stop_the_run(finished, tmp_path):
  """Learning from other log-probabilities than were sampled, unnoticed; a limit that can't be
  raised where it stopped a run."""
  workdir, _ = finished
  shutil.copytree(workdir, tmp_path / 'w')
  config = tiny()
  # With a KL term, samples that earn nothing are learned from too.
  config.stages.strict = default.stage('rl', 'sft', 4, ('rl',), kl=0.1)
  config.run.max_log_prob_gap = 1e-12
  message = 'strict: by update 1 sampler and learner were .* nats apart'
  with pytest.raises(DivergedError, match=message) as e:
    compgen_jax.run(config, tmp_path / 'w')
  assert '\n' not in str(e.value)
  assert not list((tmp_path / 'w/stages/strict').glob('seed-0/checkpoints/*'))
  config.run.max_log_prob_gap = 1.0
  compgen_jax.run(config, tmp_path / 'w')


def test_an_unreadable_checkpoint_is_one_line(finished, tmp_path):
  """A damaged parent from which a child is trained all the same."""
  workdir, _ = finished
  shutil.copytree(workdir, tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w/stages/rl')
  for file in (tmp_path / 'w/stages/sft/seed-0/checkpoints').rglob('*'):
    if file.is_file() and '/d/' in str(file):
      file.write_bytes(b'\0' * file.stat().st_size)
  with pytest.raises(CheckpointError, match='is (unreadable|damaged)') as e:
    compgen_jax.run(tiny(), tmp_path / 'w')
  assert '\n' not in str(e.value)
