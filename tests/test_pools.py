"""Pools: disjoint by content, of the right shares, and never reshuffled."""

import functools
import random

import numpy as np

from compgen_jax.task import modules, pools
from compgen_jax.task.pools import POOLS
from tests import helpers, reference

TASK = helpers.task()
DEFAULT_POOLS = helpers.pools()


def compositions(depths=(2, 3, 4, 5, 6), n=20_000):
  return helpers.random_rows(TASK, n, depths)


@functools.cache
def _pool_function(t, p):
  def in_each(composition):
    return tuple(
      pools.in_pool(composition, bounds, t, p.salt) for bounds in pools.pool_bounds(p).values()
    )

  return helpers.batched(in_each, rows=4096)


def in_pools(rows, t=TASK, p=DEFAULT_POOLS, depth_cap=6) -> np.ndarray:
  """bool[N, 4]: which of `POOLS` each composition belongs to."""
  return np.stack(_pool_function(t, p)(helpers.composition(rows, t, depth_cap)), axis=1)


def test_pools_are_disjoint_and_have_their_shares():
  """Catches a composition in two pools or in none (test data in training), and a hash that favours
  a pool."""
  inside = in_pools(compositions())
  np.testing.assert_array_equal(inside.sum(axis=1), 1)
  for depth in range(5):  # of each depth by itself
    np.testing.assert_allclose(inside[depth::5].mean(axis=0), [0.1, 0.1, 0.4, 0.4], atol=0.03)


def test_pools_equal_reference():
  """Catches any change of the hash: it would silently move test compositions into training."""
  for salt in (0, 12345):
    p = helpers.pools(salt=salt, test=0.25, validation=0.05, sft=0.3, rl=0.4)
    rows = compositions()[:4000]
    want = [POOLS.index(helpers.pool_by_reference(row, p)) for row in rows]
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
    skills=tuple(sorted(modules.names(TASK.skill_inventory))),
    routings=('longer', 'merge', 'previous', 'halves'),
  )
  rows = [row for row in compositions((2, 3)) if {r for r, _ in row} <= set(t.routings)]
  assert len(rows) > 1000
  np.testing.assert_array_equal(in_pools(rows), in_pools(rows, t))


def test_order_and_depth_are_content():
  """Catches a hash that ignores the order of steps, of the modules in a step, or the depth."""
  rng = random.Random(0)
  rows = [row for row in compositions((3,), 3000) if row[0] != row[1]]
  turned = [(row[1], row[0], row[2]) for row in rows]
  longer = [row + (rng.choice(row),) for row in rows]
  for others in (turned, longer):
    same_pool = in_pools(rows).argmax(axis=1) == in_pools(others).argmax(axis=1)
    assert 0.2 < np.mean(same_pool) < 0.5  # by chance: 0.34
    for row, other in zip(rows, others):
      assert reference.content_hash(row, 0) != reference.content_hash(other, 0)
