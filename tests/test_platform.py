"""What depends on the machine that a run finds itself on."""

import pytest

from compgen_jax.errors import ConfigError
from compgen_jax.experiment import platform


def _told(monkeypatch, **environment):
  for name in platform.PROCESS_COUNTS:
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)


@pytest.mark.parametrize('name', platform.PROCESS_COUNTS)
def test_several_processes_are_refused(monkeypatch, name):
  """Each of several processes that trains the whole run, all into one workdir."""
  _told(monkeypatch, **{name: '4'})
  with pytest.raises(ConfigError, match=f'{name}=4: a run is one process') as e:
    platform.require_one_process()
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'environment',
  [{}, {'SLURM_NTASKS': '1'}, {'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '1'}],
)
def test_one_process_is_not(monkeypatch, environment):
  """A step of one task in a job of several, refused."""
  _told(monkeypatch, **environment)
  platform.require_one_process()
