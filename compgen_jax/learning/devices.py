"""Which devices share a batch, which replicates train side by side, and how they exchange numbers.

The devices of a run are a mesh of two named axes: replicates are spread over REPLICATE, and the
batch of each is split over DATA. Only devices that share a batch exchange numbers.

A batch is split over devices by rows. Losses are sums of per-token terms whose weights are fixed
beforehand over the whole batch, so the split does not change what is computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

DATA = 'data'  # the mesh axis that batches are split over
REPLICATE = 'replicate'  # the mesh axis that replicates are spread over
REPLICATES = 'replicates'  # the axis of `jax.vmap` over replicates


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices that share a batch, as one of them sees it.

  `n`: how many there are; if more than one, steps run inside `jax.shard_map`.
  `n_replicates`: replicates that train side by side on them; if more than one, steps run inside
  `jax.vmap` over an axis named REPLICATES.
  `groups`: how many such groups of devices there are, each with other replicates.
  `axis`: the mesh axes that the batch is split over.
  """

  n: int = 1
  n_replicates: int = 1
  groups: int = 1
  axis: str | tuple[str, ...] = DATA

  def for_training(self, n_replicates: int) -> 'Devices':
    """Of the devices of a whole mesh (its `groups` share this batch) those that train together.

    Replicates that can't be spread evenly train side by side, on every group the same.
    """
    groups = self.groups if n_replicates % self.groups == 0 else 1
    return Devices(self.n // self.groups, n_replicates // groups, groups)

  @property
  def index(self) -> jax.Array | int:
    """Which of the devices this is."""
    return jax.lax.axis_index(self.axis) if self.n > 1 else 0

  def sum(self, tree: Any) -> Any:
    """Sum over devices, of all leaves (of one dtype) in one collective."""
    if self.n == 1:
      return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, self.axis))

  def mean(self, x: jax.Array) -> jax.Array:
    """float32[]: mean of all elements on all devices (each holds equally many)."""
    return self.sum(jnp.mean(x.astype(jnp.float32))) / self.n

  def max(self, x: jax.Array) -> jax.Array:
    """Maximum over devices."""
    return x if self.n == 1 else jax.lax.pmax(x, self.axis)

  def gather(self, shares: Any) -> Any:
    """Whole arrays (float32, int32, bool) from each device's share of their leading axis.

    One collective for the whole pytree: all leaves travel as int32.
    """
    if self.n == 1:
      return shares
    flat, unravel = ravel_pytree(jax.tree.map(_as_int32, shares))
    whole = jax.vmap(unravel)(jax.lax.all_gather(flat, self.axis))
    return jax.tree.map(_from_int32, whole, shares)

  def row_ids(self, first: int, rows: int) -> jax.Array:
    """int32: global indices of this device's part of the batch rows [first, first + rows)."""
    mine = rows // self.n
    return first + self.index * mine + jnp.arange(mine)

  def largest_of_replicates(self, x: jax.Array) -> jax.Array:
    """Maximum over the replicates side by side.

    For trip counts: a loop whose trip count differed between replicates would mask its results
    in every iteration.
    """
    return jax.lax.pmax(x, REPLICATES) if self.n_replicates > 1 else x

  def shared(self, f: Callable, row_outputs: bool = False) -> Callable:
    """`f` inside a `shard_map`: arguments are replicated; outputs too, or split by rows."""
    if self.n == 1:
      return f
    replicated = jax.sharding.PartitionSpec()
    out = jax.sharding.PartitionSpec(self.axis) if row_outputs else replicated
    return jax.shard_map(f, in_specs=replicated, out_specs=out, check_vma=False)

  def spread(self, f: Callable) -> Callable:
    """`shared`, of `f(state, given, n)`: state, given and what it returns have a leading replicate
    axis, of which each group of devices has its part."""
    if self.groups == 1:
      return self.shared(f)
    mine, all_of_it = jax.sharding.PartitionSpec(REPLICATE), jax.sharding.PartitionSpec()
    in_specs = mine, mine, all_of_it
    return jax.shard_map(f, in_specs=in_specs, out_specs=mine, check_vma=False)


def _as_int32(x: jax.Array) -> jax.Array:
  if x.dtype == jnp.float32:
    return jax.lax.bitcast_convert_type(x, jnp.int32)
  return x.astype(jnp.int32)


def _from_int32(gathered: jax.Array, share: jax.Array) -> jax.Array:
  """[devices, rows, ...] int32 as [devices * rows, ...] in the dtype of the share."""
  x = gathered.reshape((-1,) + gathered.shape[2:])
  if share.dtype == jnp.float32:
    return jax.lax.bitcast_convert_type(x, jnp.float32)
  return x.astype(share.dtype)
