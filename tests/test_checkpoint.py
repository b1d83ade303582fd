"""Checkpoints: whole or not at all, never NaN, and a damaged one is never loaded."""

import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.errors import CheckpointError
from compgen_jax.experiment.checkpoint import StageCheckpoints, digest
from compgen_jax.learning.state import TrainState
from tests.reliability import corrupt
from tests.reliability.digest import missed

ORIGIN = {'seed': 0, 'lr': 1e-3}


def _state(scale=1.0):
  params = {'w': scale * jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones((4,))}
  return TrainState(jnp.int32(7), params, optax.adamw(1e-3).init(params))


def _store(folder):
  return StageCheckpoints(folder / 'c', ORIGIN)


def test_a_full_disk_is_one_line(tmp_path):
  """Good checkpoints that a failed save takes along, a traceback, or saves that do not go on when
  there is space again."""
  checkpoints = _store(tmp_path)
  checkpoints.save(3, _state())
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # bytes that a file may have
  try:
    with pytest.raises(CheckpointError, match='checkpoint 4 could not be written') as e:
      checkpoints.save(4, _state(2.0))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(e.value)
  checkpoints.close()
  with _store(tmp_path) as reopened:
    assert reopened.latest() == 3
    jax.tree.map(np.testing.assert_array_equal, reopened.restore(_state(0.0), 3), _state())
    reopened.save(4, _state(2.0), [{'loss': 1.5}, None])
    assert reopened.latest() == 4 and reopened.pending(4) == [{'loss': 1.5}, None]


def _damage(folder, step):
  """Overwrites part of the arrays of a checkpoint."""
  for file in (folder / 'c' / str(step)).rglob('*'):
    if file.is_file() and '/d/' in str(file):
      raw = bytearray(file.read_bytes())
      for i in range(len(raw) // 3, len(raw), 7):
        raw[i] ^= 0x10
      file.write_bytes(raw)


def test_round_trip_and_newest(tmp_path):
  """A restore that loses structure, dtype or bits, or that takes an old step."""
  checkpoints = _store(tmp_path)
  assert checkpoints.latest() is None and checkpoints.restore_newest(_state(0.0)) is None
  for step, scale in ((3, 1.0), (7, 2.0), (11, 3.0)):
    checkpoints.save(step, _state(scale))
  reopened = _store(tmp_path)
  assert reopened.latest() == 11 and reopened.steps() == [7, 11]
  step, restored = reopened.restore_newest(_state(0.0))
  assert step == 11 and jax.tree.structure(restored) == jax.tree.structure(_state())
  jax.tree.map(np.testing.assert_array_equal, restored, _state(3.0))
  jax.tree.map(np.testing.assert_array_equal, reopened.restore(_state(0.0), 7), _state(2.0))
  assert reopened.origin(7) == ORIGIN


def test_a_checkpoint_is_on_disk_when_it_is_saved(tmp_path, monkeypatch):
  """A power cut after which the newest checkpoint, or its name, is not there."""
  done, fsync = set(), os.fsync

  def counted(descriptor):
    done.add(os.readlink(f'/proc/self/fd/{descriptor}'))
    fsync(descriptor)

  monkeypatch.setattr(os, 'fsync', counted)
  with _store(tmp_path) as checkpoints:
    checkpoints.save(3, _state())
  written = [tmp_path / 'c', tmp_path / 'c/3', *(tmp_path / 'c/3').rglob('*')]
  assert len(written) > 8 and set(map(str, written)) <= done


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf])
def test_never_saves_what_is_not_finite(tmp_path, bad):
  """A diverged state that overwrites the last good one."""
  checkpoints = _store(tmp_path)
  checkpoints.save(3, _state())
  with pytest.raises(CheckpointError, match='NaN or infinity.*nothing was saved'):
    checkpoints.save(4, _state(bad))
  assert _store(tmp_path).latest() == 3


# The digest ---------------------------------------------------------------------------------------


def test_digest_sees_every_bit():
  """A digest blind to some positions or bits."""
  base = np.arange(1, 65, dtype=np.float32)
  want = digest({'a': base})
  for position in (0, 31, 63):
    for bit in range(32):
      flipped = base.copy()
      flipped.view(np.uint32)[position] ^= np.uint32(1 << bit)
      assert digest({'a': flipped}) != want, (position, bit)
  assert digest({'a': base[::-1].copy()}) != want


def test_digest_sees_damage_that_sums_cancel():
  """Two flipped sign bits that cancel, elements or arrays that have changed places."""
  rng = np.random.default_rng(0)
  tree = {name: rng.normal(size=(8, 16)).astype(np.float32) for name in 'abc'}
  found = missed(tree | {'zero': np.zeros((64,), np.float32)}, 100)
  assert len(found) == 5 and not any(found.values()), found


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'uint8', 'bool'])
def test_digest_is_bound_to_path_shape_and_dtype(dtype):
  """The same bits as another array."""
  x = jnp.arange(12).astype(dtype)
  others = [{'b': x}, {'a': x.reshape(3, 4)}, {'a': {'a': x}}, {'a': x, 'b': x[:0]}]
  if dtype == 'float32':
    others.append({'a': jax.lax.bitcast_convert_type(x, jnp.int32)})
  digests = {digest(tree) for tree in ({'a': x}, *others)}
  assert len(digests) == 1 + len(others)


@pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')
def test_digest_of_sharded_arrays():
  """A digest that depends on how an array is spread over devices."""
  mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  x = jnp.arange(48.0).reshape(4, 12)
  for spec in (('x',), (None, 'x')):
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    assert digest({'a': jax.device_put(x, sharding)}) == digest({'a': x})


# Damage -------------------------------------------------------------------------------------------


def test_damaged_data_is_refused(tmp_path):
  """Flipped bytes that load as wrong numbers; a message of several lines."""
  _store(tmp_path).save(3, _state())
  _damage(tmp_path, 3)
  with pytest.raises(CheckpointError, match='checkpoint 3 is (unreadable|damaged)') as e:
    _store(tmp_path).restore_newest(_state())
  assert '\n' not in str(e.value) and 'to train the stage from its start, remove' in str(e.value)
  assert _store(tmp_path).latest() == 3  # nothing is moved where there is nothing to go back to


def test_an_older_checkpoint_takes_over(tmp_path, capsys):
  """A run that is lost though the checkpoint before is good; a silent step back; a damaged one
  that blocks the next save."""
  checkpoints = _store(tmp_path)
  checkpoints.save(3, _state())
  checkpoints.save(7, _state(2.0))
  _damage(tmp_path, 7)
  step, restored = _store(tmp_path).restore_newest(_state(0.0))
  assert step == 3
  jax.tree.map(np.testing.assert_array_equal, restored, _state())
  (warning,) = capsys.readouterr().err.splitlines()
  assert 'checkpoint 7 is' in warning and 'moved to' in warning
  assert (tmp_path / 'damaged-checkpoints/7').is_dir()
  checkpoints = _store(tmp_path)
  checkpoints.save(7, _state(2.0))
  assert checkpoints.restore_newest(_state(0.0))[0] == 7


def test_other_shapes_are_refused(tmp_path):
  """A checkpoint of another model, cut or cast to fit."""
  _store(tmp_path).save(3, _state())
  wide = _state()._replace(params={'w': jnp.zeros((5, 3)), 'b': jnp.ones((4,))})
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _state())
  for other in (wide, half):
    with pytest.raises(CheckpointError, match='checkpoint 3 is'):
      _store(tmp_path).restore(other, 3)


def test_a_changed_origin_is_refused(tmp_path):
  """A state that passes for that of another training."""
  _store(tmp_path).save(3, _state())
  file = tmp_path / 'c/3/_CHECKPOINT_METADATA'
  file.write_text(file.read_text().replace('0.001', '0.002'))
  assert _store(tmp_path).origin(3)['lr'] == 2e-3
  with pytest.raises(CheckpointError, match='checkpoint 3 is damaged'):
    _store(tmp_path).restore(_state(), 3)


def test_a_renamed_checkpoint_is_refused(tmp_path):
  """A state of one update that passes for that of another."""
  _store(tmp_path).save(3, _state())
  (tmp_path / 'c/3').rename(tmp_path / 'c/5')
  with pytest.raises(CheckpointError, match='checkpoint 5 is damaged'):
    _store(tmp_path).restore(_state(), 5)


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  """The folder of a run with checkpoints at updates 4 and 8."""
  workdir = tmp_path_factory.mktemp('stored')
  checkpoints = StageCheckpoints(workdir / corrupt.SFT / 'checkpoints', {'lr': 0.004})
  for step in (4, 8):
    checkpoints.save(step, _state(step + 0.1))
  return workdir


CASES = [case for case in corrupt.OF_CHECKPOINTS if not case.name.startswith('a file')]


@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_no_damage_is_loaded(stored, tmp_path, capsys, case):
  """Damage that loads wrong, ends in a traceback, costs the older checkpoint, blocks the next
  save, or is passed over in silence."""
  workdir = tmp_path / 'w'
  shutil.copytree(stored, workdir)
  case.damage(workdir)
  checkpoints = StageCheckpoints(workdir / corrupt.SFT / 'checkpoints', {'lr': 0.004})
  if case.outcome == corrupt.REFUSED:
    with pytest.raises(CheckpointError, match=case.said):
      checkpoints.restore_newest(_state(0.0))
    return
  step, restored = checkpoints.restore_newest(_state(0.0))
  assert step == (8 if case.name.startswith('older') else 4)
  jax.tree.map(np.testing.assert_array_equal, restored, _state(step + 0.1))
  checkpoints.save(12, _state(12.0))
  checkpoints.close()
  warnings = capsys.readouterr().err.splitlines()
  assert len(warnings) == bool(case.said) and all(case.said in x for x in warnings)
