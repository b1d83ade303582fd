"""Checkpoints of one stage, by orbax: (state, step), with a checksum that a damaged file does not
pass.

What the state depends on lies beside them (see `record.py`); data and samples are functions of
(seed, step), so nothing else is needed to continue.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from compgen_jax.errors import CheckpointError


@jax.jit
def checksum(tree: Any) -> jax.Array:
  """uint32[]: a position-weighted sum of all bits, which any single changed bit changes."""

  def of_leaf(i, leaf):
    bits = (
      jax.lax.bitcast_convert_type(leaf, jnp.uint32)
      if leaf.dtype.itemsize == 4
      else leaf.astype(jnp.uint32)
    )
    weights = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1  # odd, so no bit is multiplied away
    return jnp.sum(bits.reshape(-1) * weights, dtype=jnp.uint32) * jnp.uint32(2 * i + 1)

  return sum(of_leaf(i, leaf) for i, leaf in enumerate(jax.tree.leaves(tree)))


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
  floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


class StageCheckpoints:
  """The checkpoints in one folder; keeps the two newest."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    policies = ocp.training.preservation_policies
    self._checkpointer = ocp.training.Checkpointer(
      folder.absolute(), preservation_policy=policies.LatestN(2), cleanup_tmp_directories=True
    )

  def latest(self) -> int | None:
    """The step of the newest checkpoint, or None."""
    newest = self._checkpointer.latest
    return None if newest is None else newest.step

  def save(self, step: int, state: Any) -> None:
    """Writes a checkpoint and waits for it.

    Raises:
      CheckpointError: the state holds NaN or infinity, or it could not be written.
    """
    if not bool(_all_finite(state)):
      raise CheckpointError(
        f'{self._folder}: NaN or infinity in the state at step {step}; nothing was saved'
      )
    try:
      written = self._checkpointer.save(
        step, state, force=True, custom_metadata={'checksum': int(checksum(state))}
      )
    except Exception as e:  # a full or read-only disk reaches us under many types
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} could not be written: {_one_line(e)}'
      ) from e
    if not written:
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} was not written (a later one exists)'
      )

  def restore(self, like: Any, step: int | None = None) -> Any:
    """The state of `step` (None: the newest), with the shapes, dtypes and shardings of `like`.

    Raises:
      CheckpointError: it can't be read, does not fit `like`, or its checksum is wrong.
    """
    step = self.latest() if step is None else step
    try:
      state = self._checkpointer.load(step, like)
      wanted = self._checkpointer.metadata(step).custom_metadata['checksum']
    except (
      Exception
    ) as e:  # orbax and tensorstore raise many types for one cause: the files are not readable
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} is unreadable: {_one_line(e)}'
      ) from e
    mismatch = jax.tree.map(
      lambda a, b: np.shape(a) != np.shape(b) or a.dtype != b.dtype, state, like
    )
    if any(jax.tree.leaves(mismatch)) or int(checksum(state)) != wanted:
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} is damaged (its checksum does not match its data)'
      )
    return state

  def close(self) -> None:
    self._checkpointer.close()

  def __enter__(self) -> 'StageCheckpoints':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _one_line(e: Exception) -> str:
  return ' '.join(str(e).split())[:300] or type(e).__name__
