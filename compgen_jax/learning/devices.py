"""Which devices share a batch, which replicates train side by side, and how they exchange numbers.

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
REPLICATES = 'replicates'  # the axis of `jax.vmap` over replicates


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices that share a batch, as one of them sees it.

  `n`: how many there are; if more than one, steps run inside `jax.shard_map` over the axis DATA.
  `n_replicates`: replicates that train side by side; if more than one, steps run inside `jax.vmap`
  over an axis named REPLICATES.
  """

  n: int = 1
  n_replicates: int = 1

  @property
  def index(self) -> jax.Array | int:
    """Which of the devices this is."""
    return jax.lax.axis_index(DATA) if self.n > 1 else 0

  def sum(self, tree: Any) -> Any:
    """Sum over devices, of all leaves (of one dtype) in one collective."""
    if self.n == 1:
      return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, DATA))

  def mean(self, x: jax.Array) -> jax.Array:
    """float32[]: mean of all elements on all devices (each holds equally many)."""
    return self.sum(jnp.mean(x.astype(jnp.float32))) / self.n

  def max(self, x: jax.Array) -> jax.Array:
    """Maximum over devices."""
    return x if self.n == 1 else jax.lax.pmax(x, DATA)

  def gather(self, shares: Any) -> Any:
    """Whole arrays (float32, int32, bool) from each device's share of their leading axis.

    One collective for the whole pytree: all leaves travel as int32.
    """
    if self.n == 1:
      return shares
    flat, unravel = ravel_pytree(jax.tree.map(_as_int32, shares))
    whole = jax.vmap(unravel)(jax.lax.all_gather(flat, DATA))
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
    out = jax.sharding.PartitionSpec(DATA) if row_outputs else replicated
    return jax.shard_map(f, in_specs=replicated, out_specs=out, check_vma=False)


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
