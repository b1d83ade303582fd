"""Supports: pools that can't overlap, exact finite tables, honest depth, and uniform sampling."""

import collections
import dataclasses
import functools
import itertools
import random

import jax
import numpy as np
import pytest

from compgen_jax.task import support
from compgen_jax.task.support import POOLS
from tests import helpers, reference

TASK = helpers.task()
# Few enough modules that all compositions of depth 2 can be listed.
SMALL = helpers.task(
  routings=('previous', 'earlier', 'merge', 'first_input'), skills=('reverse', 'fork', 'climb')
)


@functools.cache
def build(t=TASK, p=helpers.pools(), **changes) -> support.Support:
  return support.build('a_name', helpers.support_config(**changes), t, p)


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


def pool_by_reference(steps, p=helpers.pools()) -> str:
  """The pool of a composition of depth 2 or more."""
  at = (reference.content_hash(steps, p.salt) >> 16) / 2**16
  edges = itertools.accumulate(getattr(p, name) for name in POOLS)
  return next(name for name, edge in zip(POOLS, edges) if at < round(edge * 2**16) / 2**16)


def listed(t, depth, pool, p=helpers.pools()) -> set:
  """All live compositions of a depth in a pool, by the reference."""
  modules = list(
    itertools.product(helpers.names(t.routing_inventory), helpers.names(t.skill_inventory))
  )
  rows = itertools.product(modules, repeat=depth)
  return {
    row
    for row in rows
    if reference.is_live(row) and (depth == 1 or pool_by_reference(row, p) == pool)
  }


# Pools --------------------------------------------------------------------------------------------------------


@functools.cache
def _pool_function(t, p):
  return helpers.batched(
    lambda c: tuple(support.in_pool(c, name, t, p) for name in POOLS), rows=4096
  )


def in_pools(rows, t=TASK, p=helpers.pools(), depth_cap=6) -> np.ndarray:
  """bool[N, 4]: which of `POOLS` each composition belongs to."""
  return np.stack(_pool_function(t, p)(helpers.composition(rows, t, depth_cap)), axis=1)


@functools.cache
def compositions(depths=(2, 3, 4, 5, 6), n=20_000):
  return helpers.steps(helpers.random_compositions(TASK, n, depths, 6), TASK)


def test_pools_are_disjoint_and_have_their_shares():
  """Catches a composition in two pools or in none (test data in training), and a hash that favours a pool."""
  inside = in_pools(compositions())
  np.testing.assert_array_equal(inside.sum(axis=1), 1)
  for depth in range(5):  # of each depth by itself
    np.testing.assert_allclose(inside[depth::5].mean(axis=0), [0.1, 0.1, 0.4, 0.4], atol=0.03)


def test_pools_equal_reference():
  """Catches any change of the hash: it would silently move test compositions into training."""
  for salt in (0, 12345):
    p = helpers.pools(salt=salt, test=0.25, validation=0.05, sft=0.3, rl=0.4)
    rows = compositions()[:4000]
    want = [POOLS.index(pool_by_reference(row, p)) for row in rows]
    np.testing.assert_array_equal(in_pools(rows, p=p).argmax(axis=1), want)


def test_salt_moves_compositions():
  """Catches a salt that is not used."""
  rows = compositions()
  assert np.mean(in_pools(rows) != in_pools(rows, p=helpers.pools(salt=1))) > 0.1


def test_atoms_belong_to_every_pool():
  """Catches atoms that are split: a pool would lack modules."""
  atoms = [((r, s),) for r in reference.ROUTINGS for s in reference.SKILLS]
  assert in_pools(atoms).all()


def test_pool_does_not_depend_on_the_depth_cap():
  """Catches padding that is hashed: a larger `max_depth` would reshuffle all pools."""
  rows = compositions()[:2000]
  np.testing.assert_array_equal(in_pools(rows), in_pools(rows, depth_cap=9))


def test_pool_does_not_depend_on_the_inventory():
  """Catches hashed positions: adding or reordering modules would reshuffle all pools."""
  t = helpers.task(
    skills=tuple(sorted(helpers.names(TASK.skill_inventory))),
    routings=('longer', 'merge', 'previous', 'halves'),
  )
  rows = [
    row
    for row in compositions((2, 3))
    if all(r in helpers.names(t.routing_inventory) for r, _ in row)
  ]
  assert len(rows) > 1000
  np.testing.assert_array_equal(in_pools(rows), in_pools(rows, t))


def test_order_and_depth_are_content():
  """Catches a hash that ignores the order of steps, of the modules in a step, or the depth."""
  rng = random.Random(0)
  codes = lambda rows: np.array([reference.content_hash(row, 0) for row in rows])
  rows = [row for row in compositions((3,), 3000) if row[0] != row[1]]
  turned = [(row[1], row[0], row[2]) for row in rows]
  longer = [row + (rng.choice(row),) for row in rows]
  for others in (turned, longer):
    assert (
      0.2 < np.mean(in_pools(rows).argmax(axis=1) == in_pools(others).argmax(axis=1)) < 0.5
    )  # by chance: 0.34
    assert not np.any(codes(rows) == codes(others))


# Liveness -----------------------------------------------------------------------------------------------------


def test_is_live_equals_reachability():
  """Catches a composition whose answer does not depend on all of its steps: its depth is overstated."""
  rows = compositions((1, 2, 3, 4, 5, 6))
  want = np.array([reference.is_live(row) for row in rows])
  turned = helpers.task(routings=tuple(helpers.names(TASK.routing_inventory)[::-1]))
  for t in (
    TASK,
    turned,
    helpers.task(routings=('merge', *[r for r in reference.ROUTINGS if r != 'merge'])),
  ):
    is_live = helpers.batched(
      lambda c: support.is_live(c, t), rows=4096
    )  # what fills up the steps beyond differs
    np.testing.assert_array_equal(is_live(helpers.composition(rows, t, 6)), want)
  assert 0.2 < want.mean() < 0.8


def test_sampled_steps_reach_the_answer():
  """Catches steps that are live by their flags only: changing a step's result can change the answer. (Not always: after `fold`,
  whose letters are of the lower half, `by_first_letter` never takes the earlier value.)"""
  rng, n_steps, dead = random.Random(0), 0, []
  words = helpers.random_words('abcdefgh', 6, 600)
  for steps in draw(build(), 300):
    assert reference.is_live(steps)

    def answer(values, i):  # given the values up to and including step i's result
      rest = reference.Problem(steps[i + 1 :], ('', ''))
      values = list(values)
      for routing, skill in rest.steps:
        values.append(
          reference.SKILLS[skill](reference.route(routing, values, 'abcdefgh', 6), 'abcdefgh', 6)
        )
      return values[-1]

    for i in range(len(steps) - 1):
      tries = ([rng.choice(words) for _ in range(i + 2)] for _ in range(50))
      n_steps += 1
      if not any(
        answer(v + [rng.choice(words)], i) != answer(v + [rng.choice(words)], i) for v in tries
      ):
        dead.append((steps, i))
  assert len(dead) < 0.01 * n_steps, dead


# Membership ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('changes', [
    dict(),
    dict(depths=(1, 2, 4), pool='rl', without_skills=('successor', 'opposite'), without_routings=('merge',),
         with_skills=tuple(helpers.names(TASK.skill_inventory)[:6]), with_routings=('longer', 'halves', 'previous')),
], ids=str)  # fmt: skip
def test_contains_equals_reference(changes):
  """Catches held-out modules that leak in, asked-for modules that are not enforced, wrong depths or pools; for what is
  sampled as well as for any composition."""
  s = build(**changes)
  c = s.config

  def inside(row):
    routings, skills = {r for r, _ in row}, {k for _, k in row}
    return (
      len(row) in c.depths
      and (len(row) == 1 or pool_by_reference(row) == c.pool)
      and reference.is_live(row)
      and not routings & set(c.without_routings)
      and not skills & set(c.without_skills)
      and (not c.with_routings or bool(routings & set(c.with_routings)))
      and (not c.with_skills or bool(skills & set(c.with_skills)))
    )

  sampled = draw(s, 2000)
  assert all(map(inside, sampled)) and contains(s, sampled).all()
  rows = compositions((1, 2, 3, 4))[:4096]
  np.testing.assert_array_equal(contains(s, rows), [inside(row) for row in rows])
  shares = np.bincount([len(row) for row in sampled], minlength=7)[list(c.depths)] / len(sampled)
  np.testing.assert_allclose(shares, 1 / len(c.depths), atol=0.05)


def test_finite_support_is_exact():
  """Catches a table with repetitions, with another number of compositions than asked for, with unequal shares of the
  depths, outside its pool, or a membership test that is not exactly its table."""
  s = build(compositions=301)
  rows = helpers.steps(s.table, TASK)
  assert len(rows) == len(set(rows)) == 301
  assert collections.Counter(map(len, rows)) == {1: 101, 2: 100, 3: 100}
  assert all(
    reference.is_live(row) and (len(row) == 1 or pool_by_reference(row) == 'sft') for row in rows
  )
  assert contains(s, rows).all()
  others = [row for row in draw(build(), 3000) if row not in set(rows)]
  assert len(others) > 1000 and not contains(s, others).any()
  near = [row[:-1] + ((row[-1][0], 'reverse'),) for row in rows] + [
    row[:-1] for row in rows if len(row) > 1
  ]
  for depth_cap in (3, 8):
    np.testing.assert_array_equal(contains(s, near, depth_cap), [row in set(rows) for row in near])
  assert set(draw(s, 4096)) == set(rows)


def test_finite_support_depends_on_config_and_salt_only():
  """Catches a table that moves between runs, or that ignores the salt."""
  first, config = (
    helpers.steps(build(compositions=301).table, TASK),
    helpers.support_config(compositions=301),
  )
  again, salted = (
    support.build('other_name', config, TASK, helpers.pools(salt=salt)) for salt in (0, 1)
  )
  assert helpers.steps(again.table, TASK) == first
  assert set(helpers.steps(salted.table, TASK)) != set(first)


def test_a_whole_support_can_be_a_table():
  """Catches a search that overlooks compositions: as many as there are can be asked for, and not one more."""
  everything = listed(SMALL, 2, 'sft')
  s = build(SMALL, depths=(2,), compositions=len(everything))
  assert set(helpers.steps(s.table, SMALL)) == everything
  with pytest.raises(
    support.EmptySupportError, match=f'{len(everything) + 1} compositions of depth 2'
  ):
    build(SMALL, depths=(2,), compositions=len(everything) + 1)


@pytest.mark.parametrize('changes', [
    dict(depths=(1, 2, 3), compositions=2),  # some depth would have none
    dict(without_skills=('reverse', 'fork', 'climb')),
    dict(with_skills=('fork',), without_skills=('fork',)),
    dict(depths=(1, 2), without_routings=('previous', 'merge')),  # at depth 2, nothing is live
    dict(depths=(2,), pool='validation', p=helpers.pools(validation=0.0, sft=0.5)),
], ids=str)  # fmt: skip
def test_impossible_supports_raise(changes):
  """Catches a support that would sample forever, or silently hold fewer compositions than asked for."""
  with pytest.raises(support.EmptySupportError, match='supports.a_name'):
    build(SMALL, **changes)


@pytest.mark.parametrize('compositions', [0, 301])
def test_sample_at_depth(compositions):
  """Catches a depth, a finite support's row, or a number of columns that is not the one asked for."""
  s = build(compositions=compositions)
  rows = s.sample_at_depth(jax.random.key(0), 2, 2000, 4)
  assert rows.routing.shape == rows.skill.shape == (2000, 4)
  assert np.all(rows.depth == 2) and np.all(s.contains_all(rows))
  assert not np.any(rows.routing[:, 2:]) and not np.any(rows.skill[:, 2:])
  distinct = len(set(helpers.steps(rows, TASK)))
  assert distinct == 100 if compositions else distinct > 1800


# Overlap ------------------------------------------------------------------------------------------------------


def test_overlap():
  """Catches an overlap that is overlooked (or invented): disjoint, inside, partial, and other depth caps."""
  sft, some = build(), build(compositions=301)
  few = dataclasses.replace(some, table=jax.tree.map(lambda x: x[::3], some.table))
  deeper, test = build(depths=(4, 5), compositions=60), build(pool='test', compositions=60)
  assert support.overlap(sft, test) == 0
  assert support.overlap(some, deeper) == 0 == support.overlap(deeper, some)
  assert abs(support.overlap(sft, some) - 200 / 301) < 0.05  # everything, but atoms are left out
  assert abs(support.overlap(few, some) - np.sum(few.table.depth > 1) / 301) < 0.05


# Sampling -----------------------------------------------------------------------------------------------------


def chi_square(counts, expected) -> float:
  return float(np.sum((np.asarray(counts) - expected) ** 2 / expected))


def test_uniform_over_the_compositions_of_a_depth():
  """Catches rejection that favours some compositions, or a depth: all that exist, equally often."""
  n = 40_000
  counts = collections.Counter(draw(build(SMALL, depths=(1, 2)), n))
  for depth in (1, 2):
    rows = listed(SMALL, depth, 'sft')
    assert {row for row in counts if len(row) == depth} == rows
    expected = n / 2 / len(rows)
    assert chi_square([counts[row] for row in rows], expected) < len(rows) + 6 * np.sqrt(
      2 * len(rows)
    )


def test_uniform_over_modules():
  """Catches a module that is drawn too rarely to be learned: over the full inventory, by position."""
  rows = [row for row in draw(build(), 40_000) if len(row) == 3]
  for position in range(3):
    skills = collections.Counter(row[position][1] for row in rows)
    assert len(skills) == 24 and chi_square(
      list(skills.values()), len(rows) / 24
    ) < 23 + 6 * np.sqrt(46)
  assert (
    len({row[0][0] for row in rows}) == 10 and len({row[2][0] for row in rows}) == 8
  )  # live: it reads previous


def test_finite_sampling_is_uniform():
  """Catches a table whose rows are not equally likely."""
  counts = collections.Counter(draw(build(compositions=301), 40_000))
  assert chi_square(list(counts.values()), 40_000 / 301) < 300 + 6 * np.sqrt(600)


def test_sampling_depends_on_the_key_only(sft_sampler):
  """Catches a problem that depends on its place in the batch, so that data would change with the devices."""
  s, sample = sft_sampler
  i = np.arange(64)
  together, again, moved = sample(i), sample(i), sample(i[::-1])
  jax.tree.map(np.testing.assert_array_equal, together, again)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), together, moved)
  for composition, n in zip(
    draw(build(), 3), range(3)
  ):  # rejection takes several rounds for some, none for others
    alone = jax.jit(s.sample_composition)(jax.random.fold_in(jax.random.key(0), n))
    assert helpers.steps(jax.tree.map(lambda x: x[None], alone), TASK) == [composition]
  assert len({x.tobytes() for x in together.values.letters}) == 64


def test_sampled_problems(sft_problems):
  """Catches a label or a depth with a preference, and inputs that are tied to the composition."""
  t, problems = sft_problems
  n = len(problems.first_label)
  assert chi_square(
    np.bincount(problems.first_label, minlength=t.n_labels), n / t.n_labels
  ) < 9 + 6 * np.sqrt(18)
  assert chi_square(np.bincount(problems.composition.depth)[1:], n / 3) < 2 + 6 * np.sqrt(4)
  table = np.zeros((t.n_labels, 8))
  np.add.at(table, (problems.first_label, problems.values.letters[:, 0, 0]), 1)
  assert chi_square(table, n / table.size) < table.size + 6 * np.sqrt(2 * table.size)
  table = np.zeros((t.n_skills, 8))
  np.add.at(table, (problems.composition.skill[:, 0], problems.values.letters[:, 1, 0]), 1)
  assert chi_square(table, n / table.size) < table.size + 6 * np.sqrt(2 * table.size)
  assert not np.any(problems.dry)


def test_dry_supports_sample_dry_problems():
  """Catches a `dry` that is not passed on: the modules' results would be shown."""
  s = build(SMALL, dry=True, depths=(2,), compositions=5)
  problems = jax.device_get(
    jax.jit(jax.vmap(lambda k: helpers.sample(s, k)))(jax.random.split(jax.random.key(0), 64))
  )
  assert np.all(problems.dry == 2)
  inputs = [helpers.decode(jax.tree.map(lambda x: x[:, i], problems.values)) for i in (0, 1)]
  rows = zip(helpers.steps(problems.composition, SMALL), zip(*inputs))
  right = [
    reference.execute(reference.Problem(*row), helpers.reference_task(SMALL))[0][-1] for row in rows
  ]
  assert np.mean([a == b for a, b in zip(helpers.decode(problems.answer), right)]) < 0.1


# Prefixes -----------------------------------------------------------------------------------------


@functools.cache
def _draw_steps(s: support.Support):
  return helpers.batched(
    lambda i: s.sample_steps(jax.random.fold_in(jax.random.key(0), i)), rows=4096
  )


def draw_steps(s: support.Support, n: int):
  """`n` whole lists of steps, and the number of dry ones in each."""
  steps, n_dry = _draw_steps(s)(np.arange(n))
  return helpers.steps(steps, s.task), n_dry


@pytest.mark.parametrize('compositions', [0, 61])
def test_prefixes(compositions):
  """Catches a real part that is not of the support, a whole list of another pool, a number of
  dry steps with a preference, and modules that are left out but shown in a prefix."""
  n = 20_000
  s = build(prefix=3, compositions=compositions, depths=(1, 2), without_skills=('fork',))
  rows, n_dry = draw_steps(s, n)
  real = [row[k:] for row, k in zip(rows, n_dry)]
  assert contains(s, real).all()
  assert {pool_by_reference(row) for row in rows if len(row) > 1} == {'sft'}
  assert chi_square(np.bincount(n_dry), n / 4) < 3 + 6 * np.sqrt(6)
  before = collections.Counter(skill for row, k in zip(rows, n_dry) for _, skill in row[:k])
  assert len(before) == 23 and 'fork' not in before
  assert chi_square(list(before.values()), before.total() / 23) < 22 + 6 * np.sqrt(44)
  by_prefix = [collections.Counter(map(len, np.array(real, object)[n_dry == k])) for k in (0, 3)]
  assert all(abs(count[1] / count.total() - (30 + 1) / 61) < 0.05 for count in by_prefix)


def test_no_prefix_draws_what_it_always_drew():
  """Catches a prefix that changes a support's compositions: table, real parts, membership stay."""
  for compositions in (0, 61):
    plain, late = (build(prefix=k, compositions=compositions) for k in (0, 2))
    rows, n_dry = draw_steps(late, 500)
    assert [row[k:] for row, k in zip(rows, n_dry)] == draw(plain, 500)
    assert draw_steps(plain, 500)[0] == draw(plain, 500)
    if compositions:
      jax.tree.map(np.testing.assert_array_equal, late.table, plain.table)


def test_shows_what_a_problem_can_hold():
  """Catches a list of dry and real steps that a search for leaks overlooks, or one it invents."""
  s = build(prefix=2, compositions=300, depths=(2, 3), without_skills=('fork',))

  def shows(rows):
    return np.asarray(s.shows_all(helpers.composition(rows, s.task, 6)))

  rows, n_dry = draw_steps(s, 2000)
  assert shows(rows).all() and shows([row[k:] for row, k in zip(rows, n_dry)]).all()
  assert not contains(s, [row for row, k in zip(rows, n_dry) if k == 2 or len(row) > 3]).any()
  # One dry step more than there can be; a module that no prefix has; another pool.
  step = ('merge', 'reverse')
  assert not shows([(step, *row) for row, k in zip(rows, n_dry) if k == 2 and len(row) == 5]).any()
  late = [row for row, k in zip(rows, n_dry) if k == 1]
  assert not shows([((row[0][0], 'fork'), *row[1:]) for row in late]).any()
  others = [(step, *row[1:]) for row in late]
  in_pool = [pool_by_reference(row) == 'sft' for row in others]
  np.testing.assert_array_equal(shows(others), in_pool)
  assert 0 < np.sum(in_pool) < len(others)


def test_precede_all():
  """Catches compositions that come back with another real part, or with steps that do not fit."""
  s = build(pool='validation', prefix=2, depths=(3,))
  real = s.sample_at_depth(jax.random.key(0), 3, 300, 6)
  whole, n_dry = s.precede_all(jax.random.key(1), real, 6)
  rows = helpers.steps(whole, TASK)
  assert [row[k:] for row, k in zip(rows, n_dry)] == helpers.steps(real, TASK)
  assert whole.routing.shape == (300, 6) and set(n_dry) == {0, 1, 2}
  assert {pool_by_reference(row) for row in rows} == {'validation'}
  plain, none = build(pool='validation', depths=(3,)).precede_all(jax.random.key(1), real, 6)
  jax.tree.map(np.testing.assert_array_equal, plain, real)
  assert not np.any(none)
