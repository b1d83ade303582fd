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
from compgen_jax.learning import batches, exploration
from compgen_jax.learning.setup import Setup
from compgen_jax.model.kernels import ceil_div
from compgen_jax.model.rollout import Rollout
from compgen_jax.task import tables
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.pools import replicate_salt
from compgen_jax.task.render import Rendered
from compgen_jax.task.support import Support, step_cap
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


@functools.partial(jax.jit, static_argnames=('prefix', 'task', 'step_cap'))
def _problems(
  key: jax.Array,
  steps: Composition,
  dry_B: jax.Array,
  prefix: int,
  task: TaskConfig,
  step_cap: int,
) -> tuple[Problem, Rendered]:
  """Problems to be solved: their dry steps, `prefix` at most, are given."""
  key_B = jax.random.split(key, steps.depth.shape[0])
  dry = dry_B if prefix else 0
  problems, rendered = batches.make(key_B, steps, dry, task, step_cap)
  return problems, exploration.give(rendered, prefix, step_cap, task)


@functools.partial(jax.jit, static_argnames=('setup', 'n_tokens', 'given_width'))
def _attempt(
  params,
  problems: Problem,
  rendered: Rendered,
  key,
  temperature,
  setup: Setup,
  n_tokens: int,
  given_width: int,
) -> tuple[Rollout, Verdict]:
  """A trace and a verdict per row, the rows split over the devices."""

  def mine(params, problems, rendered, key, temperature):
    ids = setup.devices.row_ids(0, rendered.trace_length.shape[0])
    problems, rendered = jax.tree.map(lambda x: x[ids], (problems, rendered))
    return exploration.attempt(
      setup,
      params,
      problems,
      rendered,
      key,
      ids[:, None],
      n_tokens=n_tokens,
      temperature=temperature,
      given_width=given_width,
    )

  on_all = setup.devices.shared(mine, row_outputs=True)
  return on_all(params, problems, rendered, key, temperature)


class _Drawn(NamedTuple):
  """What a (split, depth) evaluates: all steps of its problems, of which `dry_B` are dry."""

  key: jax.Array
  steps: Composition
  dry_B: np.ndarray


class Evaluator:
  """Holds a replicate's problems of every split; call it on parameters."""

  def __init__(
    self,
    config: Config,
    setup: Setup,
    seed: int,
    supports: dict[str, Support],
    training: Iterable[str],
    cells: Iterable[tuple[str, int]] | None = None,
  ):
    """Draws the compositions and checks them against the supports that are called in `training`.

    `cells`: the (split, depth)s to evaluate; all by default. `supports` holds theirs, and those of
    `training`.

    Raises:
      LeakError: a composition of a split that is not in `eval.trained` is in a training support.
    """
    self._config, self._setup, self._seed = config, setup, seed
    self._support = {
      (split, depth): config.supports[config.eval.splits[split]]
      for split in config.ordered_splits
      for depth in sorted(config.supports[config.eval.splits[split]].depths)
    }
    self._step_cap = max(map(step_cap, self._support.values()))
    salt = replicate_salt(config.pools.salt, seed)
    self._key = jax.random.fold_in(jax.random.key(salt), zlib.crc32(b'evaluation problems'))
    self._drawn = {}
    for split, depth in self._support if cells is None else cells:
      support = supports[config.eval.splits[split]]
      drawn, compositions = self._draw(support, split, depth)
      if split not in config.eval.trained:
        _require_unseen(
          split, compositions, drawn.steps, {name: supports[name] for name in training}
        )
      self._drawn[split, depth] = drawn

  def _draw(self, support: Support, split: str, depth: int) -> tuple[_Drawn, Composition]:
    """The steps of a cell's problems, and their compositions without dry steps."""
    key = jax.random.fold_in(jax.random.fold_in(self._key, zlib.crc32(split.encode())), depth)
    composition_key, problem_key = jax.random.split(key)
    n, cap = self._config.eval.problems, self._step_cap
    compositions = tables.sample_at_depth(support, composition_key, depth, n, cap)
    prefix_key = jax.random.fold_in(composition_key, zlib.crc32(b'prefix'))
    steps, dry_B = support.precede_all(prefix_key, compositions, cap)
    return _Drawn(problem_key, steps, dry_B), compositions

  @property
  def settings(self) -> dict[str, Any]:
    """What the results at the end of a stage depend on, beside the parameters: plain data."""
    config = self._config
    splits = {
      split: typed.plain(config.supports[support]) for split, support in config.eval.splits.items()
    }
    names = ('problems', 'pass_k', 'pass_samples')
    return typed.plain({name: getattr(config.eval, name) for name in names} | {'splits': splits})

  @property
  def steps(self) -> dict[tuple[str, int], tuple[Composition, np.ndarray]]:
    """(split, depth) -> all steps of its problems, and how many of each are dry (numpy, leading
    axis)."""
    return {cell: (drawn.steps, drawn.dry_B) for cell, drawn in self._drawn.items()}

  @functools.cached_property
  def problems(self) -> dict[tuple[str, int], tuple[Problem, Rendered]]:
    """(split, depth) -> its problems; drawn when first asked for, so that no training waits."""
    task, cap = self._config.task, self._step_cap
    return {
      cell: _problems(*drawn, self._support[cell].prefix, task, cap)
      for cell, drawn in self._drawn.items()
    }

  def sample(
    self, params, split: str, depth: int, temperature: float, repeat: int = 1
  ) -> tuple[Rollout, Verdict]:
    """Traces, and verdicts on them, of `eval.problems` rows.

    The rows are the first problems of the (split, depth), each `repeat` times (neighbours).
    """
    n, task = self._config.eval.problems, self._config.task

    def pick(x):
      return jnp.repeat(x[: ceil_div(n, repeat)], repeat, axis=0)[:n]

    problems, rendered = jax.tree.map(pick, self.problems[split, depth])
    n_tokens = task.trace_width(self._step_cap) + SLACK  # for all cells, which share a program
    given_width = task.dry_width(self._support[split, depth].prefix)
    return _attempt(
      params, problems, rendered, self._key, temperature, self._setup, n_tokens, given_width
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
        measured += measures.of_modules(verdict, jax.device_get(problems), config.task)
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


def _require_unseen(
  split: str, compositions: Composition, steps: Composition, training: dict[str, Support]
) -> None:
  """Raises LeakError where training can show a composition, or a problem's whole list of steps.

  (Those of two steps or more: atoms are the inventory.)
  """
  is_prefixed = np.any(steps.depth != compositions.depth)
  lists = (compositions, steps) if is_prefixed else (compositions,)  # else they are the same
  for name, trained in training.items():
    inside = np.zeros(compositions.depth.shape, bool)
    for listed in lists:
      inside |= np.asarray(trained.shows_all(listed)) & (listed.depth > 1)
    if np.any(inside):
      n = int(inside.sum())
      raise LeakError(
        f'eval.splits.{split}: {n} of its compositions are in training data {name}; '
        'legal is a support of a pool that no stage trains on'
      )
