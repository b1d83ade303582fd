"""Where several processes of one run find each other: what launchers and users say of it."""

import os
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from compgen_jax.errors import ConfigError
from compgen_jax.experiment.progress import say

ADDRESS, COUNT, INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
# What launchers tell each process: how many there are, which one it is, and which on its machine.
# (Slurm last: within its jobs MPI starts processes by a step of its own, a task a node.)
LAUNCHERS = (
  ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
  ('PMI_SIZE', 'PMI_RANK', 'MPI_LOCALRANKID'),
  ('SLURM_STEP_NUM_TASKS', 'SLURM_PROCID', 'SLURM_LOCALID'),
)
OR = f"{ADDRESS}=HOST:PORT, {COUNT} and {INDEX} in the environment, or run.distributed='off'"


class Place(NamedTuple):
  """One of several processes: where process 0 listens, how many there are, which one this is.

  `local`: its number on its machine; None where that is not told.
  """

  address: str
  count: int
  index: int
  local: int | None


def variables(here: Place) -> dict[str, str]:
  """What one sets in the environment of a process that is to stand there."""
  return {ADDRESS: here.address, COUNT: str(here.count), INDEX: str(here.index)}


def place(mode: str, environment: Mapping[str, str] = os.environ) -> Place | None:
  """Where this process stands; None where it is a run by itself.

  Args:
    mode: `run.distributed`: auto | on | off.
    environment: what launchers and users say: the three variables JAX_*, else what JAX detects
      (Slurm, Open MPI, Cloud TPU, GKE).

  Raises:
    ConfigError: several processes were started, and it is not told how they find each other.
  """
  if mode == 'off':
    return None
  found = _told(environment)
  if found.count is None and 'SLURM_NTASKS' in environment and mode == 'auto':
    if environment['SLURM_NTASKS'] != '1':
      what = f'SLURM_NTASKS={environment["SLURM_NTASKS"]}, but this was not started by srun'
      say(f'{what}: it runs as one process')
    return None
  if found.count != 1 and None in (found.address, found.count, found.index):
    found = _detected(found, mode)
  if found is None or found.count == 1:
    return None
  missing = [name for name, x in zip((ADDRESS, COUNT, INDEX), found) if x is None]
  if missing:
    what = 'it is not told how the processes find each other'
    raise ConfigError(f'run.distributed={mode!r}: {what} (no {", ".join(missing)}); legal is {OR}')
  return _checked(found)


def _told(environment: Mapping[str, str]) -> Place:
  """What the user's variables say, and where they do not, a launcher's; None where neither does."""
  count, index, local = environment.get(COUNT), environment.get(INDEX), None
  for of_all, of_one, on_machine in LAUNCHERS:
    if of_all in environment and of_one in environment:
      count, index = count or environment[of_all], index or environment[of_one]
      local = environment.get(on_machine)
      break
  numbers = [_number(count, COUNT), _number(index, INDEX), _number(local, 'the local number')]
  return Place(environment.get(ADDRESS), *numbers)


def _number(text: str | None, name: str) -> int | None:
  if text is not None and not text.isdecimal():
    raise ConfigError(f'{name}={text!r}: legal is a whole number')
  return None if text is None else int(text)


def _detected(told: Place, mode: str) -> Place | None:
  """What JAX detects, in addition to what is told; None where that is nothing."""
  try:
    from jax._src import clusters  # JAX's public interface detects only while it connects

    with warnings.catch_warnings(action='ignore'):
      found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        told.address, told.count, told.index, None, None, 30
      )
  except Exception as e:  # what a cluster's own libraries raise
    cause = ' '.join(f'{type(e).__name__}: {e}'.split())
    what = f'JAX could not detect the other processes ({cause:.200})'
    raise ConfigError(f'run.distributed={mode!r}: {what}; legal is {OR}') from e
  address, count, index, devices = found
  is_alone = (address, count) == (None, None) or count == 1
  if is_alone and mode == 'auto':
    return None
  return Place(
    address, count, index, told.local if told.local is not None else (devices or [None])[0]
  )


def _checked(found: Place) -> Place:
  """Raises ConfigError unless the numbers fit each other and the address is one."""
  host, _, port = found.address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise ConfigError(f'{ADDRESS}={found.address!r}: legal is HOST:PORT')
  if found.count < 1:
    raise ConfigError(f'{COUNT}={found.count}: legal is 1 or more')
  if not 0 <= found.index < found.count:
    raise ConfigError(f'{INDEX}={found.index}: legal is 0 to {COUNT} - 1 = {found.count - 1}')
  return found
