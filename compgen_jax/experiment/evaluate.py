"""Accuracy by split, depth and module, with n and intervals, and unbiased pass@k.

The problems of a (split, depth) are drawn once, from the pools' salt: they are the same for every arm, seed and step, so
arms are compared pairwise on the same problems, and evaluating can't change training.
"""

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.config import Config
from compgen_jax.learning.exploration import attempt
from compgen_jax.learning.state import Setup, on_every_device
from compgen_jax.model.rollout import Rollout
from compgen_jax.task import latent, render
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.support import Support
from compgen_jax.task.verify import Verdict
from compgen_jax.task.vocab import TaskConfig

SLACK = 8  # columns beyond the longest golden trace, so that an overlong trace is seen to be one


class LeakError(RuntimeError):
  """An evaluated composition is in training data."""


class Evaluation(NamedTuple):
  """`rows`: dicts as in results.jsonl. `items`: (split, depth) -> bool[n] per seed, the answer verdict of each problem."""

  rows: list[dict[str, Any]]
  items: dict[str, list[list[bool]]]


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
  """The 95 % interval of a proportion (Wilson 1927)."""
  if n == 0:
    return 0.0, 1.0
  p = successes / n
  centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return float((centre - spread) / (1 + z * z / n)), float((centre + spread) / (1 + z * z / n))


def pass_at_k(correct_Q: np.ndarray, samples: int, k: int) -> float:
  """Mean over problems of 1 - C(samples - correct, k) / C(samples, k): unbiased (Chen et al. 2021, arXiv 2107.03374)."""
  wrong_Q = samples - correct_Q
  factors_Qxk = np.maximum(wrong_Q[:, None] - np.arange(k), 0) / (samples - np.arange(k))
  return float(np.mean(1.0 - np.prod(factors_Qxk, axis=1)))


@functools.partial(jax.jit, static_argnames=('task', 'step_cap', 'prefix'))
def _problems(
  key: jax.Array, compositions: Composition, n_dry, task: TaskConfig, step_cap: int, prefix: int
):
  keys = jax.random.split(key, compositions.depth.shape[0])
  problems = jax.vmap(lambda k, c, n: latent.sample(k, c, task, n if prefix else 0))(
    keys, compositions, n_dry
  )
  rendered = jax.vmap(lambda p: render.render(p, task, step_cap))(problems)
  if prefix:
    width, n_trace = task.dry_width(prefix), task.trace_width(step_cap)
    rendered = jax.vmap(lambda r: render.give(r, width, n_trace, task))(rendered)
  return problems, rendered


@functools.partial(jax.jit, static_argnames=('setup', 'n_tokens', 'given_width'))
def _judge(
  params,
  prompts_BxP,
  problems: Problem,
  length_B,
  given_B,
  key,
  temperature,
  setup: Setup,
  n_tokens: int,
  given_width: int,
) -> tuple[Rollout, Verdict]:
  """A trace and a verdict per row, the rows split over the devices."""

  def mine(params, prompts, problems, length_B, given_B, key, temperature):
    ids = setup.row_ids(0, prompts_BxP.shape[0])
    take = lambda tree: jax.tree.map(lambda x: x[ids], tree)
    rows = take(problems), take(prompts)
    return attempt(
      setup,
      params,
      *rows,
      key,
      ids[:, None],
      take(length_B),
      take(given_B),
      n_tokens=n_tokens,
      temperature=temperature,
      given_width=given_width,
    )

  return on_every_device(mine, setup, row_outputs=True)(
    params, prompts_BxP, problems, length_B, given_B, key, temperature
  )


class Evaluator:
  """Holds every split's problems; call it on parameters."""

  def __init__(
    self, config: Config, setup: Setup, supports: dict[str, Support], training: dict[str, Support]
  ):
    """Draws the compositions and checks them against `training` (name -> support).

    Raises:
      LeakError: a composition of a split that is not in `eval.trained` is in a training support.
    """
    self._config, self._setup = config, setup
    self.splits = {
      (split, depth): supports[config.eval.splits[split]]
      for split in config.ordered_splits
      for depth in sorted(supports[config.eval.splits[split]].config.depths)
    }
    self._step_cap = max(support.step_cap for support in self.splits.values())
    self._key = jax.random.fold_in(jax.random.key(config.pools.salt), zlib.crc32(b'evaluation'))
    self._compositions = {}
    for (split, depth), support in self.splits.items():
      key = jax.random.fold_in(jax.random.fold_in(self._key, zlib.crc32(split.encode())), depth)
      composition_key, problem_key = jax.random.split(key)
      compositions = support.sample_at_depth(
        composition_key, depth, config.eval.problems, self._step_cap
      )
      prefix_key = jax.random.fold_in(composition_key, zlib.crc32(b'prefix'))
      whole, n_dry = support.precede_all(prefix_key, compositions, self._step_cap)
      if split not in config.eval.trained:
        for name, trained in training.items():
          inside = np.asarray(trained.shows_all(compositions)) & (compositions.depth > 1)
          if support.config.prefix:
            inside |= np.asarray(trained.shows_all(whole)) & (whole.depth > 1)
          if np.any(inside):
            raise LeakError(
              f'eval.splits.{split}: {int(inside.sum())} of its compositions are in training data {name}'
            )
      self._compositions[split, depth] = problem_key, whole, n_dry

  @functools.cached_property
  def problems(self) -> dict[tuple[str, int], tuple[Problem, render.Rendered]]:
    """(split, depth) -> its problems; drawn when first asked for, so that no training waits for it."""
    task, cap = self._config.task, self._step_cap
    return {
      cell: _problems(*drawn, task, cap, self.splits[cell].config.prefix)
      for cell, drawn in self._compositions.items()
    }

  def sample(
    self,
    params,
    split: str,
    depth: int,
    temperature: float,
    key: jax.Array | None = None,
    repeat: int = 1,
  ):
    """Traces (Rollout) and verdicts of `eval.problems` rows: each of the first problems `repeat` times."""
    problems, rendered = self.problems[split, depth]
    n = self._config.eval.problems
    pick = lambda x: jnp.repeat(x[: -(-n // repeat)], repeat, axis=0)[:n]
    problems, prompts, lengths, given = jax.tree.map(
      pick, (problems, rendered.prompt, rendered.trace_length, rendered.dry_length)
    )
    n_tokens = rendered.trace.shape[1] + SLACK
    return _judge(
      params,
      prompts,
      problems,
      lengths,
      given,
      self._key if key is None else key,
      temperature,
      self._setup,
      n_tokens,
      self._config.task.dry_width(self.splits[split, depth].config.prefix),
    )

  def __call__(self, params, arm: str, step: int, final: bool) -> Evaluation:
    """Evaluates parameters with a leading seed axis; `final` adds modules and pass@k and takes all splits."""
    config = self._config
    rows, items = [], {}
    for (split, depth), (problems, _) in self.problems.items():
      if not final and split not in config.eval.curve:
        continue
      for s, seed in enumerate(config.all_seeds):
        label = dict(
          experiment=config.experiment,
          arm=arm,
          stage=config.stages[arm].kind,
          seed=seed,
          step=step,
          split=split,
          depth=depth,
        )
        one = jax.tree.map(lambda x: x[s], params)
        verdict = jax.device_get(self.sample(one, split, depth, 0.0)[1])
        measured = _rates(verdict)
        if final:
          measured += _module_rates(verdict, jax.device_get(problems), config.task)
          measured += self._pass_rates(one, split, depth)
          items.setdefault(f'{split}/{depth}', []).append([bool(x) for x in verdict.answer])
        rows += [label | row for row in measured]
    return Evaluation(rows, items)

  def _pass_rates(self, params, split: str, depth: int) -> list[dict[str, Any]]:
    ev = self._config.eval
    if not ev.pass_k:
      return []
    per_call = ev.problems // ev.pass_samples
    verdict = self.sample(params, split, depth, 1.0, repeat=ev.pass_samples)[1]
    correct_Q = (
      np.asarray(verdict.answer)[: per_call * ev.pass_samples]
      .reshape(per_call, ev.pass_samples)
      .sum(axis=1)
    )
    return [
      dict(metric=f'pass@{k}', value=pass_at_k(correct_Q, ev.pass_samples, k), n=per_call)
      for k in ev.pass_k
    ]


def _rate(metric: str, correct: np.ndarray, **more) -> dict[str, Any]:
  n, k = int(correct.size), int(np.sum(correct))
  low, high = wilson(k, n)
  return dict(metric=metric, value=k / n, n=n, low=low, high=high) | more


def _rates(verdict: Verdict) -> list[dict[str, Any]]:
  return [
    _rate('accuracy', verdict.answer),
    _rate('strict_accuracy', verdict.strict),
    _rate('structure_accuracy', verdict.structure),
  ]


def _module_rates(verdict: Verdict, problems: Problem, task: TaskConfig) -> list[dict[str, Any]]:
  """Share of a module's steps that are right given what the trace says before them, over well-structured traces.

  Compact traces do not show what was routed, so there a step is judged whole, as its skill's.
  """
  composition = problems.composition
  step = np.arange(composition.routing.shape[1])
  counted = verdict.structure[:, None] & (step < composition.depth[:, None])
  counted &= step >= problems.dry[:, None]
  rows = []
  for metric, index, ok, inventory in (
    ('routing_accuracy', composition.routing, verdict.operand_ok, task.routing_inventory),
    ('skill_accuracy', composition.skill, verdict.result_ok, task.skill_inventory),
  )[task.trace == 'compact' :]:
    for i, entry in enumerate(inventory):
      mine = counted & (index == i)
      if mine.any():
        rows.append(_rate(metric, ok[mine], module=entry.__name__))
  return rows
