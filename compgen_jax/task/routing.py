"""The 10 routing mechanisms: how intermediate results are selected and reused.

A routing mechanism picks or builds the operand of a step from the growing list of values: the two inputs, then
one result per step. `previous` is the last value, `earlier` the one before it, `first` the first input; at depth 1
these are the second, first and first input (so `earlier` and `first_input` agree at depth 1 and nowhere else).
The inventory is our instantiation of the paper's "10 routing mechanisms" (arXiv 2606.18089), whose definitions
are not public; `tests/test_routing.py` proves its properties against an independent reference.

To add one: write a function `(Sources, alphabet) -> String` with a worked example, and add it to `ROUTINGS`
together with what it reads (which decides whether a composition has a step that nothing depends on).
Examples write previous = pqr, earlier = abcd, first = xyz.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task import strings
from compgen_jax.task.strings import String


class Sources(NamedTuple):
  """What a routing mechanism may read: the last value, the one before it, and the first input."""

  previous: String
  earlier: String
  first: String


@dataclasses.dataclass(frozen=True)
class Routing:
  """A registry entry: the function, and whether it may read the previous and the earlier value."""

  function: Callable[[Sources, int], String]
  reads_previous: bool
  reads_earlier: bool

  @property
  def __name__(self) -> str:  # the same handle as a skill's, which is a plain function
    return self.function.__name__


# Choosing -------------------------------------------------------------------------------------------------


def previous(x: Sources, alphabet: int) -> String:
  """`pqr`"""
  del alphabet
  return x.previous


def earlier(x: Sources, alphabet: int) -> String:
  """`abcd`"""
  del alphabet
  return x.earlier


def first_input(x: Sources, alphabet: int) -> String:
  """`xyz`"""
  del alphabet
  return x.first


# Building -------------------------------------------------------------------------------------------------


def merge(x: Sources, alphabet: int) -> String:
  """`pqrabcd`, cut at the width cap: previous, then earlier."""
  del alphabet
  return strings.concatenate(x.previous, x.earlier)


def interleave(x: Sources, alphabet: int) -> String:
  """`apbqcrd`, cut at the width cap: letters in turn, earlier first; the rest of the longer one follows."""
  del alphabet
  i = jnp.arange(x.previous.width)
  both = 2 * jnp.minimum(x.previous.length, x.earlier.length)  # here the turns end
  from_earlier = jnp.where(i < both, i % 2 == 0, x.earlier.length > x.previous.length)
  at = jnp.where(i < both, i // 2, i - both // 2)
  letters_W = jnp.where(
    from_earlier, strings.take(x.earlier.letters, at), strings.take(x.previous.letters, at)
  )
  return strings.make(letters_W, x.previous.length + x.earlier.length, x.previous.width)


def halves(x: Sources, alphabet: int) -> String:
  """`abr`: the first half of earlier (rounded up), then the second half of previous (rounded down)."""
  del alphabet
  head = strings.make(x.earlier.letters, (x.earlier.length + 1) // 2, x.earlier.width)
  skipped = (x.previous.length + 1) // 2
  tail_letters_W = strings.take(x.previous.letters, jnp.arange(x.previous.width) + skipped)
  tail = strings.make(tail_letters_W, x.previous.length - skipped, x.previous.width)
  return strings.concatenate(head, tail)


# Conditional choice on content, selection by comparison ---------------------------------------------------


def by_first_letter(x: Sources, alphabet: int) -> String:
  """previous if its first letter is in the lower half of the alphabet, else earlier."""
  return strings.select(x.previous.letters[0] < alphabet // 2, x.previous, x.earlier)


def greater(x: Sources, alphabet: int) -> String:
  """Whichever of previous and earlier has the later first letter (a tie: previous)."""
  del alphabet
  return strings.select(x.previous.letters[0] >= x.earlier.letters[0], x.previous, x.earlier)


def longer(x: Sources, alphabet: int) -> String:
  """Whichever of previous and earlier is longer (a tie: the two merged, earlier first, cut at the width cap)."""
  del alphabet
  chosen = strings.select(x.previous.length > x.earlier.length, x.previous, x.earlier)
  tie = x.previous.length == x.earlier.length
  return strings.select(tie, strings.concatenate(x.earlier, x.previous), chosen)


# Partial application --------------------------------------------------------------------------------------


def bind_first(x: Sources, alphabet: int) -> String:
  """`xpqr`: the first input's first letter is bound in front of previous; at the width cap the last is lost."""
  del alphabet
  letter = strings.make(x.first.letters, jnp.int32(1), x.first.width)
  return strings.concatenate(letter, x.previous)


ROUTINGS = (
  Routing(previous, True, False),
  Routing(earlier, False, True),
  Routing(first_input, False, False),
  Routing(merge, True, True),
  Routing(interleave, True, True),
  Routing(halves, True, True),
  Routing(by_first_letter, True, True),
  Routing(greater, True, True),
  Routing(longer, True, True),
  Routing(bind_first, True, False),
)


def sources(values: String, step: jax.Array) -> Sources:
  """What step number `step` (int32[], from 0) may read of `values` (a String with a leading axis V)."""
  at = lambda i: jax.tree.map(lambda x: x[i], values)
  return Sources(previous=at(step + 1), earlier=at(step), first=at(0))


def apply_all(x: Sources, alphabet: int, inventory=ROUTINGS) -> String:
  """The operand of every mechanism of `inventory`: a String with a leading axis R."""
  return jax.tree.map(lambda *xs: jnp.stack(xs), *[r.function(x, alphabet) for r in inventory])


def apply(routing: jax.Array, x: Sources, alphabet: int, inventory=ROUTINGS) -> String:
  """The operand that mechanism number `routing` (int32[], an index into `inventory`) picks or builds."""
  return jax.tree.map(lambda v: v[routing], apply_all(x, alphabet, inventory))
