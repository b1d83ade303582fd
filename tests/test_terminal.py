"""A run in a terminal, as a person sees it: a real one of its own, whose Ctrl-C is a key."""

import os
import pty
import re
import subprocess
import sys
import time

from compgen_jax.experiment import provenance
from tests.reliability import trial

# Makes the terminal at its input the one that controls it, and becomes the command.
_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
  """A run that a terminal of 100 columns controls, and all that it has shown so far."""

  def __init__(self, command: list[str]):
    self._keys, inside = pty.openpty()
    os.set_blocking(self._keys, False)
    self._shown = b''
    self.process = subprocess.Popen(
      [sys.executable, '-c', _OWN_TERMINAL, *command],
      cwd=trial.REPOSITORY,
      stdin=inside,
      stdout=inside,
      stderr=inside,
      env=os.environ | {'COLUMNS': '100', 'TERM': 'xterm'},
      start_new_session=True,
    )
    os.close(inside)

  def press(self, key: bytes) -> None:
    os.write(self._keys, key)

  def shown(self) -> str:
    """Text without what the terminal itself echoes of Ctrl-C."""
    try:
      while more := os.read(self._keys, 65536):
        self._shown += more
    except OSError:  # nothing more now, or ever
      pass
    return self._shown.decode().replace('\r\n', '\n').replace('^C', '')

  def until(self, pattern: str, within_s: float = 300.0) -> None:
    end = time.monotonic() + within_s
    while not re.search(pattern, self.shown()):
      assert self.process.poll() is None and time.monotonic() < end, self.shown()
      time.sleep(0.05)

  def ended(self, within_s: float = 60.0) -> int:
    end = time.monotonic() + within_s
    while self.process.poll() is None and time.monotonic() < end:
      self.shown()  # a full terminal would hold the run up
      time.sleep(0.05)
    return self.process.wait(timeout=1)


def test_a_run_in_a_terminal(tmp_path):
  """A traceback at Ctrl-C, lines that can't be read, an ETA before anything is compiled."""
  terminal = Terminal(trial.command(tmp_path / 'w', *trial.ENDLESS))
  try:
    terminal.until(r'updates/s')
    terminal.press(b'\x03')
    assert terminal.ended() == 75, terminal.shown()
  finally:
    terminal.process.kill()
  assert provenance.wall_time(tmp_path / 'w') > 1.0
  # In a terminal a line of progress is written over the one before.
  text = terminal.shown()
  assert '\r\x1b[2K' in text
  lines = [line for line in re.split(r'\n|\r\x1b\[2K', text) if line]
  text = '\n'.join(lines)
  assert 'Traceback' not in text and '\x1b' not in text
  assert re.fullmatch(
    r'interrupted by SIGINT: saved sft at update \d+ of 100000; the same command continues there',
    lines[-1],
  )
  assert sum('interrupted' in line for line in lines) == 1
  first_eta = next(i for i, line in enumerate(lines) if 'ETA' in line)
  assert any('compiling' in line for line in lines[:first_eta])
