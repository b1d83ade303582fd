"""Findings 1 to 4: each arm is given what its config promises, and no more."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import run
from compgen_jax.learning import batches
from compgen_jax.learning.setup import Source
from compgen_jax.task import modules, tables
from configs import (
  estimators,
  finding1,
  finding2,
  finding3,
  finding4,
  layers,
  phase,
  tuning,
  with_validation,
)
from tests import helpers
from tests.models import quick_jit

NAMES = ('finding2', 'finding3', 'finding4')
FINDINGS = ('finding1', 'finding1:2+3', *NAMES, *(f'{name}:small' for name in NAMES))
ROOTS = ('sft', 'sft_missing', 'sft_isolated')


def finding(name):
  module, *size = name.split(':')
  return importlib.import_module(f'configs.{module}').get_config(*size)


def shown(config, stage, kind, n=200):
  """(share of the stage's problems, depth, modules) of n compositions per support and depth."""
  support = config.supports
  for name, share in zip(config.stages[stage].data, config.stages[stage].shares):
    built = tables.build(name, support[name], config.task, config.pools, 0)
    for depth in support[name].depths:
      rows = tables.sample_at_depth(built, jax.random.key(0), depth, n, built.depth_cap)
      for row in helpers.steps(rows, config.task):
        yield share / len(support[name].depths) / n, depth, {step[kind] for step in row}


@pytest.mark.parametrize('name', FINDINGS)
def test_all_arms_see_equally_much(name):
  """An arm that starts elsewhere or sees more samples: its gain would not be its data's."""
  config = from_config_dict(finding(name))
  arms = [arm for arm in config.stages if arm not in ROOTS]
  explore = [arm for arm in arms if config.kind(arm).explores]
  assert {'rft', 'rl', 'sft'} == {config.stages[arm].kind for arm in arms}
  assert len({config.stages[arm].steps for arm in arms}) == 1
  sizes = {(config.settings(arm).prompts, config.settings(arm).group) for arm in explore}
  assert len(sizes) == 1
  parents = {arm: config.stages[arm].init_from for arm in arms}
  others = (
    {'missing': 'sft_missing', 'isolated': 'sft_isolated'} if name.startswith('finding4') else {}
  )
  assert parents == {arm: 'sft' for arm in arms} | others
  assert all(config.stages[root].init_from == '' for root in ROOTS if root in config.stages)


@pytest.mark.parametrize('name', FINDINGS)
def test_any_finding_can_be_measured_on_the_validation_pool(name):
  """A size or a split that is lost, a stage that would be trained anew, or a split that is drawn
  from what is reported."""
  wanted, got = (from_config_dict(c) for c in (finding(name), with_validation.get_config(name)))
  validation = got.supports['validation']
  assert validation.pool == 'validation' and validation.prefix == 0
  reported = [
    got.supports[s] for split, s in got.eval.splits.items() if split in wanted.eval.splits
  ]
  assert max(validation.depths) == max(max(s.depths) for s in reported if s.pool == 'test')
  del got.supports['validation'], got.eval.splits['validation']
  assert got == wanted


@pytest.mark.parametrize('name', FINDINGS)
def test_no_arm_sees_what_is_reported_as_unseen(name):
  """A split on a training pool, or compositions that training holds under another name."""
  config = from_config_dict(finding(name))
  unseen = set(config.eval.splits) - set(config.eval.trained)
  assert {config.supports[config.eval.splits[split]].pool for split in unseen} == {'test'}
  trained = {support for stage in config.stages.values() for support in stage.data}
  assert {config.supports[support].pool for support in trained} <= {'sft', 'rl'}


@pytest.mark.parametrize('depths', ['2+3', '3'])
def test_finding_1_trains_on_the_depths_that_are_named(depths):
  """A composition of two steps where the config promises three alone, or `both` that is one."""
  config = from_config_dict(finding(f'finding1:{depths}'))
  wanted = {int(depth) for depth in depths.split('+')}
  plain = {name for name, support in config.supports.items() if not support.dry}
  data = {arm: plain & set(stage.data) for arm, stage in config.stages.items()}
  for arm in ('sft', 'sft_continued', 'compound', 'rft', 'rft_current'):
    assert {d for name in data[arm] for d in config.supports[name].depths} == wanted
  assert data['both'] == data['compound'] | data['atomic']
  of_atoms = sum(share for share, depth, _ in shown(config, 'both', 0, 20) if depth == 1)
  assert of_atoms == pytest.approx(0.5)
  with pytest.raises(ValueError, match=r"'4'; legal is 3 \| 2\+3"):
    finding1.get_config('4')


@pytest.mark.parametrize('stack, blocks', [('2', 2), ('3', 3), ('4', 4), ('2x2', 4), ('2x2+', 4)])
def test_layers_take_equal_time_on_the_validation_pool(stack, blocks):
  """A stack that is trained for longer, or measured on what is reported."""
  config = from_config_dict(layers.get_config(stack))
  assert config.model.depth == blocks
  longer = blocks / 2 if stack.endswith('+') else 1
  wanted = {'sft': layers.SFT * longer, 'compound': layers.RL * longer}
  for arm, updates in wanted.items():
    assert abs(config.stages[arm].steps * blocks / 2 - updates) <= 1
  measured = set(config.eval.splits) - set(config.eval.trained)
  assert {config.supports[config.eval.splits[split]].pool for split in measured} == {'validation'}
  with pytest.raises(ValueError, match="'5'; legal is 2"):
    layers.get_config('5')


def test_finding_3_holds_out_what_is_named():
  """Other mechanisms' arms, contrasts that average over these, or a typo that trains."""
  config = finding('finding3:merge+greater')
  none = {name for name in config.stages if name.startswith('none_')}
  assert none == {'none_merge', 'none_greater'}
  for name, terms in config.contrasts:
    assert {split for _, _, split, _ in terms} == {'with_merge', 'with_greater'}, name
    assert sum(weight for weight, *_ in terms) == pytest.approx(0)
  with pytest.raises(
    ValueError, match=r"mechanism 'merg'; legal is all \| small \| some of these.* merge"
  ):
    finding('finding3:merg')


@pytest.mark.parametrize('size, n_held, back', [('all', 8, 0.5), ('small', 4, 0.25)])
def test_finding_2_holds_skills_out(size, n_held, back):
  """A held-out skill that RL sees, or one that is put back as less of the prompts than is said; a
  routing mechanism beside a skill that is shown by itself."""
  config = from_config_dict(finding(f'finding2:{size}'))
  held = set(finding2.HELD[size])
  assert len(held) == n_held and held <= set(config.task.skills or held)
  share = {
    arm: {
      atoms: sum(
        s for s, depth, used in shown(config, arm, 1) if used & held and (depth == 1) == atoms
      )
      for atoms in (True, False)
    }
    for arm in ('none', 'alone', 'atoms', 'composed', 'rft')
  }
  want = {
    'none': (0, 0),
    'alone': (back, 0),
    'atoms': (back, 0),
    'composed': (0, back),
    'rft': (0, back),
  }
  for arm, (of_atoms, of_compositions) in want.items():
    np.testing.assert_allclose([share[arm][True], share[arm][False]], [of_atoms, of_compositions])
  mechanisms = {
    arm: set().union(*(used for _, depth, used in shown(config, arm, 0, n=400) if depth == 1))
    for arm in ('alone', 'atoms')
  }
  assert mechanisms == {
    'alone': {'previous'},
    'atoms': set(modules.names(config.task.routing_inventory)),
  }
  split = {name: config.supports[name] for name in ('held', 'kept')}
  assert set(split['held'].with_skills) == set(split['kept'].without_skills) == held


@pytest.mark.parametrize('size', ['all', 'small'])
def test_finding_3_holds_routing_mechanisms_out(size):
  """A held-out mechanism that RL sees, or one that is put back at another depth."""
  config = from_config_dict(finding(f'finding3:{size}'))
  assert len(finding3.HELD[size]) == {'all': 4, 'small': 2}[size]
  for held in finding3.HELD[size][:2]:
    for arm, depths in (('none', ()), ('depth1', (1,)), ('depth2', (2,)), ('depth3', (3,))):
      rows = list(shown(config, f'{arm}_{held}', 0, n=100))
      assert {depth for _, depth, used in rows if held in used} == set(depths)
      share = sum(s for s, _, used in rows if held in used)
      np.testing.assert_allclose(share, 0.25 if depths else 0)
    assert config.supports[f'with_{held}'].with_routings == (held,)
    assert config.stages[f'rft_{held}'].data == config.stages[f'depth2_{held}'].data


@pytest.mark.parametrize('size, seed', [('all', 0), ('small', 1)])
def test_finding_4_overlap_is_exact(size, seed):
  """Supports of unequal size, or an overlap that is there by chance."""
  config = from_config_dict(finding(f'finding4:{size}'))
  sizes = finding4.SIZES

  def build(name):
    return tables.build(name, config.supports[name], config.task, config.pools, seed)

  sft = build('sft')
  assert len(sft.table.depth) == sizes[-1]
  for n in sizes:
    for arm, shared in (('inside', n), ('overlap', n // 2), ('disjoint', 0)):
      stage = config.stages[f'{arm}_{n}']
      parts = [build(name) for name in stage.data]
      plain, prefixed = parts[::2], parts[1::2]
      for a, b in zip(plain, prefixed):
        assert tables.shared(a, b) == len(a.table.depth) == len(b.table.depth)
        assert b.config.prefix and not a.config.prefix
      assert sum(len(part.table.depth) for part in plain) == n
      assert sum(tables.shared(part, sft) for part in plain) == shared
      assert len(plain) == 1 or tables.shared(*plain) == 0
      assert len(set(stage.shares)) == 1


@pytest.mark.parametrize('size', ['all', 'small'])
def test_finding_4_parents(size):
  """An SFT parent that has seen what it should lack, or more tokens than that of finding 1."""
  config = from_config_dict(finding(f'finding4:{size}'))
  missing = set(finding4.MISSING[size])
  assert not any(used & missing for _, _, used in shown(config, 'sft_missing', 1))
  assert len(missing) == 4
  taught = [s for s in config.stages['sft_isolated'].data if not config.supports[s].dry]
  assert {config.supports[s].depths for s in taught} == {(1,)}
  setup = run.build_setup(config, 1)
  assert abs(_tokens(config, setup, 'sft_isolated') / _tokens(config, setup, 'sft') - 1) < 0.03


def _tokens(config, setup, stage, n=32):
  """Tokens of the traces of a batch of a stage (the mean of n)."""
  rows = zip(config.stages[stage].data, config.stage_rows(stage))
  sources = tuple(Source(name, config.supports[name], n * k) for name, k in rows)
  task, pools = config.task, config.pools
  samplers = {s.name: tables.build(s.name, s.config, task, pools, 0).sampler for s in sources}
  draw = quick_jit(lambda key: batches.draw(key, sources, samplers, setup))
  _, _, rendered = draw(jax.random.key(0))
  return float(np.sum(rendered.trace_length)) / n


@pytest.mark.parametrize('n', [12, 192])
def test_phase_varies_novelty_alone(n):
  """Prompts that are less new than the arm's name says, or arms that differ in another way; a K
  that no support can have."""
  config = finding('phase')
  for name in ('sft', 'sft_prefixed'):
    config.supports[name].compositions = n
  config = from_config_dict(config)
  sft = tables.build('sft', config.supports['sft'], config.task, config.pools, 0)
  assert len(sft.table.depth) == n
  assert config.eval.splits['unseen'] == 'unseen' and config.supports['unseen'].pool == 'test'
  for percent in map(int, phase.NOVELTY):
    stage = config.stages[f'novel_{percent}']
    new = {'seen': 0.0, 'new': 0.0}
    for name, share in zip(stage.data, stage.shares):
      support = tables.build(name, config.supports[name], config.task, config.pools, 0)
      same = support.table is not None and tables.shared(support, sft) == n
      new['seen' if same else 'new'] += share
      assert same or support.config.pool == 'rl'  # disjoint from SFT's by content
    assert new == pytest.approx({'seen': 1 - percent / 100, 'new': percent / 100})
    assert (stage.init_from, stage.steps) == ('sft', phase.UPDATES)
  some = finding('phase:0+100')
  assert [arm for arm in some.stages if arm.startswith('novel')] == ['novel_0', 'novel_100']
  with pytest.raises(
    ValueError, match="novelty '10'; legal is some of these, with \\+ between them: 0"
  ):
    finding('phase:0+10')


def test_estimators_differ_in_one_setting():
  """An arm that differs from the default in more than its name says, or not at all."""
  config = from_config_dict(finding('estimators'))
  default = config.settings('rloo')
  for arm in config.stages:
    if config.kind(arm).explores:
      assert config.stages[arm].data == config.stages['rloo'].data
      changed = {'reward': arm} if arm in estimators.REWARDS else {'estimator': arm}
      assert config.settings(arm) == dataclasses.replace(default, **changed)


def test_tuning_tries_settings_alone_on_the_validation_pool():
  """An arm that trains on something else, or a choice that is made on what is reported."""
  config = from_config_dict(finding('tuning'))
  wanted = from_config_dict(finding('finding1:2+3'))
  for arm, tries in tuning.TRIES.items():
    for name, changes in tries.items():
      stage, base = config.stages[f'{arm}_{name}'], wanted.stages[arm]
      assert (stage.data, stage.shares, stage.steps) == (base.data, base.shares, tuning.UPDATES)
      changed = dataclasses.replace(wanted.settings(arm), **changes)
      assert config.settings(f'{arm}_{name}') == changed
  assert len(tuning.TRIES['rft']) >= len(tuning.TRIES['compound'])
  measured = set(config.eval.splits) - set(config.eval.trained)
  assert {config.supports[config.eval.splits[split]].pool for split in measured} == {'validation'}
