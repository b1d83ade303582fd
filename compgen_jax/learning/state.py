"""The loop state, and the one shape that every learning step has: `(state, key) -> (state, metrics)`.

A batch is split over devices by rows (`Setup.shards`, mesh axis `data`) and, on each device, worked off in blocks of
rows. Losses are sums of per-token terms whose weights are fixed beforehand over the whole batch, so neither split
changes what is computed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from compgen_jax.learning import packing
from compgen_jax.model.transformer import Model
from compgen_jax.task import latent, render
from compgen_jax.task.support import Support, with_cap
from compgen_jax.task.vocab import TaskConfig

AXIS = 'data'
MAXIMA = ('log_prob_gap',)  # metrics of which the largest counts; of all others it is the sum
SEEDS = 'seeds'


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
  `n_seeds`: seeds that train side by side, as one; with more than one, steps run inside `jax.vmap` over an axis named SEEDS.
  `row_columns`: about the width of the rows that traces are packed into for learning (see `packing.pack_traces`).
  `block_rows`: packed rows whose gradient is computed at a time: blocks of the first size as long as they can be filled,
  then of the next; the last block of the last size is filled up with empty rows. () is all at once.
  `rollout_rows`: rows whose traces are sampled at a time; 0 is all at once.
  Small blocks stay in a CPU's cache, large ones keep an accelerator busy.
  """

  task: TaskConfig
  model: Model
  tx: optax.GradientTransformation | None
  sources: tuple[Source, ...]
  shards: int = 1
  n_seeds: int = 1
  row_columns: int = 0
  block_rows: tuple[int, ...] = ()
  rollout_rows: int = 0

  def sum(self, tree: Any) -> Any:
    """Sum over the devices that share the batch: of all leaves (of one dtype) in one collective."""
    if self.shards == 1:
      return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, AXIS))

  def largest(self, tree: Any) -> Any:
    """The largest of all devices, leaf by leaf."""
    return jax.lax.pmax(tree, AXIS) if self.shards > 1 else tree

  def mean(self, x: jax.Array) -> jax.Array:
    """Mean of all elements over all devices (each holds equally many)."""
    return self.sum(jnp.mean(x.astype(jnp.float32))) / self.shards

  def most(self, n: jax.Array) -> jax.Array:
    """The largest n of all seeds: a loop whose trip count differed between seeds would mask its results at every turn."""
    return jax.lax.pmax(n, SEEDS) if self.n_seeds > 1 else n

  def pack(
    self,
    prompt_BxP: jax.Array,
    trace_BxC: jax.Array,
    mask_BxC: jax.Array,
    columns: dict[str, jax.Array],
  ):
    """`packing.pack_traces` of this device's examples together with all others', into this setup's rows; its share of them.

    Packed by themselves, the examples that count would keep some devices waiting for others.
    """
    n_examples = trace_BxC.shape[0]
    multiple = min(self.block_rows[-1], _most_rows(n_examples)) if self.block_rows else 1
    examples, shard = (prompt_BxP, trace_BxC, mask_BxC, columns), 0
    if self.shards > 1:
      examples = _gather(examples)
      shard = jax.lax.axis_index(AXIS)
    return packing.pack_traces(
      *examples, self.model.pad, self.row_columns, multiple, shard, self.shards
    )

  def blocks(self, n_rows: int, n_active: Any) -> list[tuple[int, Any]]:
    """(rows in a block, number of such blocks), one after the other, for the first `n_active` (may be traced) of `n_rows`."""
    if not self.block_rows:
      return [(n_rows, jnp.minimum(n_active, 1))]
    last = _divisor(n_rows, min(self.block_rows[-1], _most_rows(n_rows)))
    larger = {min(size, _most_rows(n_rows)) // last * last for size in self.block_rows[:-1]} - {
      0,
      last,
    }
    out = []
    for size in sorted(larger, reverse=True):
      out.append((size, n_active // size))
      n_active = n_active % size
    return out + [(last, -(-n_active // last))]

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


def sample_problems(key: jax.Array, setup: Setup):
  """This device's part of a batch: `(row_ids, Problem, Rendered)` with a leading axis B, source after source.

  Row i's keys are folded with its global index i, so the data do not depend on batching or placement. All sources
  go through one program, as wide as the deepest of them asks for.
  """
  supports = [source.support for source in setup.sources]
  composition_key, problem_key = jax.random.split(key)
  step_cap = max(support.step_cap for support in supports)
  ids, compositions, dry, first = [], [], [], 0
  for source in setup.sources:
    ids.append(setup.row_ids(first, source.rows))
    first += source.rows

    def compose(i, support=source.support):
      steps, n_dry = support.sample_steps(jax.random.fold_in(composition_key, i))
      return with_cap(steps, step_cap), jnp.int32(step_cap) if support.config.dry else n_dry

    composition, dry_B = jax.vmap(compose)(ids[-1])
    compositions.append(composition)
    dry.append(dry_B)
  row_ids = jnp.concatenate(ids)
  composition = jax.tree.map(lambda *xs: jnp.concatenate(xs), *compositions)
  never_dry = not any(support.config.dry or support.config.prefix for support in supports)

  def one(i, composition, n_dry):
    n_dry = 0 if never_dry else n_dry
    problem = latent.sample(jax.random.fold_in(problem_key, i), composition, setup.task, n_dry)
    return problem, render.render(problem, setup.task, step_cap)

  return row_ids, *jax.vmap(one)(row_ids, composition, jnp.concatenate(dry))


def _most_rows(n: int) -> int:
  """In a block, of n packed rows: of as many rows as examples, most are empty."""
  return max(1, n // 4)


def _divisor(n: int, limit: int) -> int:
  """The largest divisor of n within the limit; 0 is no limit."""
  return max(b for b in range(1, n + 1) if n % b == 0 and (b <= limit or not limit))


def in_blocks(rows: Any, block_rows: int) -> Any:
  """A pytree with leading axis B as [B / block, block, ...]; the block is the largest divisor of B within `block_rows`."""
  n = jax.tree.leaves(rows)[0].shape[0]
  block = _divisor(n, block_rows)
  return jax.tree.map(lambda x: x.reshape((n // block, block) + x.shape[1:]), rows)


def gradient(loss: Callable, params, rows: Any, setup: Setup, n_active: jax.Array):
  """Gradient of the sum of `loss` over this device's rows, block by block.

  Args:
    loss: `(params, block) -> (float32[], metrics)`, both sums over the block's rows (metrics in
      MAXIMA: the largest).
    params: where to differentiate.
    rows: pytree with a leading axis N.
    setup: decides the block sizes.
    n_active: int32[], only this many leading rows matter; blocks beyond them are skipped.

  Returns:
    `(grads, metrics)`, summed over the rows of this device.
  """
  params = setup.model.unstack(params)

  @functools.partial(jax.jit, static_argnums=1)  # traced once for its shapes and for the loop
  def one(first, size):
    block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), rows)
    return jax.grad(loss, has_aux=True)(params, block)

  first, sums = jnp.int32(0), None
  for size, count in setup.blocks(jax.tree.leaves(rows)[0].shape[0], setup.most(n_active)):
    if sums is None:
      sums = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda i: one(i, size), first)
      )

    def add(i, sums):
      (grads, metrics), (more_grads, more) = sums, one(first + i * size, size)
      metrics = {
        name: (jnp.maximum if name in MAXIMA else jnp.add)(metrics[name], more[name])
        for name in metrics
      }
      return jax.tree.map(jnp.add, grads, more_grads), metrics

    sums = jax.lax.fori_loop(0, count, add, sums)
    first += count * size
  grads, metrics = sums
  return setup.model.stack(grads), metrics


def update(state: TrainState, grads, setup: Setup) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer update with gradients summed over devices.

  Each device updates some of the layers where they can be shared out evenly: Muon's matrix products are up to a quarter of a
  step's. Metrics `grad_norm` and `finite` (1 where gradients and new parameters are finite).
  """
  grads = setup.sum(grads)
  norm = optax.tree.norm(grads)
  n_layers = setup.model.config.n_layers
  mine, whole = (lambda tree: tree,) * 2
  if setup.shards > 1 and n_layers % setup.shards == 0:
    share = n_layers // setup.shards
    first = jax.lax.axis_index(AXIS) * share
    mine = lambda tree: _on_layers(
      lambda layers: [jax.lax.dynamic_slice_in_dim(x, first, share) for x in layers], tree
    )
    whole = lambda tree: _on_layers(_gather, tree)
  params = mine(state.params)
  tx = optax.with_extra_args_support(setup.tx)
  updates, opt_state = tx.update(mine(grads), mine(state.opt_state), params, norm=norm)
  params, opt_state = whole((optax.apply_updates(params, updates), opt_state))
  finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(params))
  return TrainState(state.step + 1, params, opt_state), {
    'grad_norm': norm,
    'finite': finite.astype(jnp.float32),
  }


def _on_layers(f: Callable[[list[jax.Array]], list[jax.Array]], tree: Any) -> Any:
  """`f` on the leaves of a pytree (parameters, optimizer state) that stand for the layers and so have a leading axis N."""
  flat, structure = jax.tree.flatten_with_path(tree)
  is_layer = [any(getattr(key, 'key', None) == 'blocks' for key in path) for path, _ in flat]
  layers = iter(f([leaf for (_, leaf), is_one in zip(flat, is_layer) if is_one]))
  return jax.tree.unflatten(
    structure, [next(layers) if is_one else leaf for (_, leaf), is_one in zip(flat, is_layer)]
  )


def _gather(shares: Any) -> Any:
  """The arrays (float32, int32, bool) of which each device holds a share (along their leading axis), in one collective."""
  is_float = lambda x: x.dtype == jnp.float32
  encode = lambda x: (
    jax.lax.bitcast_convert_type(x, jnp.int32) if is_float(x) else x.astype(jnp.int32)
  )
  decode = lambda x, like: (
    jax.lax.bitcast_convert_type(x, jnp.float32) if is_float(like) else x.astype(like.dtype)
  )
  flat, unravel = ravel_pytree(jax.tree.map(encode, shares))
  whole = jax.vmap(unravel)(jax.lax.all_gather(flat, AXIS))
  return jax.tree.map(lambda x, like: decode(x.reshape((-1,) + x.shape[2:]), like), whole, shares)
