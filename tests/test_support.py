"""Supports: exact membership, honest depth, uniform sampling, and dry steps before it."""

import collections
import random

import jax
import numpy as np
import pytest

from compgen_jax.task import modules, sampler, tables
from tests import helpers, reference
from tests.supports import (
  DEFAULT_POOLS,
  SMALL,
  TASK,
  assert_uniform,
  build,
  contains,
  draw,
  draw_steps,
  listed,
)

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
    is_live = helpers.batched(lambda c: sampler.is_live(c, t), rows=4096)
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
    dict(depths=(1, 2), without_pairs=('longer reverse', 'previous climb'),
         with_pairs=tuple(f'longer {skill}' for skill in modules.names(TASK.skill_inventory)[:9])),
], ids=str)  # fmt: skip
def test_contains_equals_reference(changes):
  """Catches held-out modules that leak in, asked-for modules that are not enforced, wrong depths or
  pools; for what is sampled as well as for any composition."""
  s = build(**changes)
  c = s.config

  def inside(row):
    routings, skills = {r for r, _ in row}, {k for _, k in row}
    pairs = {f'{r} {k}' for r, k in row}
    return (
      len(row) in c.depths
      and (len(row) == 1 or helpers.pool_by_reference(row, DEFAULT_POOLS) == c.pool)
      and reference.is_live(row)
      and not routings & set(c.without_routings)
      and not skills & set(c.without_skills)
      and not pairs & set(c.without_pairs)
      and (not c.with_pairs or bool(pairs & set(c.with_pairs)))
      and (not c.with_routings or bool(routings & set(c.with_routings)))
      and (not c.with_skills or bool(skills & set(c.with_skills)))
    )

  sampled = draw(s, 2000)
  assert all(map(inside, sampled)) and contains(s, sampled).all()
  rows = helpers.random_rows(TASK, 20_000, (1, 2, 3, 4))[:4096]
  np.testing.assert_array_equal(contains(s, rows), [inside(row) for row in rows])
  shares = np.bincount([len(row) for row in sampled], minlength=7)[list(c.depths)] / len(sampled)
  np.testing.assert_allclose(shares, 1 / len(c.depths), atol=0.05)


# Sampling -----------------------------------------------------------------------------------------


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
    alone = jax.jit(s.sampler.sample_composition)(jax.random.fold_in(jax.random.key(0), n))
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
  assert not np.any(problems.dry)


def test_dry_supports_sample_dry_problems():
  """Catches a `dry` that is not passed on: the modules' results would be shown."""
  s = build(SMALL, dry=True, depths=(2,), compositions=5)
  keys = jax.random.split(jax.random.key(0), 64)
  problems = jax.device_get(jax.jit(jax.vmap(lambda k: helpers.sample(s, k)))(keys))
  assert np.all(problems.dry == 2)
  inputs = [helpers.decode(jax.tree.map(lambda x: x[:, i], problems.values)) for i in (0, 1)]
  rows = zip(helpers.steps(problems.composition, SMALL), zip(*inputs))
  t = helpers.reference_task(SMALL)
  right = [reference.execute(reference.Problem(*row), t)[0][-1] for row in rows]
  assert np.mean([a == b for a, b in zip(helpers.decode(problems.answer), right)]) < 0.1


# Prefixes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('compositions', [0, 61])
def test_prefixes(compositions):
  """Catches a real part that is not of the support, a whole list of another pool, a number of dry
  steps with a preference, and modules that are left out but shown in a prefix."""
  n = 20_000
  s = build(prefix=3, compositions=compositions, depths=(1, 2), without_skills=('fork',))
  rows, n_dry = draw_steps(s, n)
  real = [row[k:] for row, k in zip(rows, n_dry)]
  assert contains(s, real).all()
  assert {helpers.pool_by_reference(row, s.pools) for row in rows if len(row) > 1} == {'sft'}
  assert_uniform(np.bincount(n_dry), n / 4)
  before = collections.Counter(skill for row, k in zip(rows, n_dry) for _, skill in row[:k])
  assert len(before) == 23 and 'fork' not in before
  assert_uniform(list(before.values()), before.total() / 23)
  for k in (0, 3):
    depth = np.array([len(row) for row in real])[n_dry == k]
    assert abs(np.mean(depth == 1) - (30 + 1) / 61) < 0.05


def test_no_prefix_draws_what_it_always_drew():
  """Catches a prefix that changes a support's compositions: table, real parts, membership stay."""
  for compositions in (0, 61):
    plain, late = (build(prefix=k, compositions=compositions) for k in (0, 2))
    rows, n_dry = draw_steps(late, 500)
    assert [row[k:] for row, k in zip(rows, n_dry)] == draw(plain, 500)
    assert draw_steps(plain, 500)[0] == draw(plain, 500)
    if compositions:
      jax.tree.map(np.testing.assert_array_equal, late.table, plain.table)


def test_prefixes_that_do_not_exist():
  """Catches a search without end: with few modules, no dry step may bring a list into the pool.
  Then, and only then, there is none."""
  s = build(SMALL, pool='validation', prefix=1, depths=(2,))
  rows, n_dry = draw_steps(s, 2000)
  shares = collections.defaultdict(list)
  for row, k in zip(rows, n_dry):
    shares[row[k:]].append(k)
  steps = list(listed(SMALL, 1, 'validation'))
  possible = {
    real: any(helpers.pool_by_reference((*step, *real), s.pools) == 'validation' for step in steps)
    for real in shares
  }
  assert 0 < sum(possible.values()) < len(possible)
  for real, counts in shares.items():
    assert (0.2 < np.mean(counts) < 0.8) if possible[real] else not any(counts)


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
  in_pool = [helpers.pool_by_reference(row, s.pools) == 'sft' for row in others]
  np.testing.assert_array_equal(shows(others), in_pool)
  assert 0 < np.sum(in_pool) < len(others)


def test_precede_all():
  """Catches compositions that come back with another real part, or with steps that do not fit."""
  s = build(pool='validation', prefix=2, depths=(3,))
  real = tables.sample_at_depth(s, jax.random.key(0), 3, 300, 6)
  whole, n_dry = s.precede_all(jax.random.key(1), real, 6)
  rows = helpers.steps(whole, TASK)
  assert [row[k:] for row, k in zip(rows, n_dry)] == helpers.steps(real, TASK)
  assert whole.routing.shape == (300, 6) and set(n_dry) == {0, 1, 2}
  assert {helpers.pool_by_reference(row, s.pools) for row in rows} == {'validation'}
  plain, none = build(pool='validation', depths=(3,)).precede_all(jax.random.key(1), real, 6)
  jax.tree.map(np.testing.assert_array_equal, plain, real)
  assert not np.any(none)


def test_supports_of_one_form_share_a_program():
  """Catches content of a support that is built into a program: then every arm that is trained on
  other compositions is compiled anew."""

  def program(**changes) -> str:
    draw = jax.jit(lambda sampler, key: sampler.sample_steps(key))
    return draw.lower(build(**changes).sampler, jax.random.key(0)).as_text()

  whole = program(prefix=1)
  for changes in (
    dict(pool='rl'),
    dict(without_skills=('reverse', 'fork')),
    dict(with_skills=('reverse',), without_routings=('merge',)),
    dict(with_pairs=('merge reverse', 'previous fork')),
    dict(depths=(3,)),
  ):
    assert program(prefix=1, **changes) == whole
  assert program(prefix=1, compositions=20) == program(prefix=1, compositions=31, pool='rl')
  others = [program(), program(prefix=1, depths=(2, 4)), program(prefix=1, compositions=20)]
  assert len({whole, *others}) == 4
