"""Programs compiled ahead: once, in the thread, and a run that does not depend on it."""

import dataclasses
import logging
import threading
from collections.abc import Callable
from unittest import mock

import jax
import pytest

import compgen_jax
from compgen_jax.experiment import ahead, platform, stages
from tests.experiments import tiny


@pytest.fixture
def compiled(caplog):
  """Function that gives the threads in which training programs were compiled so far."""
  before = jax.config.jax_log_compiles
  jax.config.update('jax_log_compiles', True)  # of all threads
  with caplog.at_level(logging.WARNING):
    yield lambda: [
      record.threadName
      for record in caplog.records
      if record.getMessage().startswith('Finished XLA compilation of jit(run)')
    ]
  jax.config.update('jax_log_compiles', before)


def _sft_alone(**overrides):
  # Not the width of other tests: what they have compiled would not be compiled again.
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=(), model__d_ff=24, **overrides)
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  return config


@pytest.mark.skipif(platform.cores() < 2, reason='needs two cores')
@pytest.mark.parametrize('n_devices', [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stage_is_compiled_once_and_beside(tmp_path, compiled, n_devices):
  """A thread that compiles for other shapes or shardings than the stage has: all would be compiled
  twice, and later than without it."""
  compgen_jax.run(_sft_alone(mesh__data=n_devices), tmp_path / 'w')
  (thread,) = compiled()
  assert thread.startswith('ThreadPool')


def test_a_run_does_not_depend_on_it(finished, tmp_path, monkeypatch):
  """A thread that fails, and takes the run with it or lets it wait; one that changes results."""

  def fails(*_):
    raise RuntimeError('no memory')

  monkeypatch.setattr(platform, 'compiles_ahead', lambda: True)
  monkeypatch.setattr(ahead, '_compile', fails)
  assert compgen_jax.run(tiny(), tmp_path / 'w') == finished[1]


def test_what_is_finished_is_not_compiled(finished, monkeypatch):
  """A run that has ended and compiles all the same."""
  begun = []
  monkeypatch.setattr(platform, 'compiles_ahead', lambda: True)
  monkeypatch.setattr(ahead, '_compile', lambda stage, *_: begun.append(stage.name))
  compgen_jax.run(tiny(), finished[0])
  assert not begun


@dataclasses.dataclass(eq=False)
class Waited:
  """What of a stage is asked of it before it is compiled."""

  wait: Callable | None = None
  record: Callable = mock.Mock()
  steps: int = 1


def test_an_error_waits_for_one_program_at_most(monkeypatch):
  """A run that ends with an error only after the programs of all stages were compiled."""
  begun, started, go_on = [], threading.Event(), threading.Event()

  def compile_slowly(stage, *_):
    begun.append(stage)
    started.set()
    assert go_on.wait(60)

  monkeypatch.setattr(platform, 'compiles_ahead', lambda: True)
  monkeypatch.setattr(stages, 'newest_checkpoint', lambda record: 0)
  monkeypatch.setattr(ahead, '_arguments', lambda *_: ())
  monkeypatch.setattr(ahead, '_compile', compile_slowly)
  first, second = Waited(), Waited()
  with pytest.raises(ValueError, match='diverged'):
    with ahead.Ahead() as compiler:
      compiler.begin(first, [mock.Mock()])
      waiting = compiler.begin(second, [mock.Mock()])
      assert started.wait(60)
      raise ValueError('diverged')
  go_on.set()
  waiting.wait()
  assert begun == [first]
