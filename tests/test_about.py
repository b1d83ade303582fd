"""What the report says of supports is true of them."""

import itertools
import json

import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.task import tables
from tests import helpers
from tests.experiments import tiny


def test_supports_of_a_run(finished):
  """Sizes of another support, shares that are of the pool and not of the table, or a leak that
  reads as none."""
  workdir, _ = finished
  about = json.loads((workdir / 'summary.json').read_text())['supports']
  assert list(about) == ['sft', 'unseen', 'deeper', 'atoms', 'rl']  # as in the config
  assert about['sft']['compositions'] == {'1': 4, '2': 4} and about['sft']['is_exact']
  assert about['atoms']['compositions'] == {'1': 12} and about['atoms']['is_exact']
  assert not about['deeper']['is_exact']
  assert about['unseen']['shown'] == about['deeper']['shown'] == {'sft': 0, 'rl': 0, 'atoms': 0}
  assert 0 < about['atoms']['shown']['sft'] < 1 and about['atoms']['shown']['rl'] == 0
  assert about['sft']['shown'] == {'rl': 0, 'atoms': 0.5}
  steps = about['deeper']['example'].split(', ')
  names = [tuple(step.split()) for step in steps]
  task = from_config_dict(tiny()).task
  assert len(names) == 3
  assert all(routing in task.routings and skill in task.skills for routing, skill in names)


@pytest.mark.parametrize(
  'limits',
  [
    {},
    {'with_skills': ('climb',)},
    {'without_routings': ('merge',), 'with_pairs': ('previous climb', 'earlier fork')},
    {'without_pairs': ('previous climb', 'merge reverse')},
  ],
)
def test_sizes(limits):
  """A size that forgets the pool or what the support leaves out; compared with a count of all."""
  task = helpers.task(
    skills=('reverse', 'climb', 'fork', 'successor'), routings=('previous', 'earlier', 'merge')
  )
  config = helpers.support_config(depths=(1, 2), **limits)
  support = tables.build('all', config, task, helpers.pools())
  pairs = list(itertools.product(task.routing_inventory, task.skill_inventory))
  pairs = [(routing.name, skill.name) for routing, skill in pairs]
  for depth in (1, 2):
    rows = list(itertools.product(pairs, repeat=depth))
    n = int(support.contains_all(helpers.composition(rows, task, 2)).sum())
    size, is_exact = tables.size(support, depth)
    assert is_exact == (depth == 1)
    assert size == n if is_exact else abs(size - n) <= 0.15 * n
