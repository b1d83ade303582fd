"""Registries and inventories: names and indices that belong together."""

import jax
import numpy as np

from compgen_jax.task import modules
from compgen_jax.task.routing import ROUTINGS
from compgen_jax.task.skills import SKILLS
from tests import helpers

TASK = helpers.task(skills=('successor', 'reverse'), routings=('merge', 'previous'))


def test_an_inventory_keeps_the_order_of_the_config():
  """Catches an inventory in the registry's order, whose tokens would be those of other modules."""
  assert modules.names(TASK.skill_inventory) == TASK.skills
  assert modules.names(TASK.routing_inventory) == TASK.routings


def test_no_names_are_all_modules():
  """Catches a default inventory that lacks modules."""
  assert helpers.task().skill_inventory == SKILLS
  assert helpers.task().routing_inventory == ROUTINGS


def test_names_are_those_of_the_functions_and_differ():
  """Catches two modules of one name: they would share a token and a content hash."""
  for registry in (SKILLS, ROUTINGS):
    assert modules.names(registry) == tuple(m.function.__name__ for m in registry)
  both = modules.names(SKILLS) + modules.names(ROUTINGS)
  assert len(set(both)) == len(both)


def test_apply_uses_the_given_inventory():
  """Catches an index that is looked up in the registry rather than in the task's inventory."""
  word = jax.tree.map(lambda x: x[0], helpers.encode(['abc'], TASK.width))

  def apply(i):
    return modules.apply(TASK.skill_inventory, i, word, TASK.alphabet)

  assert helpers.decode(jax.vmap(apply)(np.arange(2))) == ['bcd', 'cba']
