"""Checkpoints of one stage, by orbax: (state, step), with a digest that a damaged file does not
pass.

Data and samples are functions of (seed, step), so nothing else is needed to continue. A checkpoint
also holds its origin: what the state depends on (see `record.py`).
"""

import contextlib
import datetime
import gc
import hashlib
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from compgen_jax.errors import CheckpointError
from compgen_jax.experiment import files, lifeline, processes
from compgen_jax.experiment.progress import say
from compgen_jax.learning.state import all_finite

KEPT = 2  # checkpoints of a stage
LANES = (0x9E3779B1, 0x85EBCA77)  # odd: a factor that loses no bit of an element's place
METADATA = '_CHECKPOINT_METADATA'  # orbax' file in a checkpoint, which holds ours too
SHOWN = 90  # characters at each end of a cause that an error message shows


def digest(tree: Any) -> str:
  """A hash of 64 bits of a pytree of arrays, as 16 hexadecimal digits.

  It depends on every bit of every array, on the place of each element, and on the path, shape and
  dtype of each array. An element is mixed with its place by the finaliser of MurmurHash3 (Appleby
  2011), which is one to one, and the results are added modulo 2^32, twice with different factors.
  So one changed element is always seen, and other damage is missed once in 2^64 times. It finds
  damage; it is no protection against forgery.
  """
  return ''.join(f'{word:08x}' for word in np.asarray(processes.whole(_words(tree))).tolist())


@jax.jit
def _words(tree: Any) -> jax.Array:
  """uint32[2]: the digest."""
  words = [jnp.uint32(0)] * len(LANES)
  for path, leaf in jax.tree.leaves_with_path(tree):
    label = f'{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}'
    keys = np.frombuffer(hashlib.sha256(label.encode()).digest(), np.uint32)
    bits = _bits(leaf).reshape(-1)
    place = jax.lax.iota(jnp.uint32, bits.size)
    for lane, (factor, key) in enumerate(zip(LANES, keys)):
      mixed = _mix(bits ^ (place * np.uint32(factor) + key))
      # The key is added once more by itself: an empty array counts too.
      words[lane] += _mix(jnp.uint32(key)) + jnp.sum(mixed, dtype=jnp.uint32)
  return jnp.stack(words)


def _bits(leaf: jax.Array) -> jax.Array:
  """The bits of each element as uint32; of 8 bytes, as two of them."""
  if leaf.dtype == jnp.bool_:
    return leaf.astype(jnp.uint32)
  unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
  return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
  """The finaliser of MurmurHash3: one to one on uint32, every bit depends on every bit."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


_all_finite = jax.jit(all_finite)


class StageCheckpoints:
  """The checkpoints in one folder; keeps the newest `KEPT`.

  `origin`: what the states depend on, as plain data.
  """

  def __init__(self, folder: pathlib.Path, origin: dict[str, Any]):
    self._folder, self._origin = folder.absolute(), origin
    self._writer: ocp.training.Checkpointer | None = None  # made when something is to be written

  def steps(self) -> list[int]:
    """The updates of all checkpoints, ascending."""
    if not self._folder.is_dir():
      return []
    return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

  def latest(self) -> int | None:
    """The update of the newest checkpoint, or None."""
    return max(self.steps(), default=None)

  # Writing ----------------------------------------------------------------------------------------

  def save(self, step: int, state: Any, pending: Sequence[dict[str, float] | None] = ()) -> None:
    """Writes a checkpoint and waits for it; all processes of a run do so together.

    `pending` is kept with it: see `history.py`.

    Raises:
      CheckpointError: the state holds NaN or infinity, or it could not be written.
    """
    if not bool(processes.whole(_all_finite(state))):
      raise CheckpointError(
        f'{self._folder}: NaN or infinity in the state at step {step}; nothing was saved'
      )
    held = {'origin': self._origin, 'digest': _seal(step, state, self._origin)}
    held['pending'] = list(pending)
    try:
      with _quiet():
        written = self._open().save(step, state, force=True, custom_metadata=held)
      if written:  # orbax leaves it to the system when its files reach the disk
        files.put_on_disk(self._folder / str(step))
    except Exception as e:  # a full or read-only disk reaches us under many types
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} could not be written: {_cause(e)}'
      ) from e
    if not written:
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} was not written (a later one exists)'
      )
    lifeline.meet()

  def _open(self) -> ocp.training.Checkpointer:
    if self._writer is None:
      for step in self.steps():  # orbax reads the metadata of all of them
        try:
          self.origin(step)
        except CheckpointError as e:
          self._set_aside(step, e)
      policies = ocp.training.preservation_policies
      self._writer = ocp.training.Checkpointer(
        self._folder, preservation_policy=policies.LatestN(KEPT), cleanup_tmp_directories=True
      )
    return self._writer

  def _set_aside(self, step: int, cause: CheckpointError) -> None:
    """Moves a damaged checkpoint out of the way, with a warning."""
    if not lifeline.is_lead():
      return
    aside = self._folder.with_name('damaged-checkpoints') / str(step)
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    (self._folder / str(step)).rename(aside)
    say(f'warning: {cause}; it was moved to {aside.parent}')

  # Reading ----------------------------------------------------------------------------------------

  def restore(self, like: Any, step: int) -> Any:
    """The state of a checkpoint, with the shapes, dtypes and shardings of `like`.

    (Of several processes each reads it by itself, into numpy arrays.)

    Raises:
      CheckpointError: it can't be read, does not fit `like`, or is not what was saved.
    """
    like = processes.blank(like)
    with processes.alone():
      return processes.on_host(self._restore(like, step))

  def _restore(self, like: Any, step: int) -> Any:
    held = self._metadata(step)
    try:
      with _quiet():
        state = ocp.load(self._folder / str(step), like, checkpointable_name='state')
    # orbax and tensorstore raise many types for one cause: the files are not readable
    except Exception as e:
      raise self._unreadable(step, e) from e
    mismatch = jax.tree.map(
      lambda a, b: np.shape(a) != np.shape(b) or a.dtype != b.dtype, state, like
    )
    fits = not any(jax.tree.leaves(mismatch))
    if not fits or _seal(step, state, held['origin']) != held['digest']:
      raise CheckpointError(
        f'{self._folder}: checkpoint {step} is damaged (its digest does not match its data)'
      )
    return state

  def pending(self, step: int) -> list[dict[str, float] | None]:
    """What `save` was given beside the state of `step`, which has been restored."""
    return self._metadata(step).get('pending', [])

  def restore_newest(self, like: Any) -> tuple[int, Any] | None:
    """`(step, state)` of the newest checkpoint; None where there is none.

    A damaged one is moved aside, with a warning, if an older one is good. (Process 0 says which.)

    Raises:
      CheckpointError: all are damaged.
    """
    found = self._restore_newest(like) if lifeline.is_lead() else None
    step = lifeline.of_lead(lambda: found[0] if found else None)
    if lifeline.is_lead() or step is None:
      return found
    return step, self.restore(like, step)

  def _restore_newest(self, like: Any) -> tuple[int, Any] | None:
    damaged: list[tuple[int, CheckpointError]] = []
    for step in reversed(self.steps()):
      try:
        state = self.restore(like, step)
      except CheckpointError as e:
        damaged.append((step, e))
        continue
      for bad, cause in damaged:
        self._set_aside(bad, cause)
      return step, state
    if damaged:
      legal = f'no older one is good; to train the stage from its start, remove {self._folder}'
      raise CheckpointError(f'{damaged[0][1]}; {legal}')
    return None

  def origin(self, step: int) -> dict[str, Any]:
    """What the state of a checkpoint depends on.

    Raises:
      CheckpointError: it can't be read.
    """
    return self._metadata(step)['origin']

  def _metadata(self, step: int) -> dict[str, Any]:
    """`origin`, `digest` and `pending` of a checkpoint.

    (Read from the file: orbax logs what is wrong with it, and returns nothing.)
    """
    try:
      found = json.loads((self._folder / str(step) / METADATA).read_bytes())
      held = found['custom_metadata']
      sound = isinstance(held['origin'], dict) and isinstance(held['digest'], str)
      datetime.datetime.fromtimestamp(found['commit_timestamp_nsecs'] / 1e9)  # as orbax does
    except OSError as e:
      raise self._unreadable(step, e) from e
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
      raise self._unreadable(step, ValueError(f'{METADATA} holds something else')) from e
    if not sound:
      raise self._unreadable(step, ValueError(f'{METADATA} is not of this program'))
    return held

  def _unreadable(self, step: int, e: Exception) -> CheckpointError:
    return CheckpointError(f'{self._folder}: checkpoint {step} is unreadable: {_cause(e)}')

  def close(self) -> None:
    if self._writer is not None:
      with contextlib.suppress(Exception), _quiet():  # what `save` has raised comes once more
        self._writer.close()
      self._writer = None

  def __enter__(self) -> 'StageCheckpoints':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _seal(step: int, state: Any, origin: dict[str, Any]) -> str:
  """The digest of a checkpoint: of its state, its update and its origin."""
  text = json.dumps([step, origin], sort_keys=True)
  return f'{digest(state)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}'


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps tracebacks out of the log that belong to errors which are raised as well."""
  before = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  try:
    yield
  except Exception:
    gc.collect()  # asyncio logs the errors of tasks when they are collected
    raise
  finally:
    logging.disable(before)


def _cause(e: BaseException) -> str:
  """What went wrong at first, in one short line."""
  while e.__cause__:
    e = e.__cause__
  if isinstance(e, OSError) and e.strerror:
    return f'{e.strerror}: {e.filename}' if e.filename else e.strerror
  text = ' '.join(str(e).split()) or type(e).__name__
  text = text.split(' [tensorstore_spec')[0]
  return text if len(text) <= 2 * SHOWN else f'{text[:SHOWN]} … {text[-SHOWN:]}'
