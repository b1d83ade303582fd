"""Signals: nothing unsaved, something unsaved, too long to a save, twice.

Each test is a process without jax, so that it takes a tenth of a second.
"""

import signal
import subprocess
import sys
import time

import pytest

from compgen_jax import errors

START = """
import time
from compgen_jax.experiment import interruption
interruption.watch()
"""
# One call that, like a compilation, takes seconds and lets other threads run: no handler runs
# meanwhile.
BUSY = """
import hashlib
print('up', flush=True)
hashlib.pbkdf2_hmac('sha256', b'', b'', 5_000_000)
"""
UNSAVED = 'interruption.unsaved({grace_s})\n'
UNTIL_ASKED = """
print('up', flush=True)
while not interruption.asked():
  time.sleep(0.01)
time.sleep({save_s})
interruption.saved('sft at update 3 of 9')
"""


def _stopped(script: str, *signals: int) -> tuple[int, list[str], float]:
  """`(status, lines on stderr, seconds)` of a script that got signals when it said so."""
  command = [sys.executable, '-c', START + script]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'up\n', process.stderr.read()
  started = time.monotonic()
  for number in signals:
    process.send_signal(number)
    time.sleep(0.05)
  _, stderr = process.communicate(timeout=30)
  return process.returncode, stderr.splitlines(), time.monotonic() - started


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_at_once_where_nothing_is_unsaved(number):
  """A signal that waits for a compilation, a traceback, or the status of a killed process."""
  status, lines, seconds = _stopped(BUSY, number)
  name = signal.Signals(number).name
  assert lines == [f'interrupted by {name}: nothing was unsaved; the same command continues']
  assert status == errors.Interrupted.exit_status == 75
  assert seconds < 0.5


def test_what_is_unsaved_is_saved():
  """A run that ends before its save, and one that is told nothing."""
  script = UNSAVED.format(grace_s=20) + UNTIL_ASKED.format(save_s=0.2)
  _, lines, seconds = _stopped(script, signal.SIGTERM, signal.SIGTERM)  # to it and to its group
  assert lines[-1].endswith(
    'interrupted by SIGTERM: saved sft at update 3 of 9; the same command continues there'
  )
  assert seconds > 0.2


def test_a_save_that_does_not_come():
  """A process that a stuck device keeps alive for ever."""
  status, lines, seconds = _stopped(UNSAVED.format(grace_s=0.3) + BUSY, signal.SIGTERM)
  assert status == 75 and len(lines) == 1 and 'took over 0.3 s' in lines[0]
  assert 0.3 <= seconds < 0.8


def test_twice():
  """A person who has to reach for kill -9."""
  script = UNSAVED.format(grace_s=20) + UNTIL_ASKED.format(save_s=20)
  status, lines, seconds = _stopped(script, signal.SIGINT, signal.SIGINT)
  assert status == 75 and len(lines) == 1 and 'interrupted twice' in lines[0]
  assert seconds < 1.0


def test_an_ignored_signal_stays_ignored():
  """A run behind `nohup` or `&` in a script that Ctrl-C of another program ends."""
  ignore = 'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
  script = "print('up', flush=True); time.sleep(0.4)"
  command = [sys.executable, '-c', ignore + START + script]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process.stdout.readline()
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=10) == 0
