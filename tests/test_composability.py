"""Answers and witnesses of a run put together, and how they are shown.

The run is made up: nothing is trained. Its arms are oracles that err where they are told.
"""

import collections
import json
import subprocess
import sys

import numpy as np
import pytest

from compgen_jax import config as config_lib
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import composability, exposure, files, run
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.record import Record
from compgen_jax.report import composability as shown
from compgen_jax.report import page
from configs import default
from tests import helpers, oracles
from tests.experiments import tiny

SEEDS = (0, 1)


def pairs_of(steps, task) -> set:
  return {pair for row in helpers.steps(steps, task) for pair in row}


@pytest.fixture(scope='module')
def config():
  made = tiny(seeds=SEEDS, eval__problems=128, eval__pass_k=(), contrasts=())
  # So many modules that some dry step keeps any list of steps within its pool.
  made.task.routings += ('halves', 'greater', 'bind_first')
  made.task.skills += ('rotate_left', 'fork', 'swap_ends', 'sort_up')
  made.supports.sft.compositions = 24
  # The same table, of which every composition is to count once.
  made.supports.sft_again = made.supports.sft.copy_and_resolve_references()
  made.stages.sft.update(data=('sft', 'sft_again'), shares=(0.5, 0.5))
  made.supports.prefixed = default.support(pool='test', depths=(2,), prefix=1)
  made.eval.splits.prefixed = 'prefixed'
  made.supports.chosen = default.support(pool='validation', depths=(3,))
  made.eval.splits.chosen = 'chosen'
  return config_lib.from_config_dict(made)


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
  """`sft` is right where all pairs are witnessed, `rl` everywhere; `rft` is still to come."""
  folder = tmp_path_factory.mktemp('oracles')

  def answers(replicate):
    known = pairs_of(replicate.supports['sft'].table, config.task)
    items = {'sft': {}, 'rl': {}}
    for (split, depth), (problems, _) in replicate.evaluator.problems.items():
      rows = helpers.steps(problems.composition, config.task)
      real = [row[n_dry:] for row, n_dry in zip(rows, problems.dry)]
      items['sft'][f'{split}/{depth}'] = [set(row) <= known for row in real]
      items['rl'][f'{split}/{depth}'] = [True] * len(rows)
    return items

  oracles.write_run(folder, config, answers)
  return folder


@pytest.fixture(scope='module')
def found(workdir):
  return composability.of_run(workdir)


def rows_of(rows, **wanted):
  return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_answers_are_those_of_the_problems(found):
  """Problems of another seed, split or order, dry steps that count, or RL's support for SFT's."""
  for split, depth in (('unseen', 2), ('deeper', 3), ('prefixed', 2)):
    of_split = rows_of(found['accuracy'], split=split, kind='pairs')
    assert {row['depth'] for row in of_split} == {depth}
    by_arm = {arm: {r['witnessed']: r for r in rows_of(of_split, arm=arm)} for arm in ('sft', 'rl')}
    assert len(by_arm['sft']) > 1
    assert {n: r['accuracy'] for n, r in by_arm['sft'].items()} == {
      n: float(n == depth) for n in by_arm['sft']
    }
    assert {r['accuracy'] for r in by_arm['rl'].values()} == {1.0}
    assert sum(r['n'] for r in by_arm['sft'].values()) == 128 * len(SEEDS)


def test_arms_that_are_not_evaluated_are_left_out(found, workdir):
  """A stage that is still to come, or one that was not asked for."""
  assert (found['arms'], found['seeds']) == (['sft', 'rl'], {'sft': [0, 1], 'rl': [0, 1]})
  assert composability.of_run(workdir, ('rl',))['arms'] == ['rl']
  assert found['witnessed_by'] == {arm: ['sft', 'sft_again'] for arm in ('sft', 'rl')}


def test_supports_of_every_replicate(found):
  """One seed's support reported for all, or an atom's parent that is not an input."""
  sft = [row for row in found['supports'] if row['data'] == ['sft', 'sft_again']]
  assert [row['seed'] for row in sft] == [0, 1] and not any(row['sampled'] for row in sft)
  assert all(row['compositions'] == 24 for row in sft)
  (rl, *_) = [row for row in found['supports'] if row['data'] == ['rl', 'atoms']]
  assert rl['sampled'] and rl['witnessed']['pairs'] == (48, 48)
  assert rl['closure']['pairs'] == pytest.approx([1.0] * len(rl['closure']['depths']))


def test_witnesses_predict_the_oracle_and_the_control_does_not(found):
  """Regressions fitted and judged on the same half, or on answers of other problems."""
  rows = {row['model']: row for row in rows_of(found['predictions'], arm='sft', split='unseen')}
  control, pairs = rows['depth'], rows['depth, pairs']
  assert control['n_fitted'] == control['n_measured'] == 128
  assert pairs['log_loss'] < 0.1 < 0.5 < control['log_loss']
  assert pairs['log_odds_per_unwitnessed_step']['pairs'] < -2
  assert pairs['rank_correlation']['value'] > 0.6
  assert control['rank_correlation_by_depth']['2']['value'] is None
  assert control['fitted_on'] is None and not rows_of(found['predictions'], split='seen')


def test_regressions_are_fitted_on_the_validation_pool(found):
  """A regression that has seen problems it is judged on, or a validation split that is reported."""
  (row,) = rows_of(found['predictions'], arm='sft', split='deeper', model='depth, pairs')
  assert row['fitted_on'] == 'chosen' and (row['n_fitted'], row['n_measured']) == (256, 256)
  assert row['log_loss'] < 0.1
  assert not rows_of(found['accuracy'], split='chosen')
  assert not rows_of(found['predictions'], split='chosen')


def test_exposure_counts_the_compositions_of_sft(config, tmp_path):
  """Modules counted by use and not by composition, those of another replicate or of RL's data, or
  steps of a split that is trained on or that settings are chosen on."""
  files.write_json(tmp_path / 'config.json', config_lib.to_dict(config))
  setup = run.build_setup(config, n_devices=1)
  names = (*config.task.routings, *config.task.skills)
  n_each, classes = collections.Counter(), collections.Counter()
  for seed in SEEDS:
    replicate = run.build_replicate(config, setup, seed)
    rows = helpers.steps(replicate.supports['sft'].table, config.task)
    held = {name: sum(any(name in step for step in row) for row in rows) for name in names}
    measured = []
    for name in names:
      kind = 'routing' if name in config.task.routings else 'skill'
      least = max(n for n in exposure.CLASSES if n <= held[name])
      classes[kind, least] += 1
      label = dict(metric=f'{kind}_accuracy', module=name, depth=2, n=8)
      for split, value in (('unseen', float(held[name] >= 3)), ('seen', 0.5), ('chosen', 0.5)):
        measured.append(label | dict(split=split, value=value))
      n_each[kind, least] += 8
    items = {
      f'{s}/{d}': [True] * len(p.dry) for (s, d), (p, _) in replicate.evaluator.problems.items()
    }
    for arm in ('sft', 'rl'):
      record = Record(tmp_path, config, arm, seed)
      record.write_evaluation(Evaluation(measured, items), replicate.evaluator.settings)
  found = composability.of_run(tmp_path)
  assert {(r['arm'], r['kind'], r['least']): (r['modules'], r['n']) for r in found['exposure']} == {
    (arm, *key): (n, n_each[key]) for key, n in classes.items() for arm in ('sft', 'rl')
  }
  assert len(classes) > 5 and {k for k, _ in classes} == {'routing', 'skill'}
  for row in found['exposure']:
    assert row['accuracy'] == float(row['least'] >= 3)
    assert row['low'] <= row['accuracy'] <= row['high']
  text = shown.text(found)
  assert "a skill's steps that are right, %, by SFT's compositions that hold it" in text
  assert str(classes['skill', 3]) in text


def test_evaluations_of_other_problems_are_refused(config, workdir, tmp_path):
  """Answers matched with problems that they are not of: every number would be noise."""
  files.write_json(tmp_path / 'config.json', config_lib.to_dict(config))
  held = files.read_sealed(workdir / 'stages/sft/seed-0/evaluation.json')
  row = dict(split='unseen', depth=2, metric='skill_accuracy', module='reverse', value=1.0, n=257)
  file = tmp_path / 'stages/sft/seed-0/evaluation.json'
  files.write_sealed(file, held | {'rows': [row]})
  with pytest.raises(ConfigError, match='other problems of unseen/2'):
    composability.of_run(tmp_path)
  files.write_sealed(file, held | {'rows': [row | {'n': 1}]})
  assert composability.of_run(tmp_path)['seeds'] == {'sft': [0]}


def test_mistakes_are_one_line(config, workdir, tmp_path):
  """A traceback, or an empty report of a run that has measured nothing."""
  files.write_json(tmp_path / 'config.json', config_lib.to_dict(config))
  for folder, arms, message in (
    (workdir, ('nope',), "arm='nope': legal is"),
    (workdir, ('rft',), 'none of rft has been evaluated'),
    (tmp_path, (), 'none of sft, '),
  ):
    with pytest.raises(ConfigError, match=message):
      composability.of_run(folder, arms)


# Shown --------------------------------------------------------------------------------------------


def test_text_has_every_arm_and_number(found):
  """A table without its arms, or an accuracy over the wrong number of witnessed pairs."""
  lines = shown.text(found).splitlines()
  title = 'accuracy, %, by witnessed (routing, skill) pairs: deeper, depth 3'
  table = lines[lines.index(title) + 1 :][:4]
  assert [line.split()[0] for line in table] == ['arm', 'sft', 'rl', 'problems']
  assert table[0].split('  ')[-1].strip() == '3 of 3'
  assert table[1].split('  ')[-1].strip().startswith('100.0 [')
  n = sum(map(int, table[3].split()[1:]))
  assert n == 128 * len(SEEDS)
  assert any(line.startswith('sft: depth, witnesses') for line in lines)


def test_figure_shows_accuracies_by_share(found):
  """Counts on an axis of shares, a trained split, or an arm that looks like another elsewhere."""
  pytest.importorskip('matplotlib')
  from compgen_jax.report import theory_figures

  panels = theory_figures.witness_panels(found, 'pairs')
  assert {split for (split, _), _ in panels} == {'unseen', 'deeper', 'prefixed'}
  drawn = theory_figures.witnesses(found, panels, 'pairs')
  for ax, (_, rows) in zip(drawn.axes, panels):
    sft = rows_of(rows, arm='sft')
    line = ax.get_lines()[0]
    assert list(line.get_xdata()) == [100 * row['witnessed'] / row['depth'] for row in sft]
    assert list(line.get_ydata()) == [100 * row['accuracy'] for row in sft]
  stages = found['stages']
  looks = theory_figures.Arms(('rl',), tuple(stages))
  assert looks.look('rl') == theory_figures.look(stages.index('rl'))


def test_command_writes_what_it_prints(workdir):
  """A command that runs only from Python, or files that are not there."""
  command = [sys.executable, '-m', 'compgen_jax.theory', f'--workdir={workdir}', '--arm=sft,rl']
  result = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert result.returncode == 0, result.stderr
  held = json.loads((workdir / 'theory.json').read_text())
  assert result.stdout == page.theory_text(held) + '\n' and held['arms'] == ['sft', 'rl']
  pytest.importorskip('matplotlib')
  assert (workdir / 'figures' / 'witnesses.png').stat().st_size > 10_000


def test_all_rows_are_finite(found):
  """NaN, which JSON does not have."""
  json.dumps(found, allow_nan=False)
  assert all(0 <= row['low'] <= row['accuracy'] <= row['high'] <= 1 for row in found['accuracy'])
  assert np.isfinite([row['log_loss'] for row in found['predictions']]).all()
