"""Compiles the programs of stages ahead of their turn.

XLA compiles a program on little more than one core. So where there are more, a thread compiles the
stages' programs one after the other, while the main thread compiles the evaluation, trains and
evaluates. On two cores, which it shares with training, that takes some 5 % off the quickstart.

The thread runs no program: two threads that start programs of several devices can wait for each
other for ever.
"""

import concurrent.futures
import dataclasses
import functools
from typing import Any

import jax

from compgen_jax.experiment import lifeline, platform, stages
from compgen_jax.experiment.programs import (
  Stage,
  initial_params,
  initial_state,
  placed,
  spread,
  updates,
)
from compgen_jax.experiment.replicate import Replicate, arguments
from compgen_jax.learning.state import Given, TrainState


class Ahead:
  """A context in which `begin` starts to compile, and who needs the program waits for its end.

  At the end of the context what has not been begun is left; the program at work is compiled to its
  end, without anyone waiting for it.
  """

  def __enter__(self) -> 'Ahead':
    self._thread = None
    if platform.compiles_ahead() and lifeline.current() is None:
      self._thread = concurrent.futures.ThreadPoolExecutor(1)
    return self

  def __exit__(self, *_) -> None:
    if self._thread:
      self._thread.shutdown(wait=False, cancel_futures=True)

  def begin(self, stage: Stage, replicates: list[Replicate]) -> Stage:
    """Compiles a stage's program when those begun before are done.

    Returns:
      The stage, whose `advance` waits until it is compiled. (If it can't be, that says nothing: who
      calls the program meets the error.)
    """
    records = [stage.record(replicate.seed) for replicate in replicates]
    if not self._thread or all(stages.newest_checkpoint(r) == stage.steps for r in records):
      return stage
    mesh = jax.sharding.get_mesh()
    future = self._thread.submit(_compile, stage, _arguments(stage, replicates), mesh)
    wait = functools.partial(_until_over, future)
    return dataclasses.replace(stage, wait=wait)


def _until_over(future: concurrent.futures.Future) -> None:
  if not future.cancelled():
    concurrent.futures.wait([future])


def _arguments(stage: Stage, replicates: list[Replicate]) -> tuple[TrainState, Given, int]:
  """Shapes and places of the program's arguments, as from a parent or from initialisation."""
  seeds = tuple(replicate.seed for replicate in replicates)
  start = initial_params(stage.setup, seeds)
  if stage.init_from:
    start = placed(stage.setup, start)
  state = spread(stage.setup, initial_state(stage.setup, start))
  return jax.tree.map(_shape, (state, arguments(stage, replicates, start), 1))


def _shape(x: Any) -> Any:
  """What a program is compiled for: of an array no values. (One that may move has no place.)"""
  if not isinstance(x, jax.Array):
    return x
  sharding = x.sharding if x.committed else None
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _compile(stage: Stage, args: tuple[TrainState, Given, int], mesh: jax.sharding.Mesh) -> None:
  if platform.is_crowded():
    return  # it would be dropped before its turn
  with jax.set_mesh(mesh):  # each thread has its own
    updates(stage).lower(*args).compile()
