"""Evaluation: a fixed set of problems by split and depth, traces of a model, and what they get
right.

A replicate draws the problems of a (split, depth) once, from its salt. They are the same for every
arm and step, so arms are compared problem by problem, and evaluating can't change training.
"""

import functools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from compgen_jax import typed
from compgen_jax.config import Config
from compgen_jax.experiment import attempts, kept, leaks, measures, points, processes
from compgen_jax.learning.setup import Setup
from compgen_jax.model.kernels import ceil_div
from compgen_jax.model.rollout import Rollout
from compgen_jax.task import tables
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.pools import replicate_salt
from compgen_jax.task.render import Rendered
from compgen_jax.task.support import Support, step_cap
from compgen_jax.task.verify import Verdict

MEASURES = (
  'traces',
  'failures',
  'modules',
  'samples',
)  # an end measured otherwise is measured again
SLACK = 8  # columns beyond the longest golden trace: an overlong trace is seen to be one


class Evaluation(NamedTuple):
  """What was measured of one replicate of an arm at one step.

  `rows`: dicts as in results.jsonl. `items`: 'SPLIT/DEPTH' -> bool[n], whether each problem was
  answered right. `traces`: of the first problems of each (split, depth), what was written: dicts
  `split`, `depth`, `problem` (its number), `prompt`, `trace` (the golden one), `written`,
  `alphabet` and `reserved`, as `verifier` takes them. (Not of splits with a prefix.)
  """

  rows: list[dict[str, Any]]
  items: dict[str, list[bool]]
  traces: Sequence[dict[str, Any]] = ()


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


class _Drawn(NamedTuple):
  """What a (split, depth) evaluates: all steps of its problems, of which `dry_B` are dry."""

  key: jax.Array
  steps: Composition
  dry_B: np.ndarray


class Evaluator:
  """Holds a replicate's problems of every split; call it on parameters.

  `step_cap`: steps of the longest problem, dry ones included.
  """

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
    self.step_cap = max(map(step_cap, self._support.values()))
    salt = replicate_salt(config.pools.salt, seed)
    self._key = jax.random.fold_in(jax.random.key(salt), zlib.crc32(b'evaluation problems'))
    self._drawn = {}
    for split, depth in self._support if cells is None else cells:
      support = supports[config.eval.splits[split]]
      drawn, compositions = self._draw(support, split, depth)
      if split not in config.eval.trained:
        leaks.require_unseen(
          split, compositions, drawn.steps, {name: supports[name] for name in training}
        )
      self._drawn[split, depth] = drawn

  def _draw(self, support: Support, split: str, depth: int) -> tuple[_Drawn, Composition]:
    """The steps of a cell's problems, and their compositions without dry steps."""
    key = jax.random.fold_in(jax.random.fold_in(self._key, zlib.crc32(split.encode())), depth)
    composition_key, problem_key = jax.random.split(key)
    n, cap = self._config.eval.problems, self.step_cap
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
    settings = {name: getattr(config.eval, name) for name in names}
    return typed.plain(settings | {'splits': splits, 'measures': MEASURES, 'kept': kept.KEPT})

  @property
  def steps(self) -> dict[tuple[str, int], tuple[Composition, np.ndarray]]:
    """(split, depth) -> all steps of its problems, and how many of each are dry (numpy, leading
    axis)."""
    return {cell: (drawn.steps, drawn.dry_B) for cell, drawn in self._drawn.items()}

  @functools.cached_property
  def problems(self) -> dict[tuple[str, int], tuple[Problem, Rendered]]:
    """(split, depth) -> its problems; drawn when first asked for, so that no training waits.

    As numpy arrays: each way in which rows are picked on a device is a small program, and while a
    large one is compiled these wait for their turn.
    """
    task, cap = self._config.task, self.step_cap
    return {
      cell: jax.device_get(attempts.posed(*drawn, self._support[cell].prefix, task, cap))
      for cell, drawn in self._drawn.items()
    }

  @property
  def rows(self) -> int:
    """Rows of a call of the program that evaluates."""
    return self._setup.rows_evaluated(self._config.eval.problems, len(self._drawn))

  def sample(
    self, params, split: str, depth: int, temperature: float, repeat: int = 1
  ) -> tuple[Rollout, Verdict]:
    """Traces, and verdicts on them, of `eval.problems` rows.

    The rows are the first problems of the (split, depth), each `repeat` times (neighbours).
    """
    problems, rendered = self._repeated((split, depth), repeat)
    prefix = self._support[split, depth].prefix
    return self.write(params, problems, rendered, temperature, prefix)

  def _repeated(self, cell: tuple[str, int], repeat: int) -> tuple[Problem, Rendered]:
    """The first problems of a cell, each `repeat` times, cut off at `eval.problems` rows."""
    n = self._config.eval.problems

    def pick(x):
      return np.repeat(x[: ceil_div(n, repeat)], repeat, axis=0)[:n]

    return jax.tree.map(pick, self.problems[cell])

  def write(
    self,
    params,
    problems: Problem,
    rendered: Rendered,
    temperature: float,
    prefix: int,
    sample_id_B: np.ndarray | None = None,
  ) -> tuple[Rollout, Verdict]:
    """Traces and verdicts for rows, of supports with this prefix.

    `sample_id_B`: int32, what a row's randomness comes from; its place by default.
    """
    task = self._config.task
    n_tokens = task.trace_width(self.step_cap) + SLACK  # for all cells, which share a program
    given_width = task.dry_width(prefix)
    if sample_id_B is None:
      sample_id_B = np.arange(rendered.trace_length.shape[0], dtype=np.int32)
    rows = params, problems, rendered, sample_id_B, self._key, temperature
    return processes.whole(
      processes.call(attempts.attempt, *rows, self._setup, n_tokens, given_width)
    )

  def _attempts(
    self,
    params,
    cells: dict[tuple[str, int], tuple[Problem, Rendered]],
    n: int,
    temperature: float,
  ) -> dict[tuple[str, int], tuple[Rollout, Verdict]]:
    """Traces of, and verdicts on, the first n rows of each cell."""
    found = {}
    for prefix in {self._support[cell].prefix for cell in cells}:  # which decides widths
      alike = {cell: posed for cell, posed in cells.items() if self._support[cell].prefix == prefix}

      def attempt(problems, rendered, ids, prefix=prefix):
        return self.write(params, problems, rendered, temperature, prefix, ids)

      found |= points.attempts(alike, n, self.rows, attempt)
    return found

  def __call__(self, params, arm: str, step: int, final: bool) -> Evaluation:
    """Evaluates parameters of the replicate.

    `final`: on all splits, with modules and pass@k; else a point of a learning curve: accuracies of
    `eval.curve_problems` problems on the splits of `eval.curve`.
    """
    if not final:
      return Evaluation(self._point(params, arm, step), {})
    task, ev = self._config.task, self._config.eval
    greedy = self._attempts(params, self.problems, ev.problems, 0.0)
    rates = self._pass_rates(params)
    rows, items, traces = [], {}, []
    for (split, depth), (problems, rendered) in self.problems.items():
      rollout, verdict = greedy[split, depth]
      measured = measures.of_traces(verdict)
      measured += measures.of_failures(verdict, problems)
      measured += measures.of_modules(verdict, problems, task)
      measured += rates.get((split, depth), [])
      rows += self._labelled(measured, arm, step, split, depth)
      items[f'{split}/{depth}'] = [bool(x) for x in verdict.answer]
      if not self._support[split, depth].prefix:
        place = {'split': split, 'depth': depth}
        traces += [place | trace for trace in kept.first_problems(rendered, rollout, task)]
    return Evaluation(rows, items, traces)

  def _point(self, params, arm: str, step: int) -> list[dict[str, Any]]:
    ev = self._config.eval
    cells = {cell: posed for cell, posed in self.problems.items() if cell[0] in ev.curve}
    n = min(ev.curve_problems or ev.problems, ev.problems)
    found = self._attempts(params, cells, n, 0.0)
    rows = []
    for split, depth in cells:
      rows += self._labelled(measures.of_traces(found[split, depth][1]), arm, step, split, depth)
    return rows

  def _labelled(
    self, measured: list[dict[str, Any]], arm: str, step: int, split: str, depth: int
  ) -> list[dict[str, Any]]:
    """Rows as in results.jsonl."""
    config = self._config
    label = dict(
      experiment=config.experiment,
      arm=arm,
      stage=config.stages[arm].kind,
      seed=self._seed,
      step=step,
      split=split,
      depth=depth,
    )
    return [label | row for row in measured]

  def _pass_rates(self, params) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """pass@k by (split, depth); {} where it is not asked for."""
    ev = self._config.eval
    if not ev.pass_k:
      return {}
    repeated = {cell: self._repeated(cell, ev.pass_samples) for cell in self.problems}
    n_problems, rates = ev.problems // ev.pass_samples, {}
    for cell, (_, verdict) in self._attempts(params, repeated, ev.problems, 1.0).items():
      correct = np.asarray(verdict.answer)[: n_problems * ev.pass_samples]
      correct = correct.reshape(n_problems, ev.pass_samples)
      rates[cell] = measures.of_samples(correct, ev.pass_k)
    return rates
