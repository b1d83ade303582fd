"""Checkpoints: whole or not at all, never NaN, and a damaged one is never loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.errors import CheckpointError
from compgen_jax.experiment.checkpoint import StageCheckpoints, checksum
from compgen_jax.learning.state import TrainState


def _state(scale=1.0):
  params = {'w': scale * jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones((4,))}
  return TrainState(jnp.int32(7), params, optax.adamw(1e-3).init(params))


def test_round_trip_and_newest(tmp_path):
  """A restore that loses structure, dtype or bits, or that takes an old step."""
  checkpoints = StageCheckpoints(tmp_path / 'c')
  assert checkpoints.latest() is None
  checkpoints.save(3, _state())
  checkpoints.save(7, _state(2.0))
  reopened = StageCheckpoints(tmp_path / 'c')
  assert reopened.latest() == 7
  restored = reopened.restore(_state(0.0))
  assert jax.tree.structure(restored) == jax.tree.structure(_state())
  jax.tree.map(np.testing.assert_array_equal, restored, _state(2.0))
  jax.tree.map(np.testing.assert_array_equal, reopened.restore(_state(0.0), step=3), _state())


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf])
def test_never_saves_what_is_not_finite(tmp_path, bad):
  """A diverged state that overwrites the last good one."""
  checkpoints = StageCheckpoints(tmp_path / 'c')
  checkpoints.save(3, _state())
  with pytest.raises(CheckpointError, match='NaN or infinity.*nothing was saved'):
    checkpoints.save(4, _state(bad))
  assert StageCheckpoints(tmp_path / 'c').latest() == 3


def test_checksum_sees_every_bit():
  """A checksum blind to some positions or bits."""
  base = np.arange(1, 65, dtype=np.float32)
  want = int(checksum({'a': base}))
  for position in (0, 31, 63):
    for bit in range(32):
      flipped = base.copy()
      flipped.view(np.uint32)[position] ^= np.uint32(1 << bit)
      assert int(checksum({'a': flipped})) != want, (position, bit)
  assert int(checksum({'a': base[::-1].copy()})) != want


def test_damaged_data_is_refused(tmp_path):
  """Flipped bytes that load as wrong numbers."""
  StageCheckpoints(tmp_path / 'c').save(3, _state())
  for file in (tmp_path / 'c').rglob('*'):
    if file.is_file() and '/d/' in str(file):
      raw = bytearray(file.read_bytes())
      for i in range(len(raw) // 3, len(raw), 7):
        raw[i] ^= 0x10
      file.write_bytes(raw)
  with pytest.raises(CheckpointError, match='checkpoint 3 is (unreadable|damaged)') as e:
    StageCheckpoints(tmp_path / 'c').restore(_state())
  assert '\n' not in str(e.value)


def test_other_shapes_are_refused(tmp_path):
  """A checkpoint of another model, cut or cast to fit."""
  StageCheckpoints(tmp_path / 'c').save(3, _state())
  wide = _state()._replace(params={'w': jnp.zeros((5, 3)), 'b': jnp.ones((4,))})
  with pytest.raises(CheckpointError, match='checkpoint 3 is'):
    StageCheckpoints(tmp_path / 'c').restore(wide)
