"""Scores of modules, on oracles that err where they are told: the scores are known beforehand."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from compgen_jax.experiment import asking
from compgen_jax.theory import identification, witnesses
from compgen_jax.theory.identification import KINDS
from tests import helpers, oracles

TASK, N = oracles.TASK, oracles.N
NAMES = witnesses.module_names(TASK)


@functools.cache
def question():
  return helpers.random_compositions(TASK, N, (2, 3), 3, seed=1)


@functools.cache
def seen():
  """What 25 other compositions witness."""
  support = helpers.random_compositions(TASK, 25, (2, 3), 3, seed=2)
  return witnesses.of_steps(witnesses.steps_of(support, TASK), TASK)


@functools.cache
def own():
  """What 25 others witness: data of an arm that goes on from there."""
  support = helpers.random_compositions(TASK, 25, (2, 3), 3, seed=3)
  return witnesses.of_steps(witnesses.steps_of(support, TASK), TASK)


def executions(errs, witnessed=None):
  judged, _ = asking.ask(oracles.writer(TASK, errs), TASK, question(), 0)
  steps = witnesses.steps_of(question(), TASK)
  ids = identification.composition_ids(question())
  return identification.executions(steps, judged, witnessed or seen(), own(), ids, 0)


def accuracy(e, inside_N) -> float:
  assert inside_N.any()
  return float(np.mean(e.right[inside_N]))


def is_witnessed(kind, steps, i, parents) -> bool:
  """By the arrays, whose meaning tests/test_witnesses.py proves."""
  routing, skill = steps[i]
  r = [m.name for m in TASK.routing_inventory].index(routing)
  s = [m.name for m in TASK.skill_inventory].index(skill)
  makers = [m.name for m in TASK.skill_inventory] + ['input']
  if kind == 'pairs':
    return bool(seen().pair_RxS[r, s])
  if kind == 'own pairs':
    return bool(own().pair_RxS[r, s])
  return all(seen().interface_PxRxS[makers.index(p), r, s] for p in parents)


@pytest.mark.parametrize('kind', ['pairs', 'interfaces', 'own pairs'])
def test_oracle_that_errs_exactly_in_unwitnessed_contexts(kind):
  """Contexts of other steps, or the sides changed: it scores 1 and 0, its entanglement is 1."""

  def errs(steps, i, parents):
    return '' if is_witnessed(kind, steps, i, parents) else 'operand result'

  e = executions(errs)
  k = KINDS.index(kind)
  for module in range(len(NAMES)):
    mine = e.module == module
    for is_seen in (True, False):
      inside = mine & (e.witnessed_NxK[:, k] == is_seen)
      assert not inside.any() or accuracy(e, inside) == is_seen
  counts = identification.tally(e, 1 - e.witnessed_NxK[:, k], e.module)
  right, n = counts.right.sum(axis=0), counts.n.sum(axis=0)
  np.testing.assert_array_equal(right[:, 0], n[:, 0])
  assert not right[:, 1].any() and n.sum() == len(e.right)


def test_oracle_that_errs_at_a_module():
  """Errors that are passed on to the modules behind, or put down to the step's other module."""
  e = executions(lambda steps, i, parents: 'result' if steps[i][1] == 'climb' else '')
  by_name = {name: accuracy(e, e.module == m) for m, name in enumerate(NAMES)}
  assert by_name == {name: float(name != 'climb') for name in NAMES}
  for k in range(len(KINDS)):  # no worse in unwitnessed contexts
    counts = identification.tally(e, 1 - e.witnessed_NxK[:, k], e.module)
    share = counts.right.sum(axis=0) / np.maximum(counts.n.sum(axis=0), 1)
    differs = (share[:, 0] != share[:, 1]) & np.all(counts.n.sum(axis=0) > 0, axis=1)
    assert not differs.any()


def test_oracle_that_errs_at_a_position():
  """Positions counted from the end, or over both modules of a step."""
  e = executions(lambda steps, i, parents: 'operand' if i == 1 else '')
  is_routing = e.module < TASK.n_routings
  for position in range(3):
    at = e.position == position
    assert accuracy(e, at & is_routing) == float(position != 1)
    assert accuracy(e, at & ~is_routing) == 1.0
  assert np.bincount(e.position).tolist() == [2 * N, 2 * N, N]


def test_compact_traces_show_no_routing():
  """Operands that are not written, all taken for right."""
  compact = dataclasses.replace(TASK, trace='compact')
  e = executions(oracles.perfect, witnessed=dataclasses.replace(seen(), task=compact))
  assert np.all(e.module >= TASK.n_routings) and len(e.right) == question().depth.sum()


def test_clusters_are_compositions_of_a_replicate():
  """Equal compositions counted as independent, or those of two replicates as one."""
  asked = jax.tree.map(lambda x: np.concatenate([x[:2], x[:2]]), question())
  ids = identification.composition_ids(asked)
  assert ids[0] == ids[2] and ids[1] == ids[3] and ids[0] != ids[1]
  e = executions(oracles.perfect)
  both = identification.join([e, e._replace(replicate=e.replicate + 1)])
  alone, two = (identification.tally(x, np.zeros(len(x.right), int), x.module) for x in (e, both))
  assert len(two.n) == 2 * len(alone.n) == 2 * len(set(e.cluster.tolist()))
  left_out = identification.tally(e, np.where(e.position == 0, 0, -1), e.module)
  assert left_out.n.sum() == 2 * N


# Swaps --------------------------------------------------------------------------------------------


def test_swaps_change_one_module():
  """A step beyond the depth, the module itself drawn again, or a second change."""
  swaps = identification.draw_swaps(question(), TASK, 8, 0)
  old = np.stack(question()[1:], axis=2)[:, None]
  new = np.stack(swaps.compositions[1:], axis=3)
  changed = old != new
  assert np.all(changed.sum(axis=(2, 3)) == 1)
  b, k, step, sort = np.nonzero(changed)
  np.testing.assert_array_equal(step, swaps.step[b, k])
  np.testing.assert_array_equal(sort, swaps.sort[b, k])
  assert np.all(swaps.step < question().depth[:, None])
  assert new[..., 0].max() < TASK.n_routings and new[..., 1].max() < TASK.n_skills
  for which in (0, 1):  # all modules are drawn about equally often
    drawn = np.bincount(new[b, k, step, sort][sort == which])
    assert drawn.min() > 0.7 * drawn.mean()


def swap_effects(errs, swaps=None):
  if swaps is None:
    swaps = identification.draw_swaps(question(), TASK, 1, 0)
    swaps = jax.tree.map(lambda x: x[:, 0], swaps)
  write = oracles.writer(TASK, errs)
  old, new = (asking.ask(write, TASK, c, 7)[0] for c in (question(), swaps.compositions))
  return identification.effects(old, new, swaps), swaps


def test_an_oracle_whose_modules_are_apart_passes_every_swap():
  """Other inputs for the swapped problem, or later strings, which must change, compared."""
  effects, _ = swap_effects(oracles.perfect)
  assert all(x.all() for x in effects)


def test_swaps_show_an_oracle_that_errs_at_a_module():
  """The old module's verdict for the new one's."""
  effects, swaps = swap_effects(lambda s, i, p: 'result' if s[i][1] == 'climb' else '')
  climb = TASK.skills.index('climb')
  at = np.arange(N)
  to_climb = (swaps.sort == 1) & (swaps.compositions.skill[at, swaps.step] == climb)
  from_climb = (swaps.sort == 1) & (question().skill[at, swaps.step] == climb)
  assert to_climb.any() and from_climb.any()
  np.testing.assert_array_equal(effects.there, ~to_climb)
  np.testing.assert_array_equal(effects.there_before, ~from_climb)
  assert effects.before.all() and effects.after.all()


def test_swaps_show_what_else_changes():
  """An oracle whose first step goes wrong with the last skill, and whose last with the first."""

  def reads_ahead(steps, i, parents):
    return 'result' if i == 0 and steps[-1][1] == 'fork' else ''

  def remembers(steps, i, parents):
    return 'result' if i == len(steps) - 1 > 0 and steps[0][1] == 'fork' else ''

  fork = TASK.skills.index('fork')
  at, last = np.arange(N), question().depth - 1
  for errs, source, name in ((reads_ahead, last, 'before'), (remembers, 0 * last, 'after')):
    effects, swaps = swap_effects(errs)
    is_fork = [c.skill[at, source] == fork for c in (question(), swaps.compositions)]
    turned = (is_fork[0] != is_fork[1]) & (swaps.step == source)
    assert turned.any()
    np.testing.assert_array_equal(getattr(effects, name), ~turned)


def test_swaps_of_broken_traces_prove_nothing():
  """Strings of traces without structure compared, and found to be alike."""
  swaps = jax.tree.map(lambda x: x[:, 0], identification.draw_swaps(question(), TASK, 1, 0))
  judged, _ = asking.ask(oracles.writer(TASK, oracles.perfect), TASK, question(), 7)
  broken = judged._replace(
    verdict=judged.verdict._replace(structure=np.zeros_like(judged.verdict.structure))
  )
  effects = identification.effects(judged, broken, swaps)
  assert not (effects.before | effects.there | effects.after).any()


# Two names for one module -------------------------------------------------------------------------


def test_two_names_for_one_skill():
  """A copy of a skill under another name: an oracle that knows it is the same scores both alike,
  and one that knows the first name only is found out, by name and by swap."""
  climb, copy = (TASK.skills.index(name) for name in ('climb', 'copy_of_climb'))
  asked = question()
  renamed = asked._replace(skill=np.where(asked.skill == climb, copy, asked.skill))
  has_climb = ((asked.skill == climb) & (np.arange(3) < asked.depth[:, None])).any(axis=1)

  def knows_one_name(steps, i, parents):
    return 'result' if steps[i][1] == 'copy_of_climb' else ''

  for errs, is_alike in ((oracles.perfect, True), (knows_one_name, False)):
    e = executions(errs)
    scores = [accuracy(e, e.module == TASK.n_routings + m) for m in (climb, copy)]
    assert scores == [1.0, float(is_alike)]
    write = oracles.writer(TASK, errs)
    old, new = (asking.ask(write, TASK, c, 3)[0] for c in (asked, renamed))
    same = np.all(old.said.values.letters == new.said.values.letters, axis=(1, 2))
    assert has_climb.any() and same[~has_climb].all()
    assert np.all(same[has_climb] == is_alike)
