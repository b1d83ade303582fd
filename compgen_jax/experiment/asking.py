"""Asks a model, or anything else that writes traces, about compositions of one's choice.

A problem depends on (seed, its number) and on its composition alone. So two problems of one seed
and number, whose compositions differ in a module, have the same inputs and labels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from compgen_jax.experiment.evaluate import SLACK
from compgen_jax.learning import batches, exploration
from compgen_jax.learning.setup import Setup
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.render import Rendered
from compgen_jax.task.vocab import TaskConfig
from compgen_jax.theory import explanations
from compgen_jax.theory.explanations import Explained, Judged

ROWS = 1024  # traces that one call of the compiled program writes; fewer are filled up

# (problems, rendered, key, ids_B, temperature) -> int32[B, C], a trace per row.
Writer = Callable[[Problem, Rendered, jax.Array, np.ndarray, float], np.ndarray]
# What is read from traces, and their tokens.
Answer = tuple[Judged, np.ndarray]


def of_model(setup: Setup, params: Any) -> Writer:
  """Traces that a model samples; temperature 0 takes the most probable token each time."""

  def write(problems, rendered, key, ids_B, temperature):
    return _write(params, problems, rendered, key, ids_B, float(temperature), setup)

  return write


@functools.partial(jax.jit, static_argnames='setup')
def _write(params, problems, rendered, key, ids_B, temperature, setup: Setup) -> jax.Array:
  depth_cap = problems.composition.routing.shape[1]
  sampled, _ = exploration.attempt(
    setup,
    params,
    problems,
    rendered,
    key,
    ids_B[:, None],
    n_tokens=setup.task.trace_width(depth_cap) + SLACK,
    temperature=temperature,
  )
  return sampled.tokens


def ask(
  write: Writer,
  task: TaskConfig,
  compositions: Composition,
  seed: int,
  n_samples: int = 1,
  temperature: float = 0.0,
  numbers: np.ndarray | None = None,
) -> Answer:
  """Traces of compositions, and what is read from them (numpy, leading axis B * n_samples).

  Args:
    write: who writes them.
    task: the task.
    compositions: leading axis B, arrays of equally many steps.
    seed: of inputs, labels and samples.
    n_samples: traces of each problem, neighbours in the result.
    temperature: of sampling.
    numbers: int[B], of the problems; None numbers them from 0.
  """
  numbers = np.arange(len(compositions.depth)) if numbers is None else numbers
  n = len(compositions.depth) * n_samples
  problem_key, sample_key = jax.random.split(jax.random.key(seed))
  parts = []
  for first in range(0, n, ROWS):
    ids_B = np.minimum(np.arange(first, first + ROWS), n - 1)
    at_B = ids_B // n_samples
    asked = jax.tree.map(lambda x: np.asarray(x)[at_B], compositions)
    problems, rendered = _problems(problem_key, numbers[at_B], asked, task)
    tokens_BxC = write(problems, rendered, sample_key, ids_B, temperature)
    parts.append(jax.device_get((_judge(problems, tokens_BxC, task), tokens_BxC)))
  return jax.tree.map(lambda *xs: np.concatenate(xs)[:n], *parts)


@functools.partial(jax.jit, static_argnames='task')
def _problems(
  key: jax.Array, ids_B: jax.Array, compositions: Composition, task: TaskConfig
) -> tuple[Problem, Rendered]:
  key_B = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids_B)
  return batches.make(key_B, compositions, 0, task, compositions.routing.shape[1])


@functools.partial(jax.jit, static_argnames='task')
def _judge(problems: Problem, tokens_BxC: jax.Array, task: TaskConfig) -> Judged:
  return jax.vmap(lambda p, t: explanations.judge(p, t, task))(problems, tokens_BxC)


def golden(task: TaskConfig, compositions: Composition, seed: int) -> Explained:
  """What explains the steps of the golden traces of the problems that `ask` asks with this seed
  (numpy, leading axis B)."""
  problem_key, _ = jax.random.split(jax.random.key(seed))
  ids_B = np.arange(len(compositions.depth))
  return jax.device_get(_golden(problem_key, ids_B, compositions, task))


@functools.partial(jax.jit, static_argnames='task')
def _golden(key, ids_B, compositions: Composition, task: TaskConfig) -> Explained:
  problems, _ = _problems(key, ids_B, compositions, task)

  def one(p: Problem):
    return explanations.explain(p.values, p.operands, p.composition, task)

  return jax.vmap(one)(problems)
