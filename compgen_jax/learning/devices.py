"""Which devices share a batch, which replicates train side by side, and how they exchange numbers.

The devices of a run are a mesh of named axes: replicates are spread over REPLICATE, and the batch
of each is split over DATA. Only devices that share a batch exchange numbers.

For models too large for a device, parameters and optimizer state are split over a third axis, MODEL
(see `sharding.py`). Here all that happens over the other axes is written out, and the compiler
divides each of these devices' work over MODEL, by where the parameters are. The devices along MODEL
exchange activations in every block, so for small models the axis costs time.

A batch is split over devices by rows. Losses are sums of per-token terms whose weights are fixed
beforehand over the whole batch, so the split does not change what is computed, but for rounding:
sums are taken in another order. Where that matters, a batch is cut into a fixed number of parts
whatever the devices. Each part is worked off by itself, in programs of the same shapes, and what
the parts give is summed in one order.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

MODEL = 'model'  # the mesh axis that parameters are split over
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
  `parts`: into how many parts a batch is cut, so that bits do not depend on `n`, which divides half
  of it; 0 is one part on each device.
  `model`: over how many devices parameters are split, in place of each of these n.
  """

  n: int = 1
  n_replicates: int = 1
  groups: int = 1
  axis: str | tuple[str, ...] = DATA
  parts: int = 0
  model: int = 1

  def for_training(self, n_replicates: int) -> 'Devices':
    """Of the devices of a whole mesh (its `groups` share this batch) those that train together.

    Replicates that can't be spread evenly train side by side, on every group the same.
    """
    groups = self.groups if n_replicates % self.groups == 0 else 1
    n, rest = self.n // self.groups, dict(parts=self.parts, model=self.model)
    return Devices(n, n_replicates // groups, groups, **rest)

  @property
  def lanes(self) -> int:
    """The parts of a batch that this device works off, one after the other."""
    return self.parts // self.n if self.parts else 1

  @property
  def index(self) -> jax.Array | int:
    """Which of the devices this is."""
    return jax.lax.axis_index(self.axis) if self.n > 1 else 0

  def sum(self, tree: Any) -> Any:
    """Sum over devices, of all leaves (of one dtype) in one collective.

    (Leaves that are split over MODEL stay so, each in its own.)
    """
    if self.n == 1:
      return tree
    if self.model > 1:
      return jax.lax.psum(tree, self.axis)
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, self.axis))

  def sum_of_parts(self, tree: Any) -> Any:
    """Sum over the parts of the batch; where there are several on a device, leaves have a leading
    axis of them."""
    if not self.parts:
      return self.sum(tree)
    _, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], tree))
    part_LxX = jax.vmap(lambda part: ravel_pytree(part)[0])(tree)
    return unravel(jnp.sum(self._whole(part_LxX), axis=0))

  def mean(self, x: jax.Array) -> jax.Array:
    """float32[]: mean of all elements on all devices (each holds equally many)."""
    x = x.astype(jnp.float32)
    return jnp.mean(self._whole(x)) if self.parts else self.sum(jnp.mean(x)) / self.n

  def _whole(self, share: jax.Array) -> jax.Array:
    """`gather`, behind which programs are the same on any number of devices."""
    return jax.lax.optimization_barrier(self.gather(share))

  def joined(self, shares: list[Any]) -> Any:
    """This device's rows of several sources (leading axis), one behind the other in each part."""

    def join(*xs):
      by_part = [x.reshape(self.lanes, -1, *x.shape[1:]) for x in xs]
      return jnp.concatenate(by_part, axis=1).reshape(-1, *xs[0].shape[1:])

    return jax.tree.map(join, *shares)

  def by_part(self, f: Callable, rows: Any) -> Any:
    """`f` of rows (leading axis), a part of this device's share at a time; results have that axis
    too."""
    if not self.parts:
      return f(rows)
    out = jax.lax.map(f, jax.tree.map(lambda x: x.reshape(self.lanes, -1, *x.shape[1:]), rows))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

  def of_parts(self, f: Callable[[jax.Array | int], Any]) -> Any:
    """`f(i)` for the part i of this device; several get a leading axis."""
    if not self.parts:
      return f(self.index)
    return jax.vmap(f)(self.index * self.lanes + jnp.arange(self.lanes))

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

  def trips(self, x: jax.Array) -> jax.Array:
    """The trip count of a loop: the maximum over the replicates side by side.

    A loop whose trip count differed between replicates would mask its results in every iteration.
    Where parameters are split, also over all devices: they may meet in the loop.
    """
    x = jax.lax.pmax(x, REPLICATES) if self.n_replicates > 1 else x
    if self.model == 1 or self.n == self.groups == 1:
      return x
    return jax.lax.pmax(x, (REPLICATE, DATA) if self.groups > 1 else DATA)

  def goes_on(self, unfinished: jax.Array) -> jax.Array:
    """bool[]: whether a loop goes on: while this device has something to do, or, where parameters
    are split, any of them."""
    return unfinished if self.model == 1 else self.trips(unfinished.astype(jnp.int32)) > 0

  def shared(self, f: Callable, row_outputs: bool = False) -> Callable:
    """`f` inside a `shard_map`: arguments are replicated; outputs too, or split by rows."""
    if self.n == 1:
      return f
    replicated = jax.sharding.PartitionSpec()
    out = jax.sharding.PartitionSpec(self.axis) if row_outputs else replicated
    return self._on_each(f, replicated, out)

  def spread(self, f: Callable) -> Callable:
    """`shared`, of `f(state, given, n)`: state, given and what it returns have a leading replicate
    axis, of which each group of devices has its part."""
    if self.groups == 1:
      return self.shared(f)
    mine, all_of_it = jax.sharding.PartitionSpec(REPLICATE), jax.sharding.PartitionSpec()
    in_specs = mine, mine, all_of_it
    return self._on_each(f, in_specs, mine)

  def _on_each(self, f: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`f` on each device of the current mesh; over MODEL the compiler divides it."""

    @functools.wraps(f)
    def run(*args):
      axes = set(jax.sharding.get_abstract_mesh().axis_names) - {MODEL}
      specs = dict(in_specs=in_specs, out_specs=out_specs)
      return jax.shard_map(f, **specs, axis_names=axes, check_vma=False)(*args)

    return run


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
