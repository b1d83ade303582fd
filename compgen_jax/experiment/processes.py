"""Several processes that are one run: how they join, and what arrays they share.

All processes run the same code on the same values. Arrays that all of them hold are replicated over
the devices of all; only a batch is split. Process 0 alone touches what is written (see
`lifeline.py`).
"""

import atexit
import contextlib
import os
import socket
import sys
import time
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from compgen_jax.errors import ConfigError, PeerError
from compgen_jax.experiment import lifeline
from compgen_jax.experiment.lifeline import Connection, Lifeline
from compgen_jax.experiment.places import ADDRESS, COUNT, INDEX, Place, place

RETRY_S = 0.2  # between two tries to reach process 0
FOREVER_S = 10**6  # JAX would abort, with a core dump; lost and stuck processes are ours to notice
HELLO_S = 5.0  # whoever connects says within these who it is


def free_port() -> int:
  """A port of this machine that nobody listens at now."""
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def join(mode: str, within_s: float, about: str) -> None:
  """Makes this process one of several, if it is; the first call of a process counts.

  Args:
    mode: `run.distributed`.
    within_s: seconds for all to come.
    about: what all processes have to agree on, as text.

  Raises:
    ConfigError: see `place`; or the processes do not agree.
    PeerError: not all have come.
  """
  if lifeline.current():
    return
  if jax.distributed.is_initialized():
    what = 'jax.distributed is initialized before the run'
    raise ConfigError(f'run.distributed={mode!r}: {what}; legal is to leave that to the run')
  here = place(mode)
  if here is None:
    return
  gather = _gather if here.index == 0 else _reach
  peers = gather(here, time.monotonic() + within_s, within_s, about)
  lifeline.tie(Lifeline(here.index, here.count, peers))
  atexit.register(_leave)
  address = here.address if here.index == 0 else lifeline.tunnel(here.address)
  jax.config.update('jax_enable_preemption_service', False)  # it would swallow SIGTERM
  jax.distributed.initialize(
    address,
    here.count,
    here.index,
    local_device_ids=_devices_of(here),
    cluster_detection_method='deactivate',
    initialization_timeout=max(10, int(within_s)),
    heartbeat_timeout_seconds=FOREVER_S,
    shutdown_timeout_seconds=10,
  )
  lifeline.meet()


def _leave() -> None:
  """At the end of the process."""
  if hasattr(sys, 'last_value'):  # a script fails: the others must not wait for it
    os._exit(1)
  lifeline.current().leave()
  jax.distributed.shutdown()


def _devices_of(here: Place) -> list[int] | None:
  """Which GPUs of its machine are this process's: by its number there, as JAX does where a launcher
  starts a process per GPU; None (all) where it sees one only, or the user has said."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES', os.environ.get('ROCR_VISIBLE_DEVICES'))
  if here.local is None or 'JAX_LOCAL_DEVICE_IDS' in os.environ:
    return None
  return None if visible is not None and ',' not in visible else [here.local]


def _gather(here: Place, until: float, within_s: float, about: str) -> dict[int, Connection]:
  """The connections to all others, on process 0."""
  port = int(here.address.rpartition(':')[2])
  family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
  dual = family == socket.AF_INET6
  try:
    server = socket.create_server(
      ('', port), family=family, dualstack_ipv6=dual, backlog=here.count
    )
  except OSError as e:
    what = f'process 0 can not listen at this port ({os.strerror(e.errno)})'
    raise ConfigError(f'{ADDRESS}={here.address!r}: {what}; legal is a free one') from e
  peers: dict[int, Connection] = {}
  with server:
    while len(peers) < here.count - 1:
      try:
        server.settimeout(max(until - time.monotonic(), 1e-3))
        connection = Connection(server.accept()[0])
      except TimeoutError as e:
        absent = [str(i) for i in range(1, here.count) if i not in peers]
        what = f'of {here.count} processes these did not come within run.join_s={within_s:g} s'
        _dismiss(peers, PeerError(f'{what}: {", ".join(absent)}'), e)
      connection.wait_at_most(HELLO_S)
      hello = connection.receive()
      if hello is None or hello[0] != 'hello' or len(hello) != 4:
        connection.close()  # somebody else
        continue
      _, index, count, theirs = hello
      error = _disagreement(here, index, count, theirs == about, index in peers)
      if error:
        _dismiss(peers | {-1: connection}, error)
      peers[index] = connection
  for peer in peers.values():
    peer.wait_at_most(None)
    peer.send('go')
  return peers


def _disagreement(
  here: Place, index: int, count: int, is_same_run: bool, is_second: bool
) -> ConfigError | None:
  """What is wrong with a process that has come to process 0; None where nothing is."""
  if count != here.count:
    what = f'{COUNT}: process {index} says there are {count} processes, process 0 {here.count}'
    return ConfigError(f'{what}; legal is the same for all')
  if is_second or not 0 < index < count:
    return ConfigError(f'{INDEX}={index}: two processes say so; legal is each number once')
  if not is_same_run:
    what = f'process {index} and process 0 run another config or JAX, or in another workdir'
    return ConfigError(f'config: {what}; legal is the same for all')
  return None


def _dismiss(peers: dict[int, Connection], error: Exception, cause: Exception | None = None):
  """Sends all away that have come, and raises the error."""
  for peer in peers.values():
    peer.send('end', error.exit_status)
  raise error from cause


def _reach(here: Place, until: float, within_s: float, about: str) -> dict[int, Connection]:
  """The connection to process 0, on another one."""
  host, _, port = here.address.rpartition(':')
  cause = 'no answer'
  while (left := until - time.monotonic()) > 0:
    try:
      connection = Connection(socket.create_connection((host.strip('[]'), int(port)), left))
    except OSError as e:
      cause = e.strerror or str(e)
      time.sleep(RETRY_S)
      continue
    connection.wait_at_most(left + HELLO_S)
    connection.send('hello', here.index, here.count, about)
    answer = connection.receive()
    if answer == ['go']:
      connection.wait_at_most(None)
      return {0: connection}
    if answer and answer[0] == 'end':
      os._exit(answer[1])  # process 0 says why
    connection.close()
    time.sleep(RETRY_S)
  what = f'process 0 was not reached within run.join_s={within_s:g} s ({cause})'
  raise PeerError(f'{ADDRESS}={here.address!r}: {what}')


# Arrays -------------------------------------------------------------------------------------------


def on_host(tree: Any) -> Any:
  """Arrays that every process holds, as numpy arrays of this one; for a run by itself, as they
  are."""
  return jax.tree.map(np.asarray, tree) if lifeline.current() else tree


def blank(tree: Any) -> Any:
  """What numpy arrays of the shapes and dtypes of `tree` are; for a run by itself, `tree`."""
  if lifeline.current() is None:
    return tree
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)


def call(f: Any, *args: Any, **kwargs: Any) -> Any:
  """`f(*args, **kwargs)` of a jitted f whose program meets those of other processes.

  All compile it first: whoever waits in it for half a minute gives up.
  """
  if lifeline.current():
    f.lower(*args, **kwargs).compile()
    lifeline.meet()
  return f(*args, **kwargs)


@contextlib.contextmanager
def alone():
  """Programs that this process runs, and checkpoints that it reads, by itself: on a device of its
  own, without waiting for others."""
  here = lifeline.current()
  if here is None:
    yield
    return
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((1,), ('alone',), axis_types=auto, devices=jax.local_devices()[:1])
  context = ocp.Context()
  context.multiprocessing.primary_host = here.index
  context.multiprocessing.active_processes = {here.index}
  context.multiprocessing.barrier_sync_key_prefix = f'process{here.index}'
  with context, jax.set_mesh(mesh):
    yield


def whole(tree: Any) -> Any:
  """Arrays that are split over processes, on all of them; for a run by itself, as they are."""
  if lifeline.current() is None:
    return tree
  mesh = jax.sharding.get_mesh()
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.jit(_same, out_shardings=everywhere)(tree)


def _same(tree: Any) -> Any:
  return tree
