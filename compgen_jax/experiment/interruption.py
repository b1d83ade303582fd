"""SIGTERM and Ctrl-C: a run saves what it has and ends, with one line and exit status 75.

Python runs a signal's handler between two of its instructions, and one of them may compile, or
train many updates. So a thread waits for signals. Where nothing is unsaved, it ends the process at
once, whatever the main thread is doing: files are written in one step, so none is left half done.
Where something is unsaved, the main thread saves it at the end of the dispatch at work and raises
`Interrupted`; if it takes longer than `run.grace_s`, or at a second Ctrl-C, the thread ends the
process all the same. Whoever calls `compgen_jax.run` from Python and not by a command has Python's
own handling of signals: `watch` is for commands.

This module is imported before all others, so that importing can be interrupted: it imports nothing
that takes time.
"""

import os
import signal
import socket
import threading
import time

from compgen_jax.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Shared:
  """What the two threads tell each other.

  `grace_s`: seconds for a save; None where nothing is unsaved. `asked`: the signal that came.
  """

  lock = threading.Lock()
  grace_s: float | None = None
  asked: str | None = None
  watching = False


def watch() -> None:
  """From now on a signal ends the process as said above; one that is ignored stays ignored."""
  if _Shared.watching:
    return
  _Shared.watching = True
  inside, outside = socket.socketpair()
  outside.setblocking(False)
  signal.set_wakeup_fd(outside.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_wait, args=(inside, outside), daemon=True).start()
  for number in _SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, _leave_it_to_the_thread)


def unsaved(grace_s: float) -> None:
  """Says that there is something to save, which `saved` will follow."""
  with _Shared.lock:
    _Shared.grace_s = grace_s


def asked() -> bool:
  """Whether to save at once, and then to call `saved`."""
  return _Shared.asked is not None


def saved(what: str) -> None:
  """Says that all is saved.

  Args:
    what: for the person who reads it, e.g. 'sft at update 40 of 100'.

  Raises:
    Interrupted: a signal has come; `what` is part of its message.
  """
  with _Shared.lock:
    _Shared.grace_s = None
    name = _Shared.asked
  if name:
    raise Interrupted(f'interrupted by {name}: saved {what}; the same command continues there')


def end(message: str) -> None:
  """Ends the process at once with one line on stderr."""
  line = f'{message}\n'
  if os.isatty(2):
    line = '\n' + line  # the cursor stands behind a line of progress
  try:
    os.write(2, line.encode())
  finally:
    os._exit(Interrupted.exit_status)


def _leave_it_to_the_thread(*_) -> None:
  """The handler of both signals: what wakes the thread is not the handler but its being there."""


def _wait(inside: socket.socket, outside: socket.socket) -> None:
  """The thread. (It holds `outside` so that it is not closed.)"""
  name = signal.Signals(inside.recv(1)[0]).name
  with _Shared.lock:
    _Shared.asked, grace_s = name, _Shared.grace_s
    if grace_s is None:
      end(f'interrupted by {name}: nothing was unsaved; the same command continues')
  until = time.monotonic() + grace_s
  continues = 'the same command continues at the checkpoint before'
  try:
    # Whoever sends SIGTERM may send it to the process and to its group: only Ctrl-C is in a hurry.
    number = None
    while number != signal.SIGINT:
      inside.settimeout(max(until - time.monotonic(), 1e-3))
      number = inside.recv(1)[0]
    end(f'interrupted twice: ended without saving; {continues}')
  except TimeoutError:
    end(f'interrupted by {name}: it took over {grace_s:g} s to come to a save; {continues}')
