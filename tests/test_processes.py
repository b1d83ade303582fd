"""Where several processes find each other, and what they say where they do not."""

import os
import socket
import threading
import time

import pytest

from compgen_jax.errors import ConfigError, PeerError
from compgen_jax.experiment import lifeline, places, processes
from compgen_jax.experiment.places import Place

ADDRESS = 'node7:1234'
EXPLICIT = {'JAX_COORDINATOR_ADDRESS': ADDRESS, 'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '2'}
SLURM = {
  'SLURM_JOB_ID': '5', 'SLURM_STEP_NODELIST': 'node[07-08]', 'SLURM_NTASKS': '4',
  'SLURM_STEP_NUM_TASKS': '4', 'SLURM_PROCID': '3', 'SLURM_LOCALID': '1',
}  # fmt: skip
MPI = {'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_RANK': '1'}
URI = {'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'}
KNOWN = ('SLURM_', 'OMPI_', 'PMI_', 'MPI_', 'JAX_COORD', 'JAX_NUM_PROC', 'JAX_PROCESS', 'KUBER')


@pytest.fixture
def told(monkeypatch):
  """`told(**variables)`: what launchers say, in place of what they say to these tests."""
  for name in [name for name in os.environ if name.startswith(KNOWN)]:
    monkeypatch.delenv(name)

  def tell(variables):
    for name, value in variables.items():
      monkeypatch.setenv(name, value)

  return tell


@pytest.mark.parametrize(
  'variables, want',
  [
    ({}, None),
    (EXPLICIT, Place(ADDRESS, 4, 2, None)),
    (EXPLICIT | {'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'}, None),
    (SLURM, Place('node07:61445', 4, 3, 1)),
    (SLURM | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'}, None),  # a step of one task
    ({'SLURM_NTASKS': '1'}, None),
    (SLURM | EXPLICIT, Place(ADDRESS, 4, 2, 1)),
    (MPI | URI, Place('10.96.0.1:62624', 4, 1, 1)),
    (MPI | URI | SLURM | {'SLURM_STEP_NUM_TASKS': '2'}, Place('10.96.0.1:62624', 4, 1, 1)),
    (MPI | {'JAX_COORDINATOR_ADDRESS': ADDRESS}, Place(ADDRESS, 4, 1, 1)),
  ],
)
def test_place(told, variables, want):
  """Processes that do not know of each other, or one that waits for others that never come."""
  told(variables)
  got = places.place('auto')
  assert got == want
  assert places.place('off') is None


def test_half_of_slurm(told, capsys):
  """A login shell within an allocation, in which a run crashes or waits for ever."""
  told({'SLURM_JOB_ID': '5', 'SLURM_NTASKS': '4'})
  assert places.place('auto') is None
  said = capsys.readouterr().err
  assert said == 'SLURM_NTASKS=4, but this was not started by srun: it runs as one process\n'


@pytest.mark.parametrize(
  'variables, mode, message',
  [
    ({}, 'on', 'run.distributed=.on.: it is not told how the processes find each other'),
    (MPI, 'auto', 'no JAX_COORDINATOR_ADDRESS.; legal is JAX_COORDINATOR_ADDRESS=HOST:PORT'),
    (EXPLICIT | {'JAX_PROCESS_ID': '4'}, 'auto', 'JAX_PROCESS_ID=4: legal is 0 to .* = 3'),
    (EXPLICIT | {'JAX_PROCESS_ID': 'x'}, 'auto', "JAX_PROCESS_ID='x': legal is a whole number"),
    (EXPLICIT | {'JAX_COORDINATOR_ADDRESS': 'a'}, 'auto', "ADDRESS='a': legal is HOST:PORT"),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, 'auto', 'no JAX_NUM_PROCESSES, JAX_PROCESS_ID'),
  ],
)
def test_mistakes(told, variables, mode, message):
  """A traceback, or a run of one process that should have been one of several."""
  told(variables)
  with pytest.raises(ConfigError, match=message) as e:
    places.place(mode)
  assert '\n' not in str(e.value)


# Joining ------------------------------------------------------------------------------------------


def _here(index: int = 0, count: int = 3, port: int | None = None) -> Place:
  if port is None:
    with socket.create_server(('', 0)) as server:
      port = server.getsockname()[1]
  return Place(f'localhost:{port}', count, index, None)


def _gathered(here: Place, about: str = 'x', within_s: float = 5.0):
  gather = processes._gather if here.index == 0 else processes._reach
  return gather(here, time.monotonic() + within_s, within_s, about)


def _in_threads(places, abouts=('x',) * 9) -> list:
  """What each of several processes, here threads, gets or raises."""
  found: list = [None] * len(places)

  def run(i):
    try:
      found[i] = _gathered(places[i], abouts[i])
    except Exception as e:
      found[i] = e

  threads = [threading.Thread(target=run, args=(i,)) for i in range(len(places))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return found


def test_a_missing_process():
  """A crash that does not say who is missing."""
  with pytest.raises(PeerError, match='of 3 processes these did not come within .*0.2 s: 1, 2$'):
    _gathered(_here(), within_s=0.2)
  with pytest.raises(PeerError, match='process 0 was not reached within run.join_s=0.3 s'):
    _gathered(_here(1), within_s=0.3)


def test_a_busy_port():
  """A core dump."""
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=f"='localhost:{port}': process 0 can not listen"):
      _gathered(_here(port=port))


class _Ended(Exception):
  """In place of the end of a process."""


@pytest.mark.parametrize(
  'second, message',
  [
    ({'count': 4}, 'JAX_NUM_PROCESSES: process 1 says there are 4 processes, process 0 2'),
    ({'index': 0}, 'JAX_PROCESS_ID=0: two processes say so'),
    ({'about': 'y'}, 'config: process 1 and process 0 run another config or JAX, or in another'),
  ],
)
def test_processes_that_do_not_agree(second, message, monkeypatch):
  """Two runs that mix, or that wait for each other for ever; a second line from the second one."""

  def exit_(status):
    raise _Ended(status)

  monkeypatch.setattr(processes.os, '_exit', exit_)
  lead = _here(count=2)
  port = int(lead.address.rpartition(':')[2])
  other = _here(1, second.get('count', 2), port)._replace(index=second.get('index', 1))
  found: list = []

  def reach():
    try:
      processes._reach(other, time.monotonic() + 5.0, 5.0, second.get('about', 'x'))
    except _Ended as e:
      found.append(e.args[0])

  thread = threading.Thread(target=reach)
  thread.start()
  with pytest.raises(ConfigError, match=message) as e:
    _gathered(lead)
  thread.join()
  assert found == [2] and '\n' not in str(e.value)


def test_all_learn_the_same():
  """Values that come to the wrong process or out of order; a stranger at the port."""
  port = int(_here().address.rpartition(':')[2])
  gathered = _in_threads([_here(i, 3, port) for i in range(3)])
  lines = [lifeline.Lifeline(i, 3, peers) for i, peers in enumerate(gathered)]
  for turn in range(3):
    got: list = [None] * 3

    def ask(i, got=got, turn=turn):
      got[i] = lines[i].all_of([turn, i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert got == [[[turn, 0], [turn, 1], [turn, 2]]] * 3
  for line in lines:
    line.leave()  # else this process ends with the first of them


def test_tunnel():
  """A connection to process 0 that is closed as soon as process 0 is."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    near = lifeline.tunnel(f'127.0.0.1:{server.getsockname()[1]}')
    host, _, port = near.rpartition(':')
    with socket.create_connection((host, int(port)), timeout=5.0) as connection:
      far = server.accept()[0]
      connection.sendall(b'ping')
      assert far.recv(9) == b'ping'
      far.sendall(b'pong')
      assert connection.recv(9) == b'pong'
      far.close()
      connection.settimeout(0.3)
      with pytest.raises(TimeoutError):
        connection.recv(9)
