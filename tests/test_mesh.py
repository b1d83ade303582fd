"""The mesh of a run: replicates spread over groups of devices, batches split within a group."""

import jax
import pytest

import compgen_jax
from compgen_jax import validation
from compgen_jax.config import ConfigError, from_config_dict, from_json, to_dict
from compgen_jax.learning.devices import DATA, Devices
from tests.experiments import history, plain, tiny

needs_two = pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')


def _small(**changes):
  config = tiny(seeds=(3, 5), eval__every=0, eval__pass_k=(), contrasts=(), **changes)
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  return config


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'mesh__replicate': 0}, 'mesh.replicate=0: legal is a divisor of the number of seeds, 2'),
    ({'mesh__replicate': 4}, 'mesh.replicate=4: legal is a divisor of the number of seeds, 2'),
    ({'mesh__replicate': 2, 'mesh__data': 3}, 'mesh.data=3: legal is -1 (the rest) or 1 to 2'),
    ({'mesh__data': 0}, 'mesh.data=0: legal is -1 (the rest) or 1 to 4'),
    ({'mesh__data': 4, 'eval__problems': 6}, 'eval.problems=6: legal is a multiple of 4'),
    ({'mesh__parts': -8}, 'mesh.parts=-8: legal is 0, or a multiple of 2'),
    ({'mesh__data': 2, 'mesh__parts': 6}, 'mesh.parts=6: legal is 0, or a multiple of 4'),
    ({'mesh__model': 0}, 'mesh.model=0: legal is 1 to the 4 devices there are, a divisor of model'),
    ({'mesh__model': 8}, 'mesh.model=8: legal is 1 to the 4 devices there are, a divisor of model'),
    ({'mesh__model': 3}, 'mesh.model=3: legal is 1 to the 4 devices there are, a divisor of model'),
    ({'mesh__model': 2, 'model__d_ff': 31}, 'mesh.model=2: legal is 1 to the 4 devices there are'),
    ({'mesh__model': 2, 'mesh__parts': 4}, 'mesh.model=2: legal is 1 with mesh.parts=4'),
    (
      {'mesh__model': 2, 'mesh__data': 4},
      'mesh.data=4: legal is -1 (the rest) or 1 to 2, with mesh.replicate=1 and mesh.model=2',
    ),
    ({'mesh__model': 4, 'mesh__replicate': 2}, 'mesh.replicate=2: legal is a divisor of'),
    (
      {'mesh__parts': 4, 'sft__batch': 6},
      'sft.batch=6: legal is such that stages.sft gives sft a multiple of 4 rows (mesh.parts)',
    ),
  ],
)
def test_meshes_that_can_not_be(changes, message):
  """A mesh that leaves a replicate out, or that devices are missing for, accepted in silence."""
  with pytest.raises(ConfigError) as e:
    validation.devices(from_config_dict(_small(**changes)), 4)
  assert str(e.value).startswith(message)


def test_the_rest():
  """-1 that does not mean the rest; devices of other processes that are left out of a run."""
  config = from_config_dict(_small(mesh__replicate=2, mesh__data=-1))
  assert validation.devices(config, 4) == 4
  config = from_config_dict(_small(mesh__replicate=2, mesh__data=1))
  assert validation.devices(config, 4) == 2
  with pytest.raises(ConfigError, match=r'mesh.data=1: legal is -1 \(the rest\) or 2 to 2'):
    validation.devices(config, 4, use_all=True)
  # Each of two devices that share a batch is two ones.
  config = from_config_dict(_small(mesh__model=2, mesh__data=-1))
  assert validation.devices(config, 4) == 2
  assert validation.devices(config, 4, use_all=True) == 2
  with pytest.raises(ConfigError, match='mesh.model=2: legal is a divisor of the 5 devices'):
    validation.devices(config, 5, use_all=True)


@pytest.mark.parametrize('held, want', [(0, -1), (2, 2)])
def test_an_older_run_can_be_read(held, want):
  """A config.json from when the mesh had one axis, refused or read as another number."""
  older = plain()
  del older['mesh']
  older['run']['data_parallel'] = held
  config = from_json(older)
  assert (config.mesh.replicate, config.mesh.data) == (1, want)
  assert from_json(to_dict(config)) == config
  older = plain()
  del older['mesh']['model']
  assert from_json(older).mesh.model == 1


def test_devices_for_training():
  """Replicates that are left out, or trained by more devices than have a part of their batch."""
  whole = Devices(8, groups=2, axis=('replicate', DATA))
  assert whole.for_training(4) == Devices(4, n_replicates=2, groups=2)
  assert whole.for_training(3) == Devices(4, n_replicates=3)
  assert Devices(8).for_training(3) == Devices(8, n_replicates=3)
  assert Devices(8, model=2).for_training(3) == Devices(8, n_replicates=3, model=2)


@pytest.mark.slow
@needs_two
def test_replicates_spread_over_devices(sft_run, tmp_path):
  """A replicate that gets another one's data, parameters or place on disk."""
  rows = compgen_jax.run(_small(mesh__replicate=2), tmp_path / 'w')
  assert rows == compgen_jax.read(sft_run)
  for seed in (3, 5):
    got, want = (history(w, 'sft', seed) for w in (tmp_path / 'w', sft_run))
    assert [row['step'] for row in got] == [row['step'] for row in want]
    for one, other in zip(got, want):
      assert one == pytest.approx(other, rel=1e-5)
  assert compgen_jax.run(_small(mesh__replicate=2), tmp_path / 'w') == rows
