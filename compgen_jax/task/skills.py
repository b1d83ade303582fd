"""The skills: local string operations, one function each.

Every skill is deterministic and maps any string of 1 to W letters to a string of 1 to W letters.
None is the identity, and no two are alike. `tests/test_skills.py` proves all of this and compares
the skills with an independent reference. The paper has "24 skills (local operations)" (arXiv
2606.18089) whose definitions are not public; these are ours. Examples use the alphabet abcdefgh (8
letters, cyclic: the successor of h is a).

To add a skill, write a function `(String, alphabet) -> String` with a worked example and add it to
`SKILLS`. Write it again in plain Python in `tests/reference.py`. Nothing else changes.
"""

import jax
import jax.numpy as jnp

from compgen_jax.task import strings
from compgen_jax.task.modules import Module
from compgen_jax.task.strings import String


def _shift(s: String, amounts: jax.Array | int, alphabet: int) -> String:
  """Moves each letter on in the cyclic alphabet by `amounts` (int32[W], or one int for all)."""
  return strings.make((s.letters + amounts) % alphabet, s.length)


# Permuting ----------------------------------------------------------------------------------------


def reverse(s: String, alphabet: int) -> String:
  """`abcd -> dcba`"""
  del alphabet
  return strings.permute(s, s.length - 1 - jnp.arange(s.width))


def rotate_left(s: String, alphabet: int) -> String:
  """`abcd -> bcda`"""
  del alphabet
  return strings.permute(s, (jnp.arange(s.width) + 1) % s.length)


def rotate_right(s: String, alphabet: int) -> String:
  """`abcd -> dabc`"""
  del alphabet
  return strings.permute(s, (jnp.arange(s.width) - 1) % s.length)


def swap_ends(s: String, alphabet: int) -> String:
  """`abcd -> dbca`"""
  del alphabet
  i, last = jnp.arange(s.width), s.length - 1
  return strings.permute(s, jnp.where(i == 0, last, jnp.where(i == last, 0, i)))


def swap_pairs(s: String, alphabet: int) -> String:
  """`abcde -> badce`: neighbours change places, an odd last letter stays."""
  del alphabet
  i = jnp.arange(s.width)
  partner = jnp.where(i % 2 == 0, i + 1, i - 1)
  return strings.permute(s, jnp.where(partner < s.length, partner, i))


def evens_then_odds(s: String, alphabet: int) -> String:
  """`abcde -> acebd`: letters 0, 2, 4, ... and then 1, 3, ..."""
  del alphabet
  i, evens = jnp.arange(s.width), (s.length + 1) // 2
  return strings.permute(s, jnp.where(i < evens, 2 * i, 2 * (i - evens) + 1))


# Ordering -----------------------------------------------------------------------------------------


def _order(s: String, keys_W: jax.Array) -> String:
  """The letters by ascending key, ties in their order."""
  i = jnp.arange(s.width)
  smaller_WxW = keys_W[None] < keys_W[:, None]
  tied_WxW = keys_W[None] == keys_W[:, None]
  before_WxW = smaller_WxW | (tied_WxW & (i[None] < i[:, None]))
  rank_W = jnp.sum(before_WxW & (i[None] < s.length), axis=1)
  at_WxW = (rank_W[None] == i[:, None]) & (i[None] < s.length)
  return strings.make(jnp.sum(jnp.where(at_WxW, s.letters[None], 0), axis=1), s.length)


def sort_up(s: String, alphabet: int) -> String:
  """`cabd -> abcd`"""
  del alphabet
  return _order(s, s.letters)


def sort_down(s: String, alphabet: int) -> String:
  """`cabd -> dcba`"""
  del alphabet
  return _order(s, -s.letters)


# Substituting -------------------------------------------------------------------------------------


def successor(s: String, alphabet: int) -> String:
  """`abh -> bca`"""
  return _shift(s, 1, alphabet)


def predecessor(s: String, alphabet: int) -> String:
  """`abh -> hag`"""
  return _shift(s, -1, alphabet)


def opposite(s: String, alphabet: int) -> String:
  """`abh -> hga`: the alphabet read from its other end."""
  return strings.make(alphabet - 1 - s.letters, s.length)


def half_turn(s: String, alphabet: int) -> String:
  """`abh -> efd`: each letter moves half the alphabet on."""
  return _shift(s, alphabet // 2, alphabet)


# Depending on position ----------------------------------------------------------------------------


def climb(s: String, alphabet: int) -> String:
  """`aaaa -> bcde`: letter i moves i + 1 on."""
  return _shift(s, jnp.arange(s.width) + 1, alphabet)


def bump_evens(s: String, alphabet: int) -> String:
  """`aaaa -> baba`: letters 0, 2, 4, ... move one on."""
  return _shift(s, 1 - jnp.arange(s.width) % 2, alphabet)


def zigzag(s: String, alphabet: int) -> String:
  """`bbbb -> caca`: even letters move one on, odd letters one back."""
  return _shift(s, 1 - 2 * (jnp.arange(s.width) % 2), alphabet)


def bump_last(s: String, alphabet: int) -> String:
  """`aaaa -> aaac`: the last letter moves two on."""
  return _shift(s, 2 * (jnp.arange(s.width) == s.length - 1), alphabet)


# Depending on content -----------------------------------------------------------------------------


def squeeze(s: String, alphabet: int) -> String:
  """`abgh -> bcfg`: letters of the lower half move one on, letters of the upper half one back."""
  return _shift(s, jnp.where(s.letters < alphabet // 2, 1, -1), alphabet)


def fork(s: String, alphabet: int) -> String:
  """`bcd -> ecd`, `gcd -> ecg`

  If the first letter is in the lower half, it moves three on. Otherwise the string is reversed, and
  its new first letter moves one on.
  """
  first = jnp.arange(s.width) == 0
  moved = _shift(s, 3 * first, alphabet)
  turned = _shift(reverse(s, alphabet), 1 * first, alphabet)
  return strings.select(s.letters[0] < alphabet // 2, moved, turned)


def fold(s: String, alphabet: int) -> String:
  """`agbh -> acbd`: letters of the upper half move half the alphabet back."""
  return _shift(s, jnp.where(s.letters < alphabet // 2, 0, -(alphabet // 2)), alphabet)


def lower_peaks(s: String, alphabet: int) -> String:
  """`adcd -> accc`: every largest letter moves one back."""
  return _shift(s, jnp.where(s.letters == jnp.max(s.letters), -1, 0), alphabet)


# Changing the length ------------------------------------------------------------------------------


def drop_first(s: String, alphabet: int) -> String:
  """`abcd -> bcd`; a single letter moves one on: `a -> b`."""
  shorter = strings.make(strings.take(s.letters, jnp.arange(s.width) + 1), s.length - 1)
  return strings.select(s.length == 1, successor(s, alphabet), shorter)


def drop_last(s: String, alphabet: int) -> String:
  """`abcd -> abc`; a single letter moves one back: `b -> a`."""
  shorter = strings.make(s.letters, s.length - 1)
  return strings.select(s.length == 1, predecessor(s, alphabet), shorter)


def double_first(s: String, alphabet: int) -> String:
  """`abc -> aabc`; at the width cap the last letter is lost."""
  del alphabet
  letters_W = strings.take(s.letters, jnp.maximum(jnp.arange(s.width) - 1, 0))
  return strings.make(letters_W, s.length + 1)


def append_next(s: String, alphabet: int) -> String:
  """`abc -> abcd`: the last letter's successor joins; at the width cap the first letter is lost."""
  i = jnp.arange(s.width)
  last = jnp.sum(jnp.where(i == s.length - 1, s.letters, 0))
  full = (s.length == s.width).astype(jnp.int32)
  length = s.length + 1 - full
  kept_W = strings.take(s.letters, i + full)
  return strings.make(jnp.where(i == length - 1, (last + 1) % alphabet, kept_W), length)


# fmt: off
SKILLS = tuple(Module(function) for function in (
  reverse, rotate_left, rotate_right, swap_ends, swap_pairs, evens_then_odds,  # permuting
  sort_up, sort_down,  # ordering
  successor, predecessor, opposite, half_turn,  # substituting
  climb, bump_evens, zigzag, bump_last,  # depending on position
  squeeze, fork, fold, lower_peaks,  # depending on content
  drop_first, drop_last, double_first, append_next,  # changing the length
))
# fmt: on
