"""The line that a person watches while a stage trains."""

import io

import pytest

from compgen_jax.experiment import progress
from compgen_jax.experiment.progress import Progress


@pytest.fixture
def clock(monkeypatch):
  """A list whose last entry is the time, in seconds."""
  times = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: times[-1])
  return times


def _lines(clock, shows, done=0):
  stream = io.StringIO()
  bar = Progress('sft', 1000, done, stream, every_s=15.0)
  for at, n, metrics in shows:
    clock.append(at)
    bar.show(n, metrics)
  return [line.strip() for line in stream.getvalue().splitlines()]


def test_compiling_is_no_training(clock):
  """An ETA of a quarter of an hour for a stage of twenty seconds, or no word for a minute."""
  first, second, third = _lines(
    clock, [(60.0, 20, {}), (70.0, 520, {'loss': 0.25}), (80.0, 1000, {})]
  )
  assert first == 'sft      0/1000  compiling ...'
  assert second == 'sft     20/1000'
  assert third.startswith('sft   1000/1000    49.0 updates/s  ETA  0m00s')


def test_a_continued_stage_counts_its_own_updates(clock):
  """A rate that counts what was done before."""
  *_, line = _lines(clock, [(1.0, 920, {}), (17.0, 952, {'loss': 0.25})], done=900)
  assert line == 'sft    952/1000     2.0 updates/s  ETA  0m24s  loss 0.250'


def test_no_signal_is_said(clock):
  """A reward of nothing that looks like a slow start."""
  metrics = {'reward': 0.0, 'signal': 0.0}
  (_, without), (_, some) = (
    _lines(clock, [(20.0 + 20 * i, 20, metrics | {'signal': signal})])
    for i, signal in enumerate((0.0, 0.5))
  )
  assert 'reward 0.000  no group has signal: all samples of a problem earn the same' in without
  assert some.endswith('reward 0.000')


def test_a_terminal_rewrites_one_line(clock):
  """A log of a thousand lines on a terminal."""
  stream = io.StringIO()
  stream.isatty = lambda: True
  bar = Progress('sft', 40, stream=stream)
  for n in (20, 40):
    clock.append(clock[-1] + 1.0)
    bar.show(n, {})
  assert stream.getvalue().count('\n') == 1 and stream.getvalue().count('\r') == 3
