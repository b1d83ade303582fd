"""Supports of two tasks, and what they hold, as tuples of names."""

import functools
import itertools

import jax
import numpy as np

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
    lambda i: s.sampler.sample_composition(jax.random.fold_in(jax.random.key(0), i)), rows=4096
  )


def draw(s: support.Support, n: int):
  """`n` compositions as tuples of (routing name, skill name)."""
  return helpers.steps(_draw(s)(np.arange(n)), s.task)


@functools.cache
def _contains(s: support.Support):
  return helpers.batched(s.sampler.contains, rows=4096)


def contains(s: support.Support, rows, depth_cap=6) -> np.ndarray:
  return _contains(s)(helpers.composition(rows, s.task, depth_cap))


def listed(t, depth, pool, p=DEFAULT_POOLS) -> set:
  """All live compositions of a depth in a pool, by the reference."""
  routings, skills = modules.names(t.routing_inventory), modules.names(t.skill_inventory)
  rows = itertools.product(itertools.product(routings, skills), repeat=depth)
  live = [row for row in rows if reference.is_live(row)]
  return {row for row in live if depth == 1 or helpers.pool_by_reference(row, p) == pool}


@functools.cache
def _draw_steps(s: support.Support):
  return helpers.batched(
    lambda i: s.sampler.sample_steps(jax.random.fold_in(jax.random.key(0), i)), rows=4096
  )


def draw_steps(s: support.Support, n: int):
  """`n` whole lists of steps, and the number of dry ones in each."""
  steps, n_dry = _draw_steps(s)(np.arange(n))
  return helpers.steps(steps, s.task), n_dry


def assert_uniform(counts, expected) -> None:
  """The chi-square statistic of the counts is within six standard deviations of its mean."""
  counts = np.asarray(counts)
  chi_square = np.sum((counts - expected) ** 2 / expected)
  degrees = counts.size - 1
  assert chi_square < degrees + 6 * np.sqrt(2 * degrees)
