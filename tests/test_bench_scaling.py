"""What more devices and processes do: what is run for it, and what counts as work."""

import dataclasses
import os

import pytest

from compgen_jax.benchmark import scaling, table, timing
from compgen_jax.benchmark.scaling import Point
from compgen_jax.config import from_json, to_dict
from compgen_jax.errors import UserError
from compgen_jax.experiment import files
from configs import quickstart
from tests.experiments import tiny


def test_batches_grow_with_devices_where_it_says_so():
  """A batch that stays or grows in silence, stages that are not timed, or looks in between."""
  one, four = (scaling.prepared(quickstart.get_config().lock(), n) for n in (1, 4))
  assert set(one.stages) == {'sft', 'compound'} and not one.eval.every
  for stage, rows in (('sft', 64), ('compound', 128)):
    assert one.settings(stage).batch_rows == rows
    assert four.settings(stage).batch_rows == 4 * rows
  assert from_json(to_dict(four)) == four  # how a run is told


def test_points():
  """One device that is not the first, or a place of which only one kind is timed."""
  first, *rest = scaling.points()
  assert first == Point(1, 1, 1) and first.kind == 'strong'
  for p, d in scaling.PLACES[1:]:
    assert [point.kind for point in rest if point[:2] == (p, d)] == ['strong', 'weak']


def test_the_row_that_compiles_is_not_timed(tmp_path):
  rows = [dict(step=4, seconds=90.0), dict(step=8, seconds=92.0), dict(step=12, seconds=94.0)]
  files.write_sealed_jsonl(tmp_path / 'metrics.jsonl', rows)
  assert 1.0 / timing.update_s(tmp_path) == 2.0


def test_work_is_samples(monkeypatch):
  """Updates a second that are compared across batches of other sizes."""
  metrics = {1: 2.0, 2: 1.0}  # batches: updates a second

  def run(point, config, folder):
    for stage in ('sft', 'rl'):
      of_stage = scaling.workdirs.stage_folder(folder / 'run', stage, 3)
      of_stage.mkdir(parents=True)
      rows = [dict(step=4 * i, seconds=4 * i / metrics[point.batches]) for i in (1, 2, 3)]
      files.write_sealed_jsonl(of_stage / 'metrics.jsonl', rows)

  monkeypatch.setattr(scaling, '_run', run)
  monkeypatch.setattr(scaling, 'PLACES', ((1, 1), (1, 2)))
  found = scaling.measure(tiny(seeds=(3, 5)))
  assert [(row['kind'], row['work']) for row in found if row['stage'] == 'rl'] == [
    ('strong', 1.0), ('strong', 1.0), ('weak', 1.0)
  ]  # fmt: skip
  assert len(table.scaling(found).splitlines()) == 2 + len(found)


@pytest.mark.slow
def test_runs_and_what_is_said_of_one_that_fails(tmp_path):
  """Processes that do not find each other, share cores with their parent, or fail in silence."""
  affinity = os.sched_getaffinity(0)
  config = scaling.prepared(tiny(seeds=(3, 5)), 2)
  scaling._run(Point(2, 1, 2), config, tmp_path)
  metrics = scaling.workdirs.stage_folder(tmp_path / 'run', 'rl', 3) / 'metrics.jsonl'
  assert len(files.read_sealed_jsonl(metrics)) == scaling.CALLS['rl']
  assert os.sched_getaffinity(0) == affinity
  (tmp_path / 'other').mkdir()
  wrong = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=2))
  with pytest.raises(UserError, match=r'scaling: Point\(.*mesh.data=2: legal is -1'):
    scaling._run(Point(1, 1, 1), wrong, tmp_path / 'other')
