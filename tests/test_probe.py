"""What is asked of a run's models, and the rows that come of it.

The run is made up: oracles write in place of models, so that every score is known beforehand.
"""

import dataclasses

import numpy as np
import pytest

from compgen_jax import config as config_lib
from compgen_jax.errors import CheckpointError
from compgen_jax.experiment import asking, composability, files, probe, scores, terms
from compgen_jax.experiment.evaluate import SLACK
from compgen_jax.experiment.finished import open_run
from compgen_jax.report import page, probed
from compgen_jax.theory import witnesses
from compgen_jax.theory.identification import KINDS, Executions
from configs import default
from tests import oracles
from tests.experiments import tiny

SEEDS = (0, 1)
SKILLS = ('reverse', 'fork', 'climb', 'successor', 'sort_up')
ROUTINGS = ('previous', 'earlier', 'merge', 'first_input')


@pytest.fixture(scope='module', autouse=True)
def small_questions():
  """Fewer traces than of a real run, and one compiled program."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(asking, 'ROWS', 256)
    patch.setattr(probe, 'PROMPTS', 16)
    patch.setattr(probe, 'GOLDEN', 256)
    patch.setattr(terms, 'REACH', (16, 16))
    patch.setattr(terms, 'ENRICHED', (256, 4))
    patch.setattr(terms, 'KS', (1, 4, 16, 64))
    yield


@pytest.fixture(scope='module')
def config():
  made = tiny(seeds=SEEDS, eval__problems=256, eval__pass_k=(), contrasts=())
  made.task.update(routings=ROUTINGS, skills=SKILLS)
  made.supports.sft = default.support(compositions=6)
  made.supports.rl = default.support(pool='rl', depths=(2, 3))
  made.supports.unseen = default.support(pool='test', depths=(2, 3))
  made.supports.prefixed = default.support(pool='rl', depths=(2,), prefix=1)
  del made.supports['deeper'], made.eval.splits['deeper']
  made.eval.curve = ('unseen',)
  made.stages.rl.update(data=('rl', 'prefixed'), shares=(0.5, 0.5))
  return config_lib.from_config_dict(made)


def all_right(folder, config):
  """A run whose three stages were evaluated, and right in all."""
  items = dict.fromkeys(('unseen/2', 'unseen/3', 'seen/2', 'seen/3', 'atoms/1'), [True] * 256)
  oracles.write_run(folder, config, lambda _: dict.fromkeys(('sft', 'rl', 'rft'), items))
  return open_run(folder)


@pytest.fixture(scope='module')
def made_up(config, tmp_path_factory):
  """A run whose three stages were evaluated."""
  folder = tmp_path_factory.mktemp('made_up')
  return all_right(folder, config)


@pytest.fixture(scope='module')
def found(made_up):
  """Greedy, `sft` errs in the result exactly where a pair is unwitnessed; of its samples, every
  other one is right. `rl` never errs; `rft` has no checkpoint."""

  def writer_of(stage, seed):
    if stage == 'rft':
      raise CheckpointError('none')
    task = made_up.config.task
    pair_RxS = made_up.witnessed('sft', seed).pair_RxS

    def errs(steps, i, parents):
      routing, skill = steps[i]
      is_seen = pair_RxS[task.routings.index(routing), task.skills.index(skill)]
      return '' if is_seen or stage == 'rl' else 'result'

    right, wrong = oracles.writer(task, oracles.perfect), oracles.writer(task, errs)

    def write(problems, rendered, key, ids_B, temperature):
      is_right_B = (np.asarray(ids_B) % 2 == 1) & (temperature > 0)
      tokens = [w(problems, rendered, key, ids_B, temperature) for w in (right, wrong)]
      return np.where(is_right_B[:, None], *tokens)

    return write

  return probe.of_run(made_up, writer_of)


def rows_of(found, table, **wanted):
  rows = [r for r in found[table] if all(r[name] == value for name, value in wanted.items())]
  assert rows
  return rows


def test_arms_without_a_checkpoint_are_left_out(found):
  """A run that stops because one of its stages is not finished."""
  assert found['asked'] == ['sft', 'rl']
  assert {row['arm'] for row in found['modules']} == {'sft', 'rl'}


def test_modules_are_scored_by_context(found):
  """Witnesses of another replicate, RL's own support in place of its parent's, or a routing
  mechanism blamed for a result."""
  for row in rows_of(found, 'modules', sort='skill'):
    for side, right in (('witnessed', 1.0), ('unwitnessed', float(row['arm'] == 'rl'))):
      assert row['pairs'][side]['value'] in (right, None)
    positions = row['positions']
    assert sum(positions['n']) == row['all']['n'] and len(positions['n']) == 3
  for row in rows_of(found, 'modules', sort='routing'):
    assert row['all']['value'] == 1.0
  rows = rows_of(found, 'entanglement', kind='pairs', modules=[])
  value = {(r['arm'], r['sort']): r['value'] for r in rows}
  assert value == {
    ('sft', 'skill'): 1,
    ('sft', 'routing'): 0,
    ('rl', 'skill'): 0,
    ('rl', 'routing'): 0,
  }
  assert {row['over'] for row in found['entanglement']} == {'seeds'}
  n = sum(r['all']['n'] for r in rows_of(found, 'modules', arm='rl', sort='skill'))
  assert n == len(SEEDS) * 256 * (2 + 3)


def test_modules_that_are_practised_alike_are_a_group(config, tmp_path):
  """A held-out skill in one mean with the others, or told apart though all arms treat it alike."""
  supports = config.supports
  no_fork = dataclasses.replace(supports['rl'], without_skills=('fork',))
  atoms = dataclasses.replace(supports['rl'], pool='sft', depths=(1,), with_skills=('fork',))
  stage = config.stages['rl']
  arms = {
    'rl': dataclasses.replace(stage, data=('no_fork', 'fork'), shares=(0.5, 0.5)),
    'rft': dataclasses.replace(config.stages['rft'], data=('no_fork',), shares=(1.0,)),
  }
  held_out = dataclasses.replace(
    config,
    supports=supports | dict(no_fork=no_fork, fork=atoms),
    stages=config.stages | arms,
  )
  run = all_right(tmp_path, held_out)
  names = witnesses.module_names(run.config.task)
  groups = [[names[i] for i in group] for group in run.groups_of_modules()]
  assert sorted(groups) == sorted([list(ROUTINGS), [s for s in SKILLS if s != 'fork'], ['fork']])
  levels = {
    arm: witnesses.practised(
      [run.replicates[0].supports[name] for name in run.data(arm)], run.config.task
    )[names.index('fork')]
    for arm in run.arms
  }
  assert levels == dict(sft=2, rl=1, rft=0)


def test_pairs_that_an_arm_left_out(config, tmp_path):
  """Its parent's data, or another arm's, in place of its own; a mean of what leaves nothing out."""
  plain = dataclasses.replace(config.supports['rl'], without_pairs=('merge fork',))
  left_out = dataclasses.replace(config, supports=config.supports | dict(rl=plain, prefixed=plain))
  run = all_right(tmp_path, left_out)
  task = run.config.task

  def errs(steps, i, parents):
    return 'result' if steps[i] == ('merge', 'fork') else ''

  found = probe.of_run(run, lambda *_: oracles.writer(task, errs))
  rows = rows_of(found, 'entanglement', kind='own pairs', sort='skill', modules=[])
  value = {row['arm']: row['value'] for row in rows}
  assert value['sft'] < 1 and value['rl'] == 1
  (fork,) = rows_of(found, 'modules', arm='rl', module='fork')
  assert [fork['own pairs'][side]['value'] for side in ('witnessed', 'unwitnessed')] == [1, 0]
  (climb,) = rows_of(found, 'modules', arm='rl', module='climb')
  assert climb['own pairs']['unwitnessed']['n'] == 0


def test_a_group_has_its_own_mean(made_up):
  """A group's mean that is that of all."""
  e = Executions(
    module=np.repeat([4, 5, 0], 400),
    position=np.zeros(1200, int),
    right=np.tile(np.repeat([True, False], 200), 3) | (np.arange(1200) >= 400),
    witnessed_NxK=np.tile(np.repeat([True, False], 200), 3)[:, None].repeat(len(KINDS), axis=1),
    cluster=np.arange(1200),
    replicate=np.arange(1200) % 2,
  )
  groups = [np.arange(4), np.array([4]), np.arange(5, 9)]
  rows = scores._entanglement_rows(e, made_up.config, groups)
  value = {
    tuple(r['modules']): r['value'] for r in rows if (r['sort'], r['kind']) == ('skill', 'pairs')
  }
  assert value == {(): 0.5, SKILLS[:1]: 1.0, SKILLS[1:]: 0.0}
  assert {tuple(r['modules']) for r in rows if r['sort'] == 'routing'} == {()}


def test_swaps_are_scored(found):
  """The old pair's witness for the new one's, other inputs for the swapped problem, or swapped
  compositions that training may hold."""
  for row in rows_of(found, 'swaps', arm='rl'):
    assert row['exact']['value'] == row['there_before']['value'] == 1.0 and row['exact']['n'] > 30
  for is_seen in (True, False):
    (row,) = rows_of(found, 'swaps', arm='sft', sort='skill', witnessed=is_seen)
    assert row['there']['value'] == float(is_seen)
    assert row['before']['value'] == 1.0 and 0 < row['there_before']['value'] < 1


def test_swapped_compositions_stay_in_the_split(made_up):
  """A swap into SFT's or RL's pool, which would not be unseen."""
  question = probe._question(made_up, 'unseen', 0)
  support = made_up.replicates[0].supports['unseen']
  assert np.asarray(support.contains_all(question.swaps.compositions)).all()
  assert len(question.swapped_B) > 300
  picked = question.compositions.depth[question.swapped_B]
  np.testing.assert_array_equal(picked, question.swaps.compositions.depth)


def test_sampled_traces_are_judged(found, made_up):
  """Greedy traces in their place, or errors of other kinds."""
  (rl,), (sft,) = (rows_of(found, 'traces', arm=arm) for arm in ('rl', 'sft'))
  assert rl['n'] == 16 * probe.SAMPLES * len(SEEDS) and rl['strict']['value'] == 1.0
  assert rl['first_wrong'] == dict.fromkeys(('structure', 'operand', 'result', 'end'), 0.0)
  assert rl['distinct_traces'] == rl['distinct_selections'] == 1.0
  assert rl['rewarded'] == probe.SAMPLES
  wrong = sft['first_wrong']
  assert wrong['result'] == pytest.approx(1.0 - sft['strict']['value']) and wrong['result'] > 0.2
  assert sum(sft['first_wrong_step']) == round(wrong['result'] * sft['n'])


def test_golden_ambiguity_is_of_sfts_data(found, made_up):
  """RL's support, or one replicate's only."""
  names = witnesses.module_names(made_up.config.task)
  rows = rows_of(found, 'golden', data=['sft'])
  assert [row['module'] for row in rows] == list(names)
  steps = sum(row['n'] for row in rows if row['sort'] == 'skill')
  assert 2 * 256 * len(SEEDS) < steps < 3 * 256 * len(SEEDS)
  assert any(row['ambiguous'] for row in rows)
  assert all(0 <= row['ambiguous'] <= 1 for row in rows if row['n'])


def test_exploring_starts_from_what_the_parent_earns(found, made_up):
  """Samples of the arm itself, of its prefixed prompts, or a pass rate of other samples."""
  all_, two, three = rows_of(found, 'reach', arm='rl')
  assert (all_['parent'], all_['depth'], all_['prompts']) == ('sft', 0, 16 * len(SEEDS))
  assert two['prompts'] == three['prompts'] == 8 * len(SEEDS)
  assert 'pass@16' in all_ and 'pass@64' not in all_
  # Of a prompt's 16 samples, 8 or all are right.
  assert all_['never'] == 0.0 and all_['pass@16'] == 1.0 and 0 < all_['always'] < 1
  assert all_['pass@1'] == pytest.approx(1 - 0.5 * (1 - all_['always']))
  assert all_['informative'] == pytest.approx((1 - all_['always']) * 8 / 15)
  # Over replicates, as prompts of one share its model.
  assert all_['over'] == 'seeds' and all_['intervals']['pass@16'] == (1.0, 1.0)
  low, high = all_['intervals']['always']
  assert low <= all_['always'] <= high


def test_what_is_enriched_is_gained(found):
  """Gains of another arm, or items of different replicates mixed up: here the pairs that gain are
  those whose samples are right by halves, and these are enriched."""
  (row,) = rows_of(found, 'gains', arm='rl', kind='pairs')
  assert row['items'] == len(row['points']) > 20
  assert {(headroom, gain) for _, _, headroom, gain in row['points']} == {(0.0, 0.0), (0.5, 1.0)}
  for value, within, _, gain in row['points']:
    assert (value > 0) == (within > 0) == bool(gain)
  assert row['within']['value'] > 0.7 and row['headroom']['value'] == pytest.approx(1.0)
  rows = [row for row in found['enrichment'] if row['module'] in SKILLS and row['p0'] < 1]
  assert len(rows) > 2 and all(row['reward_if'] > row['reward_if_not'] for row in rows)


def test_tables_and_figures_have_every_arm(made_up, found, tmp_path):
  """A table that fails on what it is given, or a row without its arm."""
  whole = composability.of_finished(made_up) | found
  text = probed.text(whole)
  for line in (
    'sft: unseen',
    'rl: unseen: skill, unwitnessed pair',
    'rl from sft, groups of 2: all',
  ):
    assert line in text
  assert 'not asked, because there is no checkpoint: rft' in text
  files.write_json(tmp_path / 'theory.json', whole)  # no NaN
  pytest.importorskip('matplotlib')
  assert 'sft: unseen' in ''.join(page._theory(tmp_path))  # of the report; it also saves figures
  names = {path.stem for path in (tmp_path / 'figures').iterdir()}
  assert names == {'witnesses', 'predicted', 'entanglement', 'enrichment'}


def test_models_are_asked(finished):
  """A sampler that ignores the temperature, or traces that are cut off."""
  opened = open_run(finished[0], ('rl',))
  task, write = opened.config.task, probe._model(opened, 'rl', 0)
  compositions = probe._question(opened, 'unseen', 0).compositions
  (judged, cold), (_, again), (_, warm) = (
    asking.ask(write, task, compositions, 0, 1, temperature) for temperature in (0.0, 0.0, 1.0)
  )
  assert cold.shape == (16, task.trace_width(2) + SLACK) and judged.said.values.length.shape[1] == 4
  np.testing.assert_array_equal(cold, again)
  assert np.any(cold != warm)


def test_samples_of_a_prompt_are_one_cluster():
  """An interval as if 16 samples of each of 64 prompts were 1,024 prompts."""
  prompt_N = np.repeat(np.arange(64), 16)
  right_N = prompt_N % 4 == 0
  alone, clustered = scores.share(right_N, 0 * prompt_N), scores.share(right_N, prompt_N)
  assert alone['value'] == clustered['value'] == 0.25 and clustered['n'] == 1024
  assert clustered['high'] - clustered['low'] > 3.5 * (alone['high'] - alone['low'])
  assert scores.share(right_N[:0], prompt_N[:0])['value'] is None
