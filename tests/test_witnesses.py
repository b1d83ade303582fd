"""Witnesses: what reads what, modules that occur together, and the closure, by known cases."""

import itertools

import numpy as np
import pytest

from compgen_jax.task import modules, tables
from compgen_jax.theory import closure, witnesses
from compgen_jax.theory.witnesses import KINDS
from tests import helpers, reference

SMALL = helpers.task(
  routings=('previous', 'earlier', 'merge', 'first_input'), skills=('reverse', 'fork', 'climb')
)
ROUTINGS = modules.names(SMALL.routing_inventory)
SKILLS = (*modules.names(SMALL.skill_inventory), 'input')
CHAIN = (
  ('merge', 'reverse'), ('previous', 'fork'), ('merge', 'climb'), ('earlier', 'reverse'),
  ('first_input', 'fork'),
)  # fmt: skip


def seen_in(rows, task=SMALL, dry=0) -> witnesses.Witnesses:
  return witnesses.of_steps(steps_of(rows, task, dry), task)


def steps_of(rows, task=SMALL, dry=0) -> witnesses.Steps:
  return witnesses.steps_of(helpers.composition(rows, task, 6), task, dry)


def interfaces(seen: witnesses.Witnesses) -> set[tuple[str, str, str]]:
  return {(SKILLS[p], ROUTINGS[r], SKILLS[s]) for p, r, s in np.argwhere(seen.interface_PxRxS)}


def needed(row) -> list[list[tuple[str, str, str]]]:
  """The interfaces of each step, in plain Python."""
  makers, found = ['input', 'input'], []
  for routing, skill in row:
    read = {'previous': makers[-1:], 'earlier': makers[-2:-1], 'merge': makers[-2:]}
    found.append([(parent, routing, skill) for parent in read.get(routing, ['input'])])
    makers.append(skill)
  return found


def keys(interface, kind):
  """What of an interface has to be witnessed, as parts of a tuple."""
  parent, routing, skill = interface
  of_kind = {
    'modules': [(routing,), (skill, '')],
    'pairs': [(routing, skill)],
    'parents': [(parent, routing)],
    'interfaces': [interface],
  }
  return of_kind[kind]


def expected_coverage(rows, support, kind) -> list[int]:
  held = {key for row in support for step in needed(row) for i in step for key in keys(i, kind)}
  return [
    sum(all(key in held for i in step for key in keys(i, kind)) for step in needed(row))
    for row in rows
  ]


def everything(depth) -> list[tuple]:
  """All live compositions of a depth, by the reference."""
  steps = itertools.product(ROUTINGS, SKILLS[:-1])
  return [row for row in itertools.product(steps, repeat=depth) if reference.is_live(row)]


def some(n, depths=(2, 3), seed=0) -> list[tuple]:
  rows = [row for depth in depths for row in everything(depth)]
  return [rows[i] for i in np.random.default_rng(seed).choice(len(rows), n, replace=False)]


# Parents ------------------------------------------------------------------------------------------


def test_parents_are_what_the_routing_mechanism_reads():
  """The last step as the parent of a step that does not read it, or one parent of two."""
  assert interfaces(seen_in([CHAIN])) == {
    ('input', 'merge', 'reverse'),
    ('reverse', 'previous', 'fork'),
    ('fork', 'merge', 'climb'), ('reverse', 'merge', 'climb'),
    ('fork', 'earlier', 'reverse'),
    ('input', 'first_input', 'fork'),
  }  # fmt: skip
  second_input = seen_in([(('previous', 'fork'), ('earlier', 'climb'))])
  assert ('input', 'earlier', 'climb') in interfaces(second_input)


def test_counts_of_each_kind():
  """A kind that counts another's."""
  counts = seen_in([CHAIN]).counts()
  assert counts == {
    'modules': (7, 7), 'pairs': (5, 12), 'parents': (6, 13), 'interfaces': (6, 39),
  }  # fmt: skip


def test_dry_steps_make_values_and_witness_nothing():
  """The module of a step that was not run, taken for shown or for a parent."""
  dry_first = seen_in([CHAIN], dry=1)
  assert interfaces(dry_first) == {
    ('input', 'previous', 'fork'),
    ('fork', 'merge', 'climb'), ('input', 'merge', 'climb'),
    ('fork', 'earlier', 'reverse'),
    ('input', 'first_input', 'fork'),
  }  # fmt: skip
  assert not interfaces(seen_in([CHAIN], dry=6))


@pytest.mark.parametrize('kind', KINDS)
def test_coverage_counts_witnessed_steps(kind):
  """A step with two parents that is witnessed by one, steps beyond the depth, or a wrong axis."""
  support, rows = some(3, seed=2), everything(1) + some(300, (2, 3), seed=1)
  coverage = seen_in(support).coverage(kind, steps_of(rows))
  assert coverage.tolist() == expected_coverage(rows, support, kind)
  assert 0 < np.mean(coverage == [len(row) for row in rows]) < 1


def test_full_support_witnesses_everything():
  """Something that no support can show counted as missing."""
  seen = seen_in([row for depth in (1, 2, 3, 4) for row in everything(depth)])
  rows = some(200, (1, 2, 3))
  for kind in KINDS:
    assert seen.coverage(kind, steps_of(rows)).tolist() == [len(row) for row in rows]
    np.testing.assert_allclose(closure.shares(seen, kind), 1.0)


def test_three_steps_never_show_what_earlier_makes_of_a_skills_result():
  """A closure that calls deeper compositions covered by shallow ones that can't cover them."""
  shallow = seen_in([row for depth in (1, 2, 3) for row in everything(depth)])
  assert {p for p, r, _ in interfaces(shallow) if r == 'earlier'} == {'input'}
  for kind in ('parents', 'interfaces'):
    shares = closure.shares(shallow, kind, deepest=4)
    np.testing.assert_allclose(shares[:3], 1.0)
    assert shares[3] < 0.8
  n, of = seen_in(everything(4)).counts()['interfaces']
  assert n == of == 39


def test_supports_and_their_union():
  """A table that is sampled, a pool's sample that misses most, or a union that forgets one."""
  config = helpers.support_config(depths=(2, 3), compositions=6, prefix=0)
  finite = tables.build('s', config, SMALL, helpers.pools())
  rows = helpers.steps(finite.table, SMALL)
  assert interfaces(witnesses.of_support(finite)) == interfaces(seen_in(rows))
  pool = tables.build('p', helpers.support_config(depths=(1, 2), prefix=0), SMALL, helpers.pools())
  seen = witnesses.of_support(pool, n=2000)
  assert seen.counts()['pairs'] == (12, 12)
  joined = witnesses.of_support(finite) | seen
  assert interfaces(joined) == interfaces(seen_in(rows)) | interfaces(seen)


# Modules that occur together ----------------------------------------------------------------------


def named(classes) -> list[set[str]]:
  names = witnesses.module_names(SMALL)
  return [{names[i] for i in members} for members in classes]


def used_by(rows):
  return witnesses.times_used(steps_of(rows), SMALL)


def test_times_used_counts_steps():
  """Use twice counted once, or steps beyond the depth taken for the first module."""
  counts = dict(zip(witnesses.module_names(SMALL), used_by([CHAIN])[0].tolist()))
  assert counts == {
    'previous': 1, 'earlier': 1, 'merge': 2, 'first_input': 1, 'reverse': 2, 'fork': 2, 'climb': 1,
  }  # fmt: skip


def test_modules_that_always_occur_together():
  """Modules of like frequency taken for entangled, or those that never occur."""
  rows = [
    (('merge', 'reverse'), ('previous', 'fork')),
    (('earlier', 'fork'), ('merge', 'reverse')),
    (('previous', 'fork'),),
    (('earlier', 'climb'),),
  ]
  assert named(witnesses.entangled(used_by(rows))) == [{'merge', 'reverse'}]
  apart = [*rows, (('merge', 'climb'),)]
  assert named(witnesses.entangled(used_by(apart))) == []


def test_components_of_a_disconnected_support():
  """Links through nothing, links of one step only, or unused modules left out."""
  rows = [
    (('previous', 'reverse'), ('earlier', 'reverse')),
    (('merge', 'fork'),),
  ]
  assert named(witnesses.components(used_by(rows))) == [
    {'previous', 'earlier', 'reverse'}, {'merge', 'fork'}, {'first_input'}, {'climb'},
  ]  # fmt: skip
  linked = [*rows, (('first_input', 'fork'),), (('first_input', 'climb'), ('previous', 'climb'))]
  assert named(witnesses.components(used_by(linked))) == [{*ROUTINGS, *SKILLS[:-1]}]


# Closure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_closure_is_what_enumeration_finds(kind):
  """Compositions that are not live, a parent two steps back, or the input's that gets lost."""
  support = some(3, seed=2)
  shares = closure.shares(seen_in(support), kind, deepest=4)
  for depth, share in enumerate(shares, start=1):
    rows = everything(depth)
    coverage = np.array(expected_coverage(rows, support, kind))
    assert share == pytest.approx(np.mean(coverage == depth), abs=1e-12) and share < 1


def test_closure_of_deep_compositions():
  """Underflow, or a share that grows where each step can only lose."""
  task = helpers.task()
  seen = witnesses.of_steps(
    witnesses.steps_of(helpers.random_compositions(task, 50, (2, 3), 6), task), task
  )
  shares = closure.shares(seen, 'pairs')
  assert shares.shape == (64,) and np.all(shares > 0) and np.all(np.diff(shares) < 0)
