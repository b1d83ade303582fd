"""What every entrance prepares before jax touches a device, and what it finds there."""

import os
import pathlib
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

import compgen_jax
from compgen_jax.experiment import platform
from tests.experiments import tiny

RUN = """
from compgen_jax.experiment import platform
platform.cores = lambda: 3
import compgen_jax, jax
from configs import default
{before}
config = default.get_config()
config.mesh.data = 99
try:
  compgen_jax.run(config, 'nowhere')
except ValueError as e:
  print(e, jax.config.jax_compilation_cache_dir, sep='\\n')
product = jax.jit(lambda a: a @ a).lower(jax.ShapeDtypeStruct((4, 4), 'float32')).as_text()
print('HIGHEST' in product)
"""


def _fresh_python(tmp_path, before=''):
  """(lines on stdout, stderr) of a run that is refused for want of 99 devices, on three cores."""
  chosen = ('JAX_COMPILATION_CACHE_DIR', 'XLA_FLAGS', 'JAX_NUM_CPU_DEVICES')
  env = {name: value for name, value in os.environ.items() if name not in chosen}
  env |= {'JAX_PLATFORMS': 'cpu', 'HOME': str(tmp_path)}
  command = [sys.executable, '-c', RUN.format(before=before)]
  result = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
  return result.stdout.splitlines(), result.stderr


def test_run_prepares(tmp_path):
  """A run from Python on one of the cores, that compiles all of it in every process, or whose
  float32 products are rounded on an accelerator (where sampler and learner then differ)."""
  (error, cache, is_exact), said = _fresh_python(tmp_path)
  assert 'at most the 3 devices there are' in error and said == ''
  assert cache == str(tmp_path / '.cache/compgen_jax') and is_exact == 'True'


def test_a_jax_in_use_stays_as_it_is(tmp_path):
  """A notebook that has asked for the devices and can't run anything, or is slow unawares."""
  (error, *_), said = _fresh_python(tmp_path, before='jax.devices()')
  assert 'at most the 1 devices there are' in error
  assert said.startswith('jax was used before compgen_jax: 1 of 3 cores work')


def test_what_the_user_chose_stays(tmp_path):
  """Settings of the user's that are overwritten."""
  chosen = """
jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_compilation_cache_dir', 'mine')
jax.config.update('jax_default_matmul_precision', 'tensorfloat32')
"""
  (error, cache, is_exact), said = _fresh_python(tmp_path, chosen)
  assert 'at most the 2 devices there are' in error and (cache, said) == ('mine', '')
  assert is_exact == 'False'


@pytest.mark.skipif(not os.path.exists('/proc/self/maps'), reason='needs Linux')
def test_programs_are_dropped_before_linux_ends_the_process(monkeypatch):
  """A run of many stages that LLVM ends, out of memory maps (some twenty stages on a CPU); programs
  that are dropped while there is room."""

  def maps():
    return pathlib.Path('/proc/self/maps').read_bytes().count(b'\n')

  programs = [jax.jit(lambda x, i=i: jnp.sort(jnp.sin(x @ x + i))) for i in range(20)]
  expected = [program(jnp.eye(9)).sum() for program in programs]
  full = maps()
  limit = pathlib.Path('/proc/sys/vm/max_map_count')
  monkeypatch.setattr(pathlib.Path, 'read_text', lambda path: {limit: str(4 * full)}[path])
  platform.make_room()
  assert maps() >= full
  monkeypatch.setattr(pathlib.Path, 'read_text', lambda path: {limit: str(full)}[path])
  platform.make_room()
  assert maps() < full - len(programs)  # each of them took some
  assert [program(jnp.eye(9)).sum() for program in programs] == expected


def test_a_run_does_not_depend_on_programs_being_dropped(finished, tmp_path, monkeypatch):
  """A run that needs a program that is gone, or one that never makes room."""
  monkeypatch.setattr(platform, 'is_crowded', lambda: True)
  with mock.patch.object(jax, 'clear_caches', wraps=jax.clear_caches) as dropped:
    assert compgen_jax.run(tiny(), tmp_path / 'w') == finished[1]
  assert dropped.call_count == 3  # after each stage
