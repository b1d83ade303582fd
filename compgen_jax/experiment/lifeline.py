"""The connections between the processes of a run: who has come, what they tell each other, and that
all end together.

Process 0, the lead, listens at the coordinator's address until all others are connected; then JAX's
own coordination service takes the port over. The connections stay. Over them go values that all
have to agree on, signals, and the ends of processes: the first process that has to end tells the
lead, which says why in one line and ends all with the same status. A process that is killed is
noticed by its closed connection (within 15 s where its machine is gone). One that is stuck keeps
all from meeting, which they do after every dispatch: then each that can writes the stacks of its
threads to stderr, and all end.

Messages are lines of JSON. This module imports nothing that takes time.
"""

import contextlib
import faulthandler
import json
import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from compgen_jax.errors import PeerError
from compgen_jax.experiment import interruption

LOSS_S = 1.0  # within which a closed connection is noticed
RETRY_S = 0.2  # between two tries to reach the lead
FAREWELL_S = 2.0  # that the lead waits for the others to end before it ends itself
ANSWER_S = 2.0  # that a process has to write its stacks
PROBES = {'TCP_KEEPIDLE': 5, 'TCP_KEEPINTVL': 3, 'TCP_KEEPCNT': 3}  # of a machine that is gone


class _Shared:
  """`current`: the lifeline of this process; None where it is a run by itself."""

  current: 'Lifeline | None' = None


def tie(lifeline: 'Lifeline | None') -> None:
  """From now on this process is one of several that are one run; None: by itself."""
  _Shared.current = lifeline
  interruption.tie(lifeline)


def current() -> 'Lifeline | None':
  """The lifeline of this process; None where it is a run by itself."""
  return _Shared.current


def is_lead() -> bool:
  """Whether this process writes files and speaks: process 0, and one that is a run by itself."""
  return _Shared.current is None or _Shared.current.is_lead


def of_lead(f: Callable[[], Any]) -> Any:
  """What f returns on process 0, where alone it is called: plain data, on all processes."""
  if _Shared.current is None:
    return f()
  value = f() if is_lead() else None
  return json.loads(json.dumps(_Shared.current.all_of(value)[0]))


def meet() -> None:
  """Waits until all processes have come here."""
  if _Shared.current:
    _Shared.current.all_of(None)


def watched(stuck_s: float) -> contextlib.AbstractContextManager[None]:
  """See `Lifeline.watched`; a run of one process is not watched."""
  return _Shared.current.watched(stuck_s) if _Shared.current else contextlib.nullcontext()


def interrupted() -> bool:
  """Whether a signal has come to any of the processes; all learn the same."""
  if _Shared.current is None:
    return interruption.asked()
  names = _Shared.current.all_of(interruption.name_of_signal())
  for name in filter(None, names):
    interruption.ask(name)
  return any(names)


class Connection:
  """One end of a connection: sends and receives messages, each a JSON list."""

  def __init__(self, raw: socket.socket):
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in PROBES.items():
      if hasattr(socket, name):  # not on every system
        raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    self._raw, self._lock = raw, threading.Lock()
    self._lines = raw.makefile('rb')

  def send(self, *message: Any) -> None:
    """Sends a message; to a process that is gone, nothing (its reader notices)."""
    with self._lock, contextlib.suppress(OSError):
      self._raw.sendall(json.dumps(message).encode() + b'\n')

  def receive(self) -> list | None:
    """The next message; None where the other end is closed, or speaks another language."""
    try:
      message = json.loads(self._lines.readline())
    except (OSError, ValueError):
      return None
    return message if isinstance(message, list) and message else None

  def wait_at_most(self, seconds: float | None) -> None:
    """How long `receive` waits from now on; None: for ever."""
    self._raw.settimeout(seconds)

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._raw.shutdown(socket.SHUT_RDWR)
    self._raw.close()


class Lifeline:
  """What one process of several holds: to the others if it is the lead, else to the lead.

  `peers`: by the number of the process at the other end.
  """

  def __init__(self, index: int, count: int, peers: dict[int, Connection]):
    self.index, self.count, self._peers = index, count, peers
    self._met, self._answered = time.monotonic(), set[int]()
    self._values = {i: queue.SimpleQueue() for i in peers}
    self._gone = {i: threading.Event() for i in peers}
    self._left: set[int] = set()
    self._ending = threading.Lock()
    for i in peers:
      threading.Thread(target=self._listen, args=(i,), daemon=True).start()

  @property
  def is_lead(self) -> bool:
    return self.index == 0

  def all_of(self, value: Any) -> list[Any]:
    """The values (plain data) that all processes call this with, by process; waits for them."""
    if self.is_lead:
      values = [value, *(self._values[i].get() for i in range(1, self.count))]
      for peer in self._peers.values():
        peer.send('value', values)
      self._met = time.monotonic()
      return values
    self._peers[0].send('value', value)
    return self._values[0].get()

  def interrupt(self) -> None:
    """Tells the lead of a signal that came here; the lead decides how all end."""
    if not self.is_lead:
      self._peers[0].send('signal')

  def end(self, status: int, line: str) -> None:
    """Ends all processes with this status and one line on stderr; does not return.

    Of several ends the first counts.
    """
    if not self.is_lead:
      self._peers[0].send('end', status, line)
      time.sleep(FAREWELL_S + 1.0)  # `_listen` hears from the lead, and ends the process
      self._exit(status, line)
    with self._ending:
      interruption.write_line(line)
      for peer in self._peers.values():
        peer.send('end', status)
      until = time.monotonic() + FAREWELL_S
      for event in self._gone.values():
        event.wait(max(until - time.monotonic(), 0.0))
      os._exit(status)

  def crash(self) -> None:
    """Ends all processes because of an error in the program here; does not return.

    The error may be that another process is gone: if so, that is what is said.
    """
    time.sleep(LOSS_S)
    traceback.print_exc()
    self.end(1, f'error: process {self.index} of {self.count} ended with the error above')

  def leave(self) -> None:
    """Says that this process has come to its end."""
    for peer in self._peers.values():
      peer.send('bye')

  @contextlib.contextmanager
  def watched(self, stuck_s: float) -> Iterator[None]:
    """Within it, the lead ends all where they have not met (`all_of`) for so many seconds."""
    self._met, over = time.monotonic(), threading.Event()
    if self.is_lead:
      threading.Thread(target=self._watch, args=(stuck_s, over), daemon=True).start()
    try:
      yield
    finally:
      over.set()

  def _watch(self, stuck_s: float, over: threading.Event) -> None:
    while (left_s := self._met + stuck_s - time.monotonic()) > 0:
      if over.wait(left_s):
        return
    for peer in self._peers.values():
      peer.send('stacks')
    faulthandler.dump_traceback()
    time.sleep(ANSWER_S)
    silent = [str(i) for i in self._peers if i not in self._answered]
    who = f'; process {", ".join(silent)} does not answer' if silent else ''
    what = f'the {self.count} processes have not met for run.stuck_s={stuck_s:g} s'
    self.end(PeerError.exit_status, f'error: {what}{who}; the same command continues')

  def _listen(self, i: int) -> None:
    """The thread that reads what process i sends."""
    while (message := self._peers[i].receive()) is not None:
      kind, *rest = message
      if kind == 'value':
        self._values[i].put(rest[0])
      elif kind == 'signal':
        interruption.pass_on()
      elif kind == 'stacks' and not self.is_lead:
        faulthandler.dump_traceback()
        self._peers[0].send('answer')
      elif kind == 'answer':
        self._answered.add(i)
      elif kind == 'bye':
        self._left.add(i)
      elif kind == 'end' and self.is_lead:  # in a thread of its own: this one sees process i end
        threading.Thread(target=self.end, args=tuple(rest), daemon=True).start()
      elif kind == 'end':
        os._exit(rest[0])
    self._gone[i].set()
    if i not in self._left:
      self._lost(i)

  def _lost(self, i: int) -> None:
    line = f'error: process {i} of {self.count} is gone; the same command continues'
    if self.is_lead:
      self.end(PeerError.exit_status, line)
    self._exit(PeerError.exit_status, line)

  def _exit(self, status: int, line: str) -> None:
    """Ends this process only."""
    with self._ending:
      interruption.write_line(line)
      os._exit(status)


def tunnel(address: str) -> str:
  """An address on this machine; what connects to it is connected to `address`.

  JAX's client aborts its process, with a core dump, as soon as its connection to process 0 closes.
  This one stays open, so that there is time for one line.
  """
  host, _, port = address.rpartition(':')
  server = socket.create_server(('127.0.0.1', 0))

  def serve():
    while True:
      near = server.accept()[0]
      far = _connected(host.strip('[]'), int(port))
      for source, sink in ((near, far), (far, near)):
        threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

  threading.Thread(target=serve, daemon=True).start()
  return f'127.0.0.1:{server.getsockname()[1]}'


def _connected(host: str, port: int) -> socket.socket:
  """A connection to the service of process 0, which may start a little later than this."""
  while True:
    try:
      return socket.create_connection((host, port))
    except OSError:
      time.sleep(RETRY_S)


def _pump(source: socket.socket, sink: socket.socket) -> None:
  """Copies bytes until one end is closed; closes neither."""
  with contextlib.suppress(OSError):
    while part := source.recv(1 << 16):
      sink.sendall(part)
