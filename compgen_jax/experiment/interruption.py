"""SIGTERM and Ctrl-C: a run saves what it has and ends, with one line and exit status 75.

Python runs a signal's handler between two of its instructions, and one of them may compile, or
train many updates. So a thread waits for signals. Where nothing is unsaved, it ends the process at
once, whatever the main thread is doing: files are written in one step, so none is left half done.
Where something is unsaved, the main thread saves it at the end of the dispatch at work and raises
`Interrupted`; if it takes longer than `run.grace_s`, or at a second Ctrl-C, the thread ends the
process all the same. Whoever calls `compgen_jax.run` from Python and not by a command has Python's
own handling of signals: `watch` is for commands.

Where several processes are one run (`lifeline.py`), all end as process 0 does: a signal that comes
to another one is passed on to it.

This module is imported before all others, so that importing can be interrupted: it imports nothing
that takes time.
"""

import os
import signal
import socket
import threading
import time
from typing import Any

from compgen_jax.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 15.0  # for process 0 to end the others, beyond the time for a save


class _Shared:
  """What the two threads tell each other.

  `grace_s`: seconds for a save; None where nothing is unsaved. `asked`: the signal that came.
  `alarm`: what wakes the thread, None where there is none. `lifeline`: to the other processes of
  the run, or None.
  """

  lock = threading.Lock()
  grace_s: float | None = None
  asked: str | None = None
  alarm: socket.socket | None = None
  lifeline: Any = None


def watch() -> None:
  """From now on a signal ends the process as said above; one that is ignored stays ignored."""
  if _Shared.alarm:
    return
  inside, outside = socket.socketpair()
  _Shared.alarm = outside
  outside.setblocking(False)
  signal.set_wakeup_fd(outside.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_wait, args=(inside,), daemon=True).start()
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


def ask(name: str) -> None:
  """From now on `asked`: a signal of this name has come to another process of the run."""
  _Shared.asked = _Shared.asked or name


def name_of_signal() -> str | None:
  """The signal that has come; None where none has."""
  return _Shared.asked


def pass_on() -> None:
  """Does as if SIGTERM had come: a signal has come to another process of the run."""
  if _Shared.alarm and not _Shared.asked:
    _Shared.alarm.send(bytes([signal.SIGTERM]))


def tie(lifeline: Any) -> None:
  """From now on this process ends together with those at the other end of a `Lifeline`."""
  _Shared.lifeline = lifeline


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
  """Ends the run at once with one line on stderr."""
  if _Shared.lifeline:
    _Shared.lifeline.end(Interrupted.exit_status, message)
  try:
    write_line(message)
  finally:
    os._exit(Interrupted.exit_status)


def write_line(message: str) -> None:
  """One line on stderr, from any thread."""
  start = '\n' if os.isatty(2) else ''  # the cursor stands behind a line of progress
  os.write(2, f'{start}{message}\n'.encode())


def _leave_it_to_the_thread(*_) -> None:
  """The handler of both signals: what wakes the thread is not the handler but its being there."""


def _wait(inside: socket.socket) -> None:
  """The thread."""
  name = signal.Signals(inside.recv(1)[0]).name
  lifeline = _Shared.lifeline
  with _Shared.lock:
    _Shared.asked, grace_s = name, _Shared.grace_s
    if lifeline and not lifeline.is_lead:
      grace_s = (grace_s or 0.0) + _PATIENCE_S
    elif grace_s is None:
      end(f'interrupted by {name}: nothing was unsaved; the same command continues')
  if lifeline:
    lifeline.interrupt()
  started = time.monotonic()
  until = started + grace_s
  continues = 'the same command continues at the checkpoint before'
  try:
    # Whoever sends SIGTERM may send it to the process and to its group: only Ctrl-C is in a hurry.
    # (And one Ctrl-C comes to all processes of a terminal, which pass it on.)
    number = None
    while number != signal.SIGINT or (lifeline and time.monotonic() < started + 1.0):
      inside.settimeout(max(until - time.monotonic(), 1e-3))
      number = inside.recv(1)[0]
    end(f'interrupted twice: ended without saving; {continues}')
  except TimeoutError:
    end(f'interrupted by {name}: it took over {grace_s:g} s to come to a save; {continues}')
