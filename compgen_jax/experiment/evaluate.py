"""Evaluation: a fixed set of problems by split and depth, traces of a model, and what they get
right.

A replicate draws the problems of a (split, depth) once, from its salt. They are the same for every
arm and step, so arms are compared problem by problem, and evaluating can't change training.
"""

import functools
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax import typed
from compgen_jax.config import Config
from compgen_jax.errors import LeakError
from compgen_jax.experiment import measures
from compgen_jax.learning import batches
from compgen_jax.learning.exploration import attempt
from compgen_jax.learning.setup import Setup
from compgen_jax.model.kernels import ceil_div
from compgen_jax.model.rollout import Rollout
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.pools import replicate_salt
from compgen_jax.task.render import Rendered
from compgen_jax.task.support import Support
from compgen_jax.task.verify import Verdict
from compgen_jax.task.vocab import TaskConfig

SLACK = 8  # columns beyond the longest golden trace: an overlong trace is seen to be one


class Evaluation(NamedTuple):
  """What was measured of one replicate of an arm at one step.

  `rows`: dicts as in results.jsonl. `items`: 'SPLIT/DEPTH' -> bool[n], whether each problem was
  answered right.
  """

  rows: list[dict[str, Any]]
  items: dict[str, list[bool]]


class Pooled(NamedTuple):
  """The same of several replicates: `items` holds bool[replicates, n]."""

  rows: list[dict[str, Any]]
  items: dict[str, list[list[bool]]]


def pool(evaluations: list[Evaluation]) -> Pooled:
  """Replicates of one arm, put together."""
  rows = [row for evaluation in evaluations for row in evaluation.rows]
  cells = evaluations[0].items
  return Pooled(
    rows, {cell: [evaluation.items[cell] for evaluation in evaluations] for cell in cells}
  )


@functools.partial(jax.jit, static_argnames=('task', 'depth_cap'))
def _problems(
  key: jax.Array, compositions: Composition, task: TaskConfig, depth_cap: int
) -> tuple[Problem, Rendered]:
  key_B = jax.random.split(key, compositions.depth.shape[0])
  return batches.make(key_B, compositions, False, task, depth_cap)


@functools.partial(jax.jit, static_argnames=('setup', 'n_tokens'))
def _attempt(
  params, prompts_BxP, problems: Problem, length_B, key, temperature, setup: Setup, n_tokens: int
) -> tuple[Rollout, Verdict]:
  """A trace and a verdict per row, the rows split over the devices."""

  def mine(params, prompts_BxP, problems, length_B, key, temperature):
    ids = setup.devices.row_ids(0, length_B.shape[0])
    rows = jax.tree.map(lambda x: x[ids], (problems, prompts_BxP, length_B))
    problems, prompts_BxP, length_B = rows
    return attempt(
      setup,
      params,
      problems,
      prompts_BxP,
      key,
      ids[:, None],
      length_B,
      n_tokens=n_tokens,
      temperature=temperature,
    )

  on_all = setup.devices.shared(mine, row_outputs=True)
  return on_all(params, prompts_BxP, problems, length_B, key, temperature)


class Evaluator:
  """Holds a replicate's problems of every split; call it on parameters."""

  def __init__(
    self,
    config: Config,
    setup: Setup,
    seed: int,
    supports: dict[str, Support],
    training: Iterable[str],
  ):
    """Draws the compositions and checks them against the supports that are called in `training`.

    Raises:
      LeakError: a composition of a split that is not in `eval.trained` is in a training support.
    """
    self._config, self._setup, self._seed = config, setup, seed
    splits = config.eval.splits
    cells = [(s, d) for s in config.ordered_splits for d in config.supports[splits[s]].depths]
    self._depth_cap = max(depth for _, depth in cells)
    salt = replicate_salt(config.pools.salt, seed)
    self._key = jax.random.fold_in(jax.random.key(salt), zlib.crc32(b'evaluation'))
    self._compositions = {}
    for split, depth in sorted(
      cells, key=lambda cell: (config.ordered_splits.index(cell[0]), cell[1])
    ):
      key = jax.random.fold_in(jax.random.fold_in(self._key, zlib.crc32(split.encode())), depth)
      composition_key, problem_key = jax.random.split(key)
      n, cap = config.eval.problems, self._depth_cap
      support = supports[splits[split]]
      compositions = support.sample_at_depth(composition_key, depth, n, cap)
      if split not in config.eval.trained:
        _require_unseen(split, compositions, {name: supports[name] for name in training})
      self._compositions[split, depth] = problem_key, compositions

  @property
  def settings(self) -> dict[str, Any]:
    """What the results at the end of a stage depend on, beside the parameters: plain data."""
    config = self._config
    splits = {
      split: typed.plain(config.supports[support]) for split, support in config.eval.splits.items()
    }
    names = ('problems', 'pass_k', 'pass_samples')
    return typed.plain({name: getattr(config.eval, name) for name in names} | {'splits': splits})

  @functools.cached_property
  def problems(self) -> dict[tuple[str, int], tuple[Problem, Rendered]]:
    """(split, depth) -> its problems; drawn when first asked for, so that no training waits."""
    task, cap = self._config.task, self._depth_cap
    return {
      cell: _problems(key, compositions, task, cap)
      for cell, (key, compositions) in self._compositions.items()
    }

  def sample(
    self, params, split: str, depth: int, temperature: float, repeat: int = 1
  ) -> tuple[Rollout, Verdict]:
    """Traces, and verdicts on them, of `eval.problems` rows.

    The rows are the first problems of the (split, depth), each `repeat` times (neighbours).
    """
    problems, rendered = self.problems[split, depth]
    n = self._config.eval.problems

    def pick(x):
      return jnp.repeat(x[: ceil_div(n, repeat)], repeat, axis=0)[:n]

    inputs = problems, rendered.prompt, rendered.trace_length
    problems, prompts, lengths = jax.tree.map(pick, inputs)
    n_tokens = rendered.trace.shape[1] + SLACK
    return _attempt(
      params, prompts, problems, lengths, self._key, temperature, self._setup, n_tokens
    )

  def __call__(self, params, arm: str, step: int, final: bool) -> Evaluation:
    """Evaluates parameters of the replicate.

    `final`: on all splits, with modules and pass@k; else accuracies on the splits of `eval.curve`.
    """
    config = self._config
    rows, items = [], {}
    for (split, depth), (problems, _) in self.problems.items():
      if not final and split not in config.eval.curve:
        continue
      verdict = jax.device_get(self.sample(params, split, depth, 0.0)[1])
      measured = measures.of_traces(verdict)
      if final:
        composition = jax.device_get(problems.composition)
        measured += measures.of_modules(verdict, composition, config.task)
        measured += self._pass_rates(params, split, depth)
        items[f'{split}/{depth}'] = [bool(x) for x in verdict.answer]
      label = dict(
        experiment=config.experiment,
        arm=arm,
        stage=config.stages[arm].kind,
        seed=self._seed,
        step=step,
        split=split,
        depth=depth,
      )
      rows += [label | row for row in measured]
    return Evaluation(rows, items)

  def _pass_rates(self, params, split: str, depth: int) -> list[dict[str, Any]]:
    ev = self._config.eval
    if not ev.pass_k:
      return []
    n_problems = ev.problems // ev.pass_samples
    verdict = self.sample(params, split, depth, 1.0, repeat=ev.pass_samples)[1]
    correct = np.asarray(verdict.answer)[: n_problems * ev.pass_samples]
    return measures.of_samples(correct.reshape(n_problems, ev.pass_samples), ev.pass_k)


def _require_unseen(split: str, compositions: Composition, training: dict[str, Support]) -> None:
  """Raises LeakError where a composition (of two steps or more) is in a training support."""
  for name, trained in training.items():
    inside = np.asarray(trained.contains_all(compositions)) & (compositions.depth > 1)
    if np.any(inside):
      n = int(inside.sum())
      raise LeakError(f'eval.splits.{split}: {n} of its compositions are in training data {name}')
