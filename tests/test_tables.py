"""Supports made on the host: exact tables, samples of one depth, and what two have in common."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from compgen_jax.task import modules, support, tables
from tests import helpers, reference
from tests.supports import DEFAULT_POOLS, SMALL, TASK, build, contains, draw, listed

# Finite supports ----------------------------------------------------------------------------------


def test_finite_support_is_exact():
  """Catches a table with repetitions, with another number of compositions than asked for, with
  unequal shares of the depths, outside its pool, or a membership test that is not exactly its
  table."""
  s = build(compositions=301)
  rows = helpers.steps(s.table, TASK)
  assert len(rows) == len(set(rows)) == 301
  assert collections.Counter(map(len, rows)) == {1: 101, 2: 100, 3: 100}
  assert all(
    reference.is_live(row)
    and (len(row) == 1 or helpers.pool_by_reference(row, DEFAULT_POOLS) == 'sft')
    for row in rows
  )
  assert contains(s, rows).all()
  others = [row for row in draw(build(), 3000) if row not in set(rows)]
  assert len(others) > 1000 and not contains(s, others).any()
  near = [row[:-1] + ((row[-1][0], 'reverse'),) for row in rows]
  near += [row[:-1] for row in rows if len(row) > 1]
  for depth_cap in (3, 8):
    np.testing.assert_array_equal(contains(s, near, depth_cap), [row in set(rows) for row in near])
  assert set(draw(s, 4096)) == set(rows)


def test_finite_support_depends_on_config_and_salt_only():
  """Catches a table that moves between runs, or that ignores the salt."""
  first = helpers.steps(build(compositions=301).table, TASK)
  config = helpers.support_config(compositions=301)
  again = tables.build('other_name', config, TASK, helpers.pools())
  salted = tables.build('other_name', config, TASK, helpers.pools(salt=1))
  assert helpers.steps(again.table, TASK) == first
  assert set(helpers.steps(salted.table, TASK)) != set(first)


@pytest.mark.parametrize('depths', [(2,), (2, 3)])
def test_fewer_compositions_are_the_first_of_more(depths):
  """Catches a study over sizes in which every size is another draw."""
  few, more = (
    set(helpers.steps(build(depths=depths, compositions=n).table, TASK)) for n in (50, 100)
  )
  assert len(few) == 50 and few < more


def test_a_whole_support_can_be_a_table():
  """Catches a search that overlooks compositions: as many as there are can be asked for, and not
  one more."""
  everything = listed(SMALL, 2, 'sft')
  s = build(SMALL, depths=(2,), compositions=len(everything))
  assert set(helpers.steps(s.table, SMALL)) == everything
  too_many = f'{len(everything) + 1} compositions of depth 2'
  with pytest.raises(tables.EmptySupportError, match=too_many):
    build(SMALL, depths=(2,), compositions=len(everything) + 1)


def test_covers():
  """Catches a table that misses a module, one that is drawn again though it covers all, and a
  prefix that changes the table."""
  allowed = dict(without_skills=('fork',), without_routings=('merge',))
  for salt in range(4):
    p = helpers.pools(salt=salt)
    plain = build(p=p, depths=(2, 3), compositions=40, **allowed)
    s = build(p=p, depths=(2, 3), compositions=40, covers=2, **allowed)
    rows = helpers.steps(s.table, TASK)
    assert len(set(rows)) == 40 and collections.Counter(map(len, rows)) == {2: 20, 3: 20}
    counts = collections.Counter(x for row in rows for x in {x for step in row for x in step})
    routings, skills = tables.shown_by(s)
    assert routings | skills == counts and len(routings) == 9 and len(skills) == 23
    assert min(counts.values()) >= 2
    assert all(
      reference.is_live(row) and helpers.pool_by_reference(row, p) == 'sft' for row in rows
    )
    already = min(n for shown in tables.shown_by(plain) for n in shown.values()) >= 2
    assert (helpers.steps(plain.table, TASK) == rows) == already
    prefixed = build(p=p, depths=(2, 3), compositions=40, covers=2, prefix=3, **allowed)
    assert helpers.steps(prefixed.table, TASK) == rows


@pytest.mark.parametrize('depths, n', [((3,), 24), ((2, 3), 33)])
def test_balanced(depths, n):
  """Catches a table in which some module is rare, that repeats a composition or leaves its pool,
  and a prefix that changes it."""
  allowed = dict(without_skills=('fork',), without_routings=('merge',), depths=depths)
  for salt in range(4):
    p = helpers.pools(salt=salt)
    s = build(p=p, compositions=n, balanced=True, **allowed)
    rows = helpers.steps(s.table, TASK)
    per_depth = collections.Counter(map(len, rows))
    assert len(set(rows)) == n and max(per_depth.values()) == -(-n // len(depths))
    uses = [collections.Counter(x) for x in zip(*(step for row in rows for step in row))]
    for counts, n_modules in zip(uses, (9, 23)):
      even = sum(counts.values()) / n_modules
      assert len(counts) == n_modules
      assert even - 2 < min(counts.values()) and max(counts.values()) < even + 2
    assert contains(s, rows).all() and contains(build(p=p, **allowed), rows).all()
    prefixed = build(p=p, compositions=n, balanced=True, prefix=3, **allowed)
    assert helpers.steps(prefixed.table, TASK) == rows


def test_a_balanced_table_counts_what_it_takes_from_another():
  """Catches a table that is even in its own part alone: what the other has often comes again."""
  other = build(depths=(2, 3), compositions=16, with_skills=('fork',))
  taking = _taking(other, compositions=32, overlap=('other', 0.5), balanced=True)
  assert tables.shared(taking, other) == 16
  own = set(helpers.steps(taking.table, TASK)) - set(helpers.steps(other.table, TASK))
  assert not any(skill == 'fork' for row in own for _, skill in row)


def test_covers_that_do_not_exist():
  """Catches a search without end where too few compositions are asked for."""
  message = 'supports.a_name.covers=1: no table of 10 shows every skill'
  with pytest.raises(tables.EmptySupportError, match=message):
    build(depths=(2, 3), compositions=10, covers=1)


def test_subset():
  """Catches a smaller support that is drawn anew: half of a support would not lie in it."""
  whole = build(depths=(2, 3), compositions=41, covers=1)
  half = build(depths=(2, 3), compositions=41, covers=1, subset=21)
  rows = helpers.steps(half.table, TASK)
  assert collections.Counter(map(len, rows)) == {2: 11, 3: 10}
  assert tables.shared(half, whole) == len(set(rows)) == 21
  assert set(draw(half, 1000)) == set(rows)


@pytest.mark.parametrize('share, n_taken', [(0.0, 0), (0.5, 10), (0.33, 6), (1.0, 20)])
@pytest.mark.parametrize('pool', ['sft', 'rl'])
def test_overlap_is_exact(pool, share, n_taken):
  """Catches an overlap that chance adds to (in the same pool), or that rounds away."""
  other = build(depths=(2, 3), compositions=30)
  taking = _taking(other, pool=pool, compositions=20, overlap=('other', share))
  rows = helpers.steps(taking.table, TASK)
  assert collections.Counter(map(len, rows)) == {2: 10, 3: 10} and len(set(rows)) == 20
  assert tables.shared(taking, other) == n_taken
  rest = set(rows) - set(helpers.steps(other.table, TASK))
  assert rest <= set(helpers.steps(build(depths=(2, 3), pool=pool, compositions=400).table, TASK))


def test_what_is_taken_fits_the_config():
  """Catches a skill that is left out and comes back by the overlap."""
  other = build(depths=(2, 3), compositions=30)
  taking = _taking(other, compositions=8, overlap=('other', 1.0), without_skills=('reverse',))
  assert not any('reverse' in skill for row in helpers.steps(taking.table, TASK) for skill in row)
  assert tables.shared(taking, other) == 8


def test_an_overlap_that_does_not_exist():
  other = build(depths=(2, 3), compositions=10)
  with pytest.raises(tables.EmptySupportError, match='of other that fit it'):
    _taking(other, compositions=30, overlap=('other', 1.0))


def _taking(other, **changes):
  config = helpers.support_config(**{'depths': (2, 3), **changes})
  return tables.build('a_name', config, TASK, helpers.pools(), other=other)


@pytest.mark.parametrize('changes', [
    dict(depths=(1, 2, 3), compositions=2),  # some depth would have none
    dict(without_skills=('reverse', 'fork', 'climb')),
    dict(with_skills=('fork',), without_skills=('fork',)),
    dict(depths=(1, 2), without_routings=('previous', 'merge')),  # at depth 2, nothing is live
    dict(depths=(2,), pool='validation', p=helpers.pools(validation=0.0, sft=0.5)),
], ids=str)  # fmt: skip
def test_impossible_supports_raise(changes):
  """Catches a support that would sample forever, or silently hold fewer compositions than asked
  for."""
  with pytest.raises(tables.EmptySupportError, match='supports.a_name'):
    build(SMALL, **changes)


@pytest.mark.parametrize('compositions', [0, 301])
def test_sample_at_depth(compositions):
  """Catches a depth, a finite support's row, or a number of columns that is not the one asked
  for."""
  s = build(compositions=compositions)
  rows = tables.sample_at_depth(s, jax.random.key(0), 2, 2000, 4)
  assert rows.routing.shape == rows.skill.shape == (2000, 4)
  assert np.all(rows.depth == 2) and np.all(s.contains_all(rows))
  assert not np.any(rows.routing[:, 2:]) and not np.any(rows.skill[:, 2:])
  distinct = len(set(helpers.steps(rows, TASK)))
  assert distinct == 100 if compositions else distinct > 1800


# Overlap ------------------------------------------------------------------------------------------


def test_shared_counts_compositions_by_content():
  """Catches compositions that are compared by index, beyond their depth, or by their first steps
  only."""
  some, deeper = build(compositions=301), build(depths=(4, 5), compositions=60)
  test = build(pool='test', depths=(2, 3), compositions=60)
  few = dataclasses.replace(some, table=jax.tree.map(lambda x: x[::3], some.table))
  wider = dataclasses.replace(few, table=support.with_cap(few.table, 6))
  assert tables.shared(some, some) == 301
  assert tables.shared(some, test) == tables.shared(some, deeper) == 0
  assert tables.shared(some, few) == tables.shared(few, some) == 101
  assert tables.shared(some, wider) == tables.shared(wider, few) == 101
  # The same compositions in a task that has its modules in another order.
  t = helpers.task(
    routings=modules.names(TASK.routing_inventory)[::-1],
    skills=modules.names(TASK.skill_inventory)[::-1],
  )
  table = helpers.composition(helpers.steps(few.table, TASK), t, 5)
  turned = dataclasses.replace(few, task=t, table=table)
  assert tables.shared(some, turned) == 101
  same_indices = dataclasses.replace(few, task=t)
  assert tables.shared(some, same_indices) < 20


def test_shared_equals_membership():
  """Catches a composition that only one of `shared` and `contains_all` finds in a support."""
  a = build(SMALL, depths=(1, 2), compositions=24)
  b = build(SMALL, helpers.pools(salt=1), depths=(1, 2), compositions=20)
  assert 0 < tables.shared(a, b) == np.sum(a.contains_all(b.table)) < 20


def test_shared_needs_finite_supports():
  """Catches a count of zero for a support that lists no compositions but holds many."""
  with pytest.raises(ValueError, match='not finite'):
    tables.shared(build(compositions=301), build())
