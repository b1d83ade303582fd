"""Fixed-width strings: the values that skills and routing mechanisms map.

A string of 1 to W letters is `letters_W` (int32 in [0, alphabet), zero beyond the length) and `length`
(int32 scalar in [1, W]). All functions of `task/` take single strings and are batched with `jax.vmap`.

Shape letters used throughout `task/`: W string width cap, L depth cap (steps), V values (L + 2), R routing
mechanisms, S skills, T tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class String(NamedTuple):
  """One string. `letters` int32[W], zero beyond `length`; `length` int32[]."""

  letters: jax.Array
  length: jax.Array

  @property
  def width(self) -> int:
    return self.letters.shape[-1]


def make(letters_N: jax.Array, length: jax.Array, width: int) -> String:
  """A canonical string: at most `width` letters are kept and everything beyond the length is zero."""
  letters_W = letters_N[:width]
  length = jnp.minimum(length, width).astype(jnp.int32)
  return String(jnp.where(jnp.arange(width) < length, letters_W, 0).astype(jnp.int32), length)


def take(letters_N: jax.Array, indices_M: jax.Array) -> jax.Array:
  """`letters_N[indices_M]`, zero where an index is outside [0, N).

  Written as a comparison and a sum: for a handful of letters that vectorises, where a gather does not.
  """
  hit_MxN = indices_M[:, None] == jnp.arange(letters_N.shape[0])
  return jnp.sum(jnp.where(hit_MxN, letters_N, 0), axis=1)


def permute(s: String, indices_W: jax.Array) -> String:
  """The string whose letter i is letter `indices_W[i]` of `s`, of the same length."""
  return make(take(s.letters, indices_W), s.length, s.width)


def concatenate(a: String, b: String) -> String:
  """`a` followed by `b`, cut at the width cap."""
  i = jnp.arange(a.width)
  letters_W = jnp.where(i < a.length, a.letters, take(b.letters, i - a.length))
  return make(letters_W, a.length + b.length, a.width)


def equal(a: String, b: String) -> jax.Array:
  """True (bool[]) where the two canonical strings are the same."""
  return (a.length == b.length) & jnp.all(a.letters == b.letters)


def select(condition: jax.Array, a: String, b: String) -> String:
  """`a` where `condition` (bool[]) else `b`."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
