"""Pools: disjoint sets of compositions, decided by content.

A stable hash of the names of a composition's modules puts it into one of the pools `test`,
`validation`, `sft`, `rl`. Supports of different pools cannot overlap, whatever the seeds. A
composition of depth 1 (an atom) is in every pool: the atoms are the inventory, and there are too
few of them to split.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import modules
from compgen_jax.task.latent import Composition
from compgen_jax.task.modules import Module
from compgen_jax.task.vocab import TaskConfig

POOLS = ('test', 'validation', 'sft', 'rl')
_HASH_RANGE = 1 << 16


@dataclasses.dataclass(frozen=True)
class PoolConfig:
  """Config section `pools`: each pool's share of all compositions, and the salt of the hash.

  (The salt of seed 0: see `replicate_salt`.)
  """

  salt: int = 1
  test: float = 0.2
  validation: float = 0.1
  sft: float = 0.35
  rl: float = 0.35


def _mix(h: jax.Array, x: jax.Array) -> jax.Array:
  """One round of MurmurHash3 (32 bit)."""
  x = x * jnp.uint32(0xCC9E2D51)
  x = ((x << 15) | (x >> 17)) * jnp.uint32(0x1B873593)
  h = h ^ x
  return ((h << 13) | (h >> 19)) * jnp.uint32(5) + jnp.uint32(0xE6546B64)


def _name_codes(inventory: Sequence[Module]) -> jax.Array:
  """The CRC-32 of each module's name: uint32[R] or uint32[S]."""
  codes = [zlib.crc32(name.encode()) for name in modules.names(inventory)]
  return jnp.asarray(codes, jnp.uint32)


def content_hash(composition: Composition, task: TaskConfig, salt: jax.Array | int) -> jax.Array:
  """uint32[]: a hash (MurmurHash3) of the names of a composition's modules, in order.

  It depends on nothing else: not on a module's place in its registry, the depth cap, or any seed.
  """
  routing_code_L = _name_codes(task.routing_inventory)[composition.routing]
  skill_code_L = _name_codes(task.skill_inventory)[composition.skill]

  def step(h, of_step):  # scanned, because a copy for each step would take seconds to compile
    i, routing_code, skill_code = of_step
    return jnp.where(i < composition.depth, _mix(_mix(h, routing_code), skill_code), h), None

  step_L = jnp.arange(composition.routing.shape[0])
  h, _ = jax.lax.scan(step, jnp.uint32(salt), (step_L, routing_code_L, skill_code_L))
  h = h ^ composition.depth.astype(jnp.uint32)
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


def pool_bounds(pools: PoolConfig) -> dict[str, tuple[int, int]]:
  """The half-open range of 16-bit hash values of each pool."""
  edges = np.cumsum([0.0] + [getattr(pools, name) for name in POOLS])
  edges = np.round(edges * _HASH_RANGE).astype(int)
  return {name: (int(low), int(high)) for name, low, high in zip(POOLS, edges[:-1], edges[1:])}


def replicate_salt(salt: int, seed: int) -> int:
  """The salt of a replicate: every seed splits the compositions into pools of its own.

  Seed 0 has the salt of the config. 31 bits, so that it can be a random seed too.
  """
  return (salt + seed * 0x9E3779B1) & 0x7FFFFFFF


def in_pool(
  composition: Composition,
  bounds: tuple[int, int] | jax.Array,
  task: TaskConfig,
  salt: jax.Array | int,
) -> jax.Array:
  """bool[]: under this salt, the composition is in the pool of these bounds (atoms are in all)."""
  low, high = bounds
  h = (content_hash(composition, task, salt) >> 16).astype(jnp.int32)
  return (composition.depth == 1) | ((low <= h) & (h < high))
