"""Fixed-width strings: what skills and routing mechanisms read and return.

A string has 1 to W letters. It is stored as `letters` (int32[W] in [0, alphabet), zero beyond the
length) and `length` (int32[] in [1, W]). All functions of `task/` take single strings; `jax.vmap`
batches them.

Shape letters of `task/`: W letters of a string (width cap), L steps (depth cap), E values (two
inputs, then one result a step: L + 2), R routing mechanisms, S skills, Z compositions of a table, B
examples, P prompt columns, C trace columns.
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


def make(letters_W: jax.Array, length: jax.Array) -> String:
  """The string of the first `length` letters (all W of them if `length` is larger)."""
  width = letters_W.shape[0]
  length = jnp.minimum(length, width).astype(jnp.int32)
  return String(jnp.where(jnp.arange(width) < length, letters_W, 0).astype(jnp.int32), length)


def take(letters_W: jax.Array, indices_W: jax.Array) -> jax.Array:
  """int32[W]: `letters_W[indices_W]`, zero where an index is outside [0, W).

  It compares and sums, because for a few letters that is faster than a gather.
  """
  hit_WxW = indices_W[:, None] == jnp.arange(letters_W.shape[0])
  return jnp.sum(jnp.where(hit_WxW, letters_W, 0), axis=1)


def permute(s: String, indices_W: jax.Array) -> String:
  """The string of the same length whose letter i is letter `indices_W[i]` of `s`."""
  return make(take(s.letters, indices_W), s.length)


def concatenate(a: String, b: String) -> String:
  """`a` followed by `b`, cut at the width cap."""
  i = jnp.arange(a.width)
  letters_W = jnp.where(i < a.length, a.letters, take(b.letters, i - a.length))
  return make(letters_W, a.length + b.length)


def equal(a: String, b: String) -> jax.Array:
  """bool[]: the two strings are the same."""
  return (a.length == b.length) & jnp.all(a.letters == b.letters)


def select(condition: jax.Array, a: String, b: String) -> String:
  """`a` where `condition` (bool[]) holds, else `b`."""
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def at(strings: String, i: jax.Array | int) -> String:
  """String number `i` of strings with a leading axis."""
  return jax.tree.map(lambda x: x[i], strings)


def join(a: String, b: String) -> String:
  """The strings of `a` and then those of `b`, along their leading axes."""
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
