"""Supports: exact membership, exact finite tables, honest depth, and uniform sampling."""

import collections
import dataclasses
import functools
import itertools
import random

import jax
import numpy as np
import pytest

from compgen_jax.task import modules, support, tables
from tests import helpers, reference

TASK = helpers.task()
DEFAULT_POOLS = helpers.pools()
# Few enough modules that all compositions of depth 2 can be listed.
SMALL = helpers.task(
  routings=('previous', 'earlier', 'merge', 'first_input'), skills=('reverse', 'fork', 'climb')
)


@functools.cache
def build(t=TASK, p=DEFAULT_POOLS, **changes) -> support.Support:
  return tables.build('a_name', helpers.support_config(**changes), t, p)


@functools.cache
def _draw(s: support.Support):
  return helpers.batched(
    lambda i: s.sample_composition(jax.random.fold_in(jax.random.key(0), i)), rows=4096
  )


def draw(s: support.Support, n: int):
  """`n` compositions as tuples of (routing name, skill name)."""
  return helpers.steps(_draw(s)(np.arange(n)), s.task)


@functools.cache
def _contains(s: support.Support):
  return helpers.batched(s.contains, rows=4096)


def contains(s: support.Support, rows, depth_cap=6) -> np.ndarray:
  return _contains(s)(helpers.composition(rows, s.task, depth_cap))


def listed(t, depth, pool, p=DEFAULT_POOLS) -> set:
  """All live compositions of a depth in a pool, by the reference."""
  routings, skills = modules.names(t.routing_inventory), modules.names(t.skill_inventory)
  rows = itertools.product(itertools.product(routings, skills), repeat=depth)
  live = [row for row in rows if reference.is_live(row)]
  return {row for row in live if depth == 1 or helpers.pool_by_reference(row, p) == pool}


# Liveness -----------------------------------------------------------------------------------------


def test_is_live_equals_reachability():
  """Catches a composition whose answer does not depend on all of its steps: its depth is
  overstated."""
  rows = helpers.random_rows(TASK, 20_000, (1, 2, 3, 4, 5, 6))
  want = np.array([reference.is_live(row) for row in rows])
  # The module of index 0, which fills up the steps beyond the depth, differs.
  turned = modules.names(TASK.routing_inventory)[::-1]
  merge_first = ('merge', *[r for r in reference.ROUTINGS if r != 'merge'])
  for t in (TASK, helpers.task(routings=turned), helpers.task(routings=merge_first)):
    is_live = helpers.batched(lambda c: support.is_live(c, t), rows=4096)
    np.testing.assert_array_equal(is_live(helpers.composition(rows, t, 6)), want)
  assert 0.2 < want.mean() < 0.8


def test_sampled_steps_reach_the_answer():
  """Catches steps that are live by their flags only: another result of a step can change the
  answer.

  There are exceptions: after `fold`, whose letters are of the lower half, `by_first_letter` never
  takes the earlier value.
  """
  rng, n_steps, dead = random.Random(0), 0, []
  words = helpers.random_words('abcdefgh', 6, 600)

  def answer(values, steps):
    values = list(values)
    for routing, skill in steps:
      operand = reference.route(routing, values, 'abcdefgh', 6)
      values.append(reference.SKILLS[skill](operand, 'abcdefgh', 6))
    return values[-1]

  def result_matters(steps, i):
    for _ in range(50):
      before = [rng.choice(words) for _ in range(i + 2)]
      answers = {answer([*before, rng.choice(words)], steps[i + 1 :]) for _ in range(2)}
      if len(answers) == 2:
        return True
    return False

  for steps in draw(build(), 300):
    assert reference.is_live(steps)
    for i in range(len(steps) - 1):
      n_steps += 1
      if not result_matters(steps, i):
        dead.append((steps, i))
  assert len(dead) < 0.01 * n_steps, dead


# Membership ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('changes', [
    dict(),
    dict(depths=(1, 2, 4), pool='rl',
         without_skills=('successor', 'opposite'), without_routings=('merge',),
         with_skills=modules.names(TASK.skill_inventory)[:6],
         with_routings=('longer', 'halves', 'previous')),
], ids=str)  # fmt: skip
def test_contains_equals_reference(changes):
  """Catches held-out modules that leak in, asked-for modules that are not enforced, wrong depths or
  pools; for what is sampled as well as for any composition."""
  s = build(**changes)
  c = s.config

  def inside(row):
    routings, skills = {r for r, _ in row}, {k for _, k in row}
    return (
      len(row) in c.depths
      and (len(row) == 1 or helpers.pool_by_reference(row, DEFAULT_POOLS) == c.pool)
      and reference.is_live(row)
      and not routings & set(c.without_routings)
      and not skills & set(c.without_skills)
      and (not c.with_routings or bool(routings & set(c.with_routings)))
      and (not c.with_skills or bool(skills & set(c.with_skills)))
    )

  sampled = draw(s, 2000)
  assert all(map(inside, sampled)) and contains(s, sampled).all()
  rows = helpers.random_rows(TASK, 20_000, (1, 2, 3, 4))[:4096]
  np.testing.assert_array_equal(contains(s, rows), [inside(row) for row in rows])
  shares = np.bincount([len(row) for row in sampled], minlength=7)[list(c.depths)] / len(sampled)
  np.testing.assert_allclose(shares, 1 / len(c.depths), atol=0.05)


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


def test_a_whole_support_can_be_a_table():
  """Catches a search that overlooks compositions: as many as there are can be asked for, and not
  one more."""
  everything = listed(SMALL, 2, 'sft')
  s = build(SMALL, depths=(2,), compositions=len(everything))
  assert set(helpers.steps(s.table, SMALL)) == everything
  too_many = f'{len(everything) + 1} compositions of depth 2'
  with pytest.raises(tables.EmptySupportError, match=too_many):
    build(SMALL, depths=(2,), compositions=len(everything) + 1)


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


# Sampling -----------------------------------------------------------------------------------------


def assert_uniform(counts, expected) -> None:
  """The chi-square statistic of the counts is within six standard deviations of its mean."""
  counts = np.asarray(counts)
  chi_square = np.sum((counts - expected) ** 2 / expected)
  degrees = counts.size - 1
  assert chi_square < degrees + 6 * np.sqrt(2 * degrees)


def test_uniform_over_the_compositions_of_a_depth():
  """Catches rejection that favours some compositions, or a depth: all that exist, equally often."""
  n = 40_000
  counts = collections.Counter(draw(build(SMALL, depths=(1, 2)), n))
  for depth in (1, 2):
    rows = listed(SMALL, depth, 'sft')
    assert {row for row in counts if len(row) == depth} == rows
    expected = n / 2 / len(rows)
    assert_uniform([counts[row] for row in rows], expected)


def test_uniform_over_modules():
  """Catches a module that is drawn too rarely to be learned: over the full inventory, by
  position."""
  rows = [row for row in draw(build(), 40_000) if len(row) == 3]
  for position in range(3):
    skills = collections.Counter(row[position][1] for row in rows)
    assert len(skills) == TASK.n_skills
    assert_uniform(list(skills.values()), len(rows) / TASK.n_skills)
  assert {row[0][0] for row in rows} == set(reference.ROUTINGS)
  last = {routing for routing, reads in reference.READS.items() if 'previous' in reads}
  assert {row[2][0] for row in rows} == last  # any other would make the second step dead


def test_finite_sampling_is_uniform():
  """Catches a table whose rows are not equally likely."""
  counts = collections.Counter(draw(build(compositions=301), 40_000))
  assert len(counts) == 301
  assert_uniform(list(counts.values()), 40_000 / 301)


def test_sampling_depends_on_the_key_only(sft_sampler):
  """Catches a problem that depends on its place in the batch, so that data would change with the
  devices."""
  s, sample = sft_sampler
  i = np.arange(64)
  together, again, moved = sample(i), sample(i), sample(i[::-1])
  jax.tree.map(np.testing.assert_array_equal, together, again)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), together, moved)
  # Rejection takes several rounds for some, none for others.
  for n, composition in enumerate(draw(build(), 3)):
    alone = jax.jit(s.sample_composition)(jax.random.fold_in(jax.random.key(0), n))
    assert helpers.steps(jax.tree.map(lambda x: x[None], alone), TASK) == [composition]
  assert len({x.tobytes() for x in together.values.letters}) == 64


def test_sampled_problems(sft_problems):
  """Catches a label or a depth with a preference, and inputs that are tied to the composition."""
  t, problems = sft_problems
  n = len(problems.first_label)
  assert_uniform(np.bincount(problems.first_label, minlength=t.n_labels), n / t.n_labels)
  assert_uniform(np.bincount(problems.composition.depth)[1:], n / 3)
  table = np.zeros((t.n_labels, 8))
  np.add.at(table, (problems.first_label, problems.values.letters[:, 0, 0]), 1)
  assert_uniform(table, n / table.size)
  table = np.zeros((t.n_skills, 8))
  np.add.at(table, (problems.composition.skill[:, 0], problems.values.letters[:, 1, 0]), 1)
  assert_uniform(table, n / table.size)
  assert not problems.dry.any()


def test_dry_supports_sample_dry_problems():
  """Catches a `dry` that is not passed on: the modules' results would be shown."""
  s = build(SMALL, dry=True, depths=(2,), compositions=5)
  keys = jax.random.split(jax.random.key(0), 64)
  problems = jax.device_get(jax.jit(jax.vmap(lambda k: helpers.sample(s, k)))(keys))
  assert problems.dry.all()
  inputs = [helpers.decode(jax.tree.map(lambda x: x[:, i], problems.values)) for i in (0, 1)]
  rows = zip(helpers.steps(problems.composition, SMALL), zip(*inputs))
  t = helpers.reference_task(SMALL)
  right = [reference.execute(reference.Problem(*row), t)[0][-1] for row in rows]
  assert np.mean([a == b for a, b in zip(helpers.decode(problems.answer), right)]) < 0.1
