"""The routing mechanisms: how intermediate results are selected and reused.

A routing mechanism picks or builds the operand of a step from the list of values: the two inputs,
then one result a step. It may read three of them. `previous` is the last value, `earlier` the one
before it, `first` the first input. At depth 1 these are the second, the first and the first input,
so `earlier` and `first_input` agree at depth 1 and nowhere else. The paper has "10 routing
mechanisms" (arXiv 2606.18089) whose definitions are not public; these are ours.
`tests/test_routing.py` proves their properties and compares them with an independent reference.

To add one, write a function `(Sources, alphabet) -> String` with a worked example and add it to
`ROUTINGS` with what it reads (this decides whether the answer depends on every step). Write it
again in plain Python in `tests/reference.py`. Nothing else changes. Examples have previous = pqr,
earlier = abcd, first = xyz.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task import strings
from compgen_jax.task.modules import Module
from compgen_jax.task.strings import String


class Sources(NamedTuple):
  """What a routing mechanism may read: the last value, the one before it, and the first input."""

  previous: String
  earlier: String
  first: String


@dataclasses.dataclass(frozen=True)
class Routing(Module):
  """A routing mechanism, and whether the previous and the earlier value can change its operand."""

  reads_previous: bool
  reads_earlier: bool


# Choosing -----------------------------------------------------------------------------------------


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


# Building -----------------------------------------------------------------------------------------


def merge(x: Sources, alphabet: int) -> String:
  """`pqrabcd`, cut at the width cap: previous, then earlier."""
  del alphabet
  return strings.concatenate(x.previous, x.earlier)


def interleave(x: Sources, alphabet: int) -> String:
  """`apbqcrd`, cut at the width cap: letters in turn, earlier first, then the longer one's rest."""
  del alphabet
  i = jnp.arange(x.previous.width)
  in_turn = 2 * jnp.minimum(x.previous.length, x.earlier.length)  # how many letters are in turn
  from_earlier_W = jnp.where(i < in_turn, i % 2 == 0, x.earlier.length > x.previous.length)
  index_W = jnp.where(i < in_turn, i // 2, i - in_turn // 2)
  earlier_W = strings.take(x.earlier.letters, index_W)
  previous_W = strings.take(x.previous.letters, index_W)
  letters_W = jnp.where(from_earlier_W, earlier_W, previous_W)
  return strings.make(letters_W, x.previous.length + x.earlier.length)


def halves(x: Sources, alphabet: int) -> String:
  """`abr`: first half of earlier (rounded up), then second half of previous (rounded down)."""
  del alphabet
  front = strings.make(x.earlier.letters, (x.earlier.length + 1) // 2)
  skipped = (x.previous.length + 1) // 2
  back_W = strings.take(x.previous.letters, jnp.arange(x.previous.width) + skipped)
  return strings.concatenate(front, strings.make(back_W, x.previous.length - skipped))


# Choosing by content ------------------------------------------------------------------------------


def by_first_letter(x: Sources, alphabet: int) -> String:
  """previous if its first letter is in the lower half of the alphabet, else earlier."""
  return strings.select(x.previous.letters[0] < alphabet // 2, x.previous, x.earlier)


def greater(x: Sources, alphabet: int) -> String:
  """The one of previous and earlier with the later first letter; a tie: previous."""
  del alphabet
  return strings.select(x.previous.letters[0] >= x.earlier.letters[0], x.previous, x.earlier)


def longer(x: Sources, alphabet: int) -> String:
  """The longer of previous and earlier; a tie: earlier, then previous, cut at the width cap."""
  del alphabet
  chosen = strings.select(x.previous.length > x.earlier.length, x.previous, x.earlier)
  tie = x.previous.length == x.earlier.length
  return strings.select(tie, strings.concatenate(x.earlier, x.previous), chosen)


# Partial application ------------------------------------------------------------------------------


def bind_first(x: Sources, alphabet: int) -> String:
  """`xpqr`, cut at the width cap: the first letter of the first input, then previous."""
  del alphabet
  letter = strings.make(x.first.letters, jnp.int32(1))
  return strings.concatenate(letter, x.previous)


ROUTINGS = (
  Routing(previous, reads_previous=True, reads_earlier=False),
  Routing(earlier, reads_previous=False, reads_earlier=True),
  Routing(first_input, reads_previous=False, reads_earlier=False),
  Routing(merge, reads_previous=True, reads_earlier=True),
  Routing(interleave, reads_previous=True, reads_earlier=True),
  Routing(halves, reads_previous=True, reads_earlier=True),
  Routing(by_first_letter, reads_previous=True, reads_earlier=True),
  Routing(greater, reads_previous=True, reads_earlier=True),
  Routing(longer, reads_previous=True, reads_earlier=True),
  Routing(bind_first, reads_previous=True, reads_earlier=False),
)


def sources(values: String, step: jax.Array) -> Sources:
  """What step number `step` (int32[], from 0) may read of `values` (leading axis E)."""
  return Sources(
    previous=strings.at(values, step + 1),
    earlier=strings.at(values, step),
    first=strings.at(values, 0),
  )
