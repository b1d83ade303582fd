"""What skills and routing mechanisms, together *modules*, have in common.

A registry is a tuple of modules; an inventory is a registry or a choice from it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from compgen_jax.task.strings import String


@dataclasses.dataclass(frozen=True)
class Module:
  """An entry of a registry: a function of (what the module reads, number of letters)."""

  function: Callable[[Any, int], String]

  @property
  def name(self) -> str:
    """The name of the function; configs, tokens and the content hash use it."""
    return self.function.__name__


def names(inventory: Sequence[Module]) -> tuple[str, ...]:
  """The names of the modules, by index."""
  return tuple(module.name for module in inventory)


def apply_all(inventory: Sequence[Module], x: Any, alphabet: int) -> String:
  """What every module makes of `x`: a String with a leading axis, R or S."""
  made = [module.function(x, alphabet) for module in inventory]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def apply(inventory: Sequence[Module], index: jax.Array, x: Any, alphabet: int) -> String:
  """What module number `index` (int32[], traced) of the inventory makes of `x`."""
  return jax.tree.map(lambda leaf: leaf[index], apply_all(inventory, x, alphabet))
