"""Runs put together give what one run of all of them would have given, and nothing else."""

import csv
import dataclasses
import gzip
import io
import json

import pytest

import compgen_jax
from compgen_jax import config as config_lib
from compgen_jax.errors import ConfigError, DamageError
from compgen_jax.experiment import collected, files
from compgen_jax.report import comparison, page
from tests.reports import ARMS, make_config, make_run

SEEDS = (3, 5, 8)


def write_run(folder, config, levels=ARMS):
  """A finished run, as its workdir holds it."""
  rows, result = make_run(folder, config, levels)
  files.write_json(folder / 'config.json', config_lib.to_dict(config))
  files.write_jsonl(folder / 'results.jsonl', rows)
  files.write_json(folder / 'summary.json', result)
  return rows, result


def split_run(folder, config, rows, result):
  """The same run as one workdir per seed; returns their paths."""
  folders = []
  for seed in config.all_seeds:
    own = folder / f'seed-{seed}'
    alone = dataclasses.replace(config, seed=seed, seeds=())
    files.write_json(own / 'config.json', config_lib.to_dict(alone))
    files.write_jsonl(own / 'results.jsonl', [row for row in rows if row['seed'] == seed])
    files.write_json(own / 'summary.json', result | {'seeds': [seed]})
    folders.append(own)
  return folders


def changed(config, **changes):
  """The config with fields of its section `sft` changed."""
  return dataclasses.replace(
    config, kinds=config.kinds | {'sft': dataclasses.replace(config.kinds['sft'], **changes)}
  )


def test_replicates_of_several_workdirs_pool_like_one_run(tmp_path):
  """Another mean or interval than the run of all seeds has, in whatever order folders come."""
  config = make_config(seeds=SEEDS)
  rows, result = write_run(tmp_path / 'whole', config)
  folders = split_run(tmp_path, config, rows, result)
  (variant,) = collected.collect(folders[::-1])
  assert variant.name == '' and variant.values == {}
  assert variant.summary['seeds'] == list(SEEDS)
  for name in ('contrasts', 'table'):
    for ours, theirs in zip(variant.summary[name], result[name], strict=True):
      assert ours.keys() == theirs.keys()
      for field in ours:
        if isinstance(ours[field], float):
          assert ours[field] == pytest.approx(theirs[field], abs=1e-9), (name, field)
        else:
          assert ours[field] == theirs[field], (name, field)
  assert variant.summary['wall_time_s'] == 3 * result['wall_time_s']
  assert sorted(map(repr, variant.rows)) == sorted(map(repr, rows))


def test_a_single_run_keeps_what_it_says_of_itself(tmp_path):
  """Its interval over problems, which rows alone can't give, replaced by another."""
  _, result = write_run(tmp_path / 'one', make_config())
  (variant,) = collected.collect([tmp_path / 'one'])
  assert variant.summary['contrasts'] == result['contrasts']


def test_packed_rows_are_read(tmp_path):
  """Rows that were packed to be kept can't be collected, or half of them pass for all."""
  rows, _ = write_run(tmp_path / 'one', make_config())
  plain, packed = (tmp_path / 'one' / f'results.jsonl{end}' for end in ('', '.gz'))
  packed.write_bytes(gzip.compress(plain.read_bytes()))
  plain.unlink()
  assert compgen_jax.read(tmp_path / 'one') == rows
  (variant,) = collected.collect([tmp_path / 'one'])
  assert variant.rows == rows
  packed.write_bytes(packed.read_bytes()[:-20])
  with pytest.raises(DamageError, match='no whole gzip file'):
    compgen_jax.read(tmp_path / 'one')


def test_what_differs_names_a_variant(tmp_path):
  """Variants named by what is alike, or runs pooled whose configs could differ in a result."""
  config = make_config(seeds=(0, 1))
  write_run(tmp_path / 'a', config)
  write_run(tmp_path / 'b', changed(config, lr=0.0123))
  write_run(tmp_path / 'c', dataclasses.replace(changed(config, lr=0.0123), seeds=(2, 3)))
  variants = collected.collect([tmp_path / name for name in 'abc'])
  base = config.kinds['sft'].lr
  assert [v.values for v in variants] == [{'sft.lr': base}, {'sft.lr': 0.0123}]
  assert [v.name for v in variants] == [f'sft.lr={base:g}', 'sft.lr=0.0123']
  assert [v.summary['seeds'] for v in variants] == [[0, 1], [0, 1, 2, 3]]


def test_how_work_is_cut_makes_no_variant(tmp_path):
  """Two replicates kept apart because one was saved more often than the other."""
  config = make_config()
  other = dataclasses.replace(
    config, seed=1, run=dataclasses.replace(config.run, checkpoint_every=7)
  )
  write_run(tmp_path / 'a', config)
  write_run(tmp_path / 'b', other)
  (variant,) = collected.collect([tmp_path / 'a', tmp_path / 'b'])
  assert variant.summary['seeds'] == [0, 1]


@pytest.mark.parametrize('case, message', [
  ('twice', 'seed 0 is in'),
  ('experiment', 'not one experiment'),
  ('unfinished', 'not finished'),
  ('nothing', 'no readable config.json'),
  ('apart', 'no arm, split and depth in common'),
  ('broken', 'is not readable'),
])  # fmt: skip
def test_what_is_not_one_experiment_is_refused(case, message, tmp_path):
  """Numbers put together that do not belong together."""
  config = make_config()
  write_run(tmp_path / 'a', config)
  other = config
  if case == 'experiment':
    other = dataclasses.replace(config, experiment='another')
  write_run(tmp_path / 'b', other)
  if case == 'unfinished':
    (tmp_path / 'b' / 'summary.json').unlink()
  if case == 'nothing':
    (tmp_path / 'b' / 'config.json').unlink()
  if case == 'broken':
    (tmp_path / 'b' / 'summary.json').write_text('{')
  if case == 'apart':
    write_run(tmp_path / 'b', changed(config, lr=0.0123))
    path = tmp_path / 'b' / 'summary.json'
    held = json.loads(path.read_text())
    held['table'] = [entry | {'split': 'elsewhere'} for entry in held['table']]
    path.write_text(json.dumps(held))
  with pytest.raises(ConfigError, match=message) as e:
    collected.collect([tmp_path / 'a', tmp_path / 'b'])
  assert '\n' not in str(e.value)


def test_a_pooled_folder_reads_like_a_run(tmp_path):
  """A report without learning curves, or a folder that can't be collected again."""
  config = make_config(seeds=SEEDS[:2])
  rows, result = write_run(tmp_path / 'whole', config)
  folders = split_run(tmp_path, config, rows, result)
  for folder, seed in zip(folders, config.all_seeds):
    for path in (tmp_path / 'whole').glob(f'stages/*/seed-{seed}/metrics.jsonl'):
      copy = folder / path.relative_to(tmp_path / 'whole')
      copy.parent.mkdir(parents=True)
      copy.write_text(path.read_text())
  (variant,) = collected.collect(folders)
  out = tmp_path / 'out'
  collected.write(out, variant)
  page.write(out, variant.config, variant.rows, variant.summary)
  assert 'id="learning"' in (out / 'report.html').read_text()
  (again,) = collected.collect([out])
  assert again.summary['contrasts'] == variant.summary['contrasts']


@pytest.fixture(scope='module')
def grid(tmp_path_factory):
  """Six variants: two learning rates by three sizes of the SFT table."""
  folders = []
  for lr in (0.001, 0.002):
    for size in (50, 100, 200):
      config = changed(make_config(), lr=lr)
      sft = dataclasses.replace(config.supports['sft'], compositions=size)
      config = dataclasses.replace(config, supports=config.supports | {'sft': sft})
      folders.append(tmp_path_factory.mktemp('grid'))
      write_run(folders[-1], config, {arm: p + size / 1000 for arm, p in ARMS.items()})
  return collected.collect(folders)


def test_a_sweep_is_drawn_over_what_varies(grid):
  """Two independent fields taken for one, or a sweep over one number drawn as names."""
  assert [axis.field for axis in comparison.axes_of(grid)] == [
    'supports.sft.compositions',
    'sft.lr',
  ]
  assert comparison.over(grid) is None
  across, up = comparison.grid_of(grid)
  assert (across.field, up.field) == ('supports.sft.compositions', 'sft.lr')
  row = collected.collect([v.runs[0].folder for v in grid[:3]])
  assert comparison.over(row).values == (50, 100, 200)
  assert comparison.grid_of(row) is None


def test_the_comparison_holds_every_number(grid, tmp_path):
  """A variant, a contrast or a cell that is missing from the table or the page."""
  pytest.importorskip('matplotlib')
  comparison.write(tmp_path, grid)
  rows = list(csv.DictReader(io.StringIO((tmp_path / 'table.csv').read_text())))
  cells = {(r['variant'], r['arm'], r['split'], r['depth']) for r in rows if r['arm']}
  assert len(cells) == sum(len(v.summary['table']) for v in grid)
  held = json.loads((tmp_path / 'summary.json').read_text())
  text = (tmp_path / 'report.html').read_text()
  for variant in grid:
    for c in variant.summary['contrasts']:
      match = [r for r in rows if (r['variant'], r['contrast']) == (variant.name, c['name'])]
      assert [float(r['value']) for r in match] == [c['value']]
      assert match[0]['sft.lr'] == str(variant.values['sft.lr'])
      assert f'{c["value"]:+.1f}<small>' in text
  assert [v['name'] for v in held['variants']] == [v.name for v in grid]
  assert {p.name for p in (tmp_path / 'figures').iterdir()} == {'contrasts.png', 'accuracy.png'}
  assert all(name in comparison.text(grid) for name in (grid[0].name, 'ex.gain'))
