"""The loop state, what a stage's updates are given, and one optimizer update.

Every kind of stage has a step of one shape (see `kinds.py`):
`step(state, given, setup, config) -> (state, metrics)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from compgen_jax.learning.setup import Setup
from compgen_jax.model.transformer import is_block_leaf
from compgen_jax.task.sampler import Sampler


class TrainState(NamedTuple):
  """`step` int32[], updates done; `params` float32 leaves; `opt_state` of optax."""

  step: jax.Array
  params: Any
  opt_state: Any


class Given(NamedTuple):
  """What all updates of a stage are given beside the state.

  Arrays: with a leading replicate axis outside of `jax.vmap`, without it inside.

  `key`: the stage's randomness. `parent`: the parameters that the stage started from. `samplers`:
  of the supports that it trains on, by name.
  `learning_rate_K`: float32, of the next updates: of update i (from 0) in place i mod K.
  """

  key: jax.Array
  parent: Any
  samplers: dict[str, Sampler]
  learning_rate_K: jax.Array

  def key_of(self, state: TrainState) -> jax.Array:
    """The randomness of the update that follows `state`."""
    return jax.random.fold_in(self.key, state.step)

  def learning_rate_of(self, state: TrainState) -> jax.Array:
    """float32[]: the learning rate of the update that follows `state`."""
    return self.learning_rate_K[state.step % self.learning_rate_K.shape[0]]


def create(setup: Setup, params: Any) -> TrainState:
  """The state before the first update of a stage: the optimizer's moments are zero."""
  return TrainState(jnp.int32(0), params, setup.tx.init(params))


def all_finite(tree: Any) -> jax.Array:
  """bool[]: no leaf holds NaN or infinity."""
  floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


def update(
  state: TrainState,
  grads: Any,
  metrics: dict[str, jax.Array],
  setup: Setup,
  learning_rate: jax.Array | float,
  of_batch: tuple[jax.Array, ...] = (),
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer update, or none where anything is not finite.

  Where the blocks can be shared out evenly, each device updates its share of them: Muon's matrix
  products are up to a quarter of a step's. (Where parameters are split they are divided already.)

  A gradient of NaN spoils the moments too, and no later update would bring either back. So
  parameters and optimizer state are taken over only where they, the gradient, the metrics and what
  the caller adds are all finite; else the state stays but for its step, and so its data, which go
  on.

  Args:
    state: before the update.
    grads: this device's part of the sum over devices (with a leading axis where it has several),
    metrics: likewise.
    setup: holds the optimizer.
    learning_rate: float32[].
    of_batch: numbers of the whole batch that have to be finite too.

  Returns:
    The new state, and metrics: those given, summed over devices, `grad_norm` and `finite` (1 where
    the update was taken over).
  """
  devices = setup.devices
  grads, metrics = devices.sum_of_parts((grads, metrics))
  norm = optax.tree.norm(grads)
  n_blocks = setup.model.config.n_layers
  can_share = devices.n > 1 and n_blocks % devices.n == 0
  shared_out = can_share and not devices.parts and devices.model == 1
  share = n_blocks // devices.n

  def mine(blocks):
    first = devices.index * share
    return [jax.lax.dynamic_slice_in_dim(x, first, share) for x in blocks]

  params, opt_state = state.params, state.opt_state
  if shared_out:
    grads, params, opt_state = (_on_blocks(mine, tree) for tree in (grads, params, opt_state))
  tx, told = optax.with_extra_args_support(setup.tx), dict(norm=norm, learning_rate=learning_rate)
  updates, opt_state = tx.update(grads, opt_state, params, **told)
  new = optax.apply_updates(params, updates), opt_state
  new = _on_blocks(devices.gather, new) if shared_out else new
  finite = all_finite((new, norm, metrics, of_batch))
  old = state.params, state.opt_state
  params, opt_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
  metrics = metrics | {'grad_norm': norm, 'finite': finite.astype(jnp.float32)}
  return TrainState(state.step + 1, params, opt_state), metrics


def _on_blocks(f: Callable[[list[jax.Array]], list[jax.Array]], tree: Any) -> Any:
  """`f` on the leaves, of parameters or optimizer state, that have a leading axis N of blocks."""
  with_paths, structure = jax.tree.flatten_with_path(tree)
  leaves = [leaf for _, leaf in with_paths]
  at = [i for i, (path, _) in enumerate(with_paths) if is_block_leaf(path)]
  for i, leaf in zip(at, f([leaves[i] for i in at])):
    leaves[i] = leaf
  return jax.tree.unflatten(structure, leaves)
