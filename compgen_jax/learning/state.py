"""The loop state, and the one shape that every learning step has: `(state, key) -> (state, metrics)`.

A batch is split over devices by rows (`Setup.shards`, mesh axis `data`) and, on each device, worked off in blocks of
rows. Losses are sums of per-token terms whose weights are fixed beforehand over the whole batch, so neither split
changes what is computed.
"""

import dataclasses
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import optax

from compgen_jax.model.transformer import Model
from compgen_jax.task import render
from compgen_jax.task.support import Support
from compgen_jax.task.vocab import TaskConfig

AXIS = 'data'


class TrainState(NamedTuple):
  """`step` int32[], updates done; `params` float32 leaves; `opt_state` of optax."""

  step: jax.Array
  params: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True)
class Source:
  """A part of each batch: `rows` problems of `support` (over all devices)."""

  support: Support
  rows: int


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a step needs besides state and key; static under jit.

  `shards`: devices that share a batch; with more than one, steps run inside `jax.shard_map` over the mesh axis `data`.
  `block_rows`: rows whose gradient (`rollout_rows`: whose traces) are computed at a time, 0 all at once. Small blocks stay
  in a CPU's cache; an accelerator wants them all.
  """

  task: TaskConfig
  model: Model
  tx: optax.GradientTransformation | None
  sources: tuple[Source, ...]
  shards: int = 1
  block_rows: int = 0
  rollout_rows: int = 0

  def sum(self, x: jax.Array) -> jax.Array:
    """Sum over the devices that share the batch."""
    return jax.lax.psum(x, AXIS) if self.shards > 1 else x

  def mean(self, x: jax.Array) -> jax.Array:
    """Mean of all elements over all devices (each holds equally many)."""
    return self.sum(jnp.mean(x.astype(jnp.float32))) / self.shards

  def row_ids(self, first: int, rows: int) -> jax.Array:
    """Global indices of this device's part of the batch rows [first, first + rows)."""
    mine = rows // self.shards
    offset = jax.lax.axis_index(AXIS) * mine if self.shards > 1 else 0
    return first + offset + jnp.arange(mine)


def on_every_device(f: Callable, setup: Setup, row_outputs: bool = False) -> Callable:
  """`f` inside a `shard_map` over the mesh axis `data`: arguments replicated; outputs too, or split by rows."""
  if setup.shards == 1:
    return f
  whole = jax.sharding.PartitionSpec()
  out = jax.sharding.PartitionSpec(AXIS) if row_outputs else whole
  return jax.shard_map(f, in_specs=whole, out_specs=out, check_vma=False)


def create(setup: Setup, params) -> TrainState:
  """The state before the first update of a stage: cold optimizer moments."""
  return TrainState(jnp.int32(0), params, setup.tx.init(params))


def sample_problems(key: jax.Array, support: Support, row_ids: jax.Array):
  """A problem per row: (Problem, Rendered) with a leading axis B.

  Row i's key is `fold_in(key, i)` with i its global index, so the data do not depend on batching or placement.
  """

  def one(i):
    problem = support.sample(jax.random.fold_in(key, i))
    return problem, render.render(problem, support.task, support.depth_cap)

  return jax.vmap(one)(row_ids)


def numbered(sources: tuple[Source, ...]):
  """Each source with the global index of its first row."""
  first = 0
  for source in sources:
    yield first, source
    first += source.rows


def in_blocks(rows: Any, block_rows: int) -> Any:
  """A pytree with leading axis B as [B / block, block, ...]; the block is the largest divisor of B within `block_rows`."""
  n = jax.tree.leaves(rows)[0].shape[0]
  block = max(b for b in range(1, n + 1) if n % b == 0 and (b <= block_rows or not block_rows))
  return jax.tree.map(lambda x: x.reshape((n // block, block) + x.shape[1:]), rows)


def gradient(loss: Callable, params, rows: Any, setup: Setup, n_active: jax.Array | None = None):
  """Gradient of the sum of `loss` over this device's rows, block by block.

  Args:
    loss: `(params, block) -> (float32[], metrics)`, both sums over the block's rows.
    params: where to differentiate.
    rows: pytree with a leading axis B.
    setup: decides the block size.
    n_active: int32[], only this many leading rows matter; blocks beyond them are skipped. None is all.

  Returns:
    `(grads, metrics)`, summed over the rows of this device.
  """
  blocks = in_blocks(rows, setup.block_rows)
  n_blocks, block = jax.tree.leaves(blocks)[0].shape[:2]
  one = lambda i: jax.grad(loss, has_aux=True)(params, jax.tree.map(lambda x: x[i], blocks))
  if n_blocks == 1 and n_active is None:
    return one(0)
  n = n_blocks if n_active is None else -(-n_active // block)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
  return jax.lax.fori_loop(0, n, lambda i, sums: jax.tree.map(jnp.add, sums, one(i)), zeros)


def update(state: TrainState, grads, setup: Setup) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer update with gradients summed over devices.

  Metrics `grad_norm` and `finite` (1 where gradients and new parameters are finite).
  """
  grads = setup.sum(grads)
  updates, opt_state = setup.tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(params))
  return TrainState(state.step + 1, params, opt_state), {'grad_norm': norm, 'finite': finite.astype(jnp.float32)}
