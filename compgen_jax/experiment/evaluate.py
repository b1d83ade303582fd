"""Accuracy by split, depth and module, with n and intervals, and unbiased pass@k.

The problems of a (split, depth) are drawn once, from the pools' salt: they are the same for every
arm, seed and step, so arms are compared pairwise on the same problems, and evaluating can't change
training.
"""

import functools
import math
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.config import Config
from compgen_jax.learning.exploration import attempt
from compgen_jax.learning.state import Setup, on_every_device
from compgen_jax.model.rollout import Rollout
from compgen_jax.statistics import pass_at_k, wilson
from compgen_jax.task import latent, render
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.support import Support
from compgen_jax.task.verify import Verdict
from compgen_jax.task.vocab import TaskConfig

SLACK = 8  # columns beyond the longest golden trace, so that an overlong trace is seen to be one


class LeakError(RuntimeError):
  """An evaluated composition is in training data."""


class Evaluation(NamedTuple):
  """What was measured of one arm at one step.

  rows: dicts as in results.jsonl.
  items: 'SPLIT/DEPTH' -> bool[seeds, n], whether each problem was answered right.
  """

  rows: list[dict[str, Any]]
  items: dict[str, list[list[bool]]]


@functools.partial(jax.jit, static_argnames=('task', 'depth_cap'))
def _problems(key: jax.Array, compositions: Composition, task: TaskConfig, depth_cap: int):
  keys = jax.random.split(key, compositions.depth.shape[0])
  problems = jax.vmap(lambda k, c: latent.sample(k, c, task))(keys, compositions)
  return problems, jax.vmap(lambda p: render.render(p, task, depth_cap))(problems)


@functools.partial(jax.jit, static_argnames=('setup', 'n_tokens'))
def _judge(
  params, prompts_BxP, problems: Problem, length_B, key, temperature, setup: Setup, n_tokens: int
) -> tuple[Rollout, Verdict]:
  """A trace and a verdict per row, the rows split over the devices."""

  def mine(params, prompts, problems, length_B, key, temperature):
    ids = setup.row_ids(0, prompts_BxP.shape[0])

    def take(tree):
      return jax.tree.map(lambda x: x[ids], tree)

    rows = take(problems), take(prompts)
    return attempt(
      setup,
      params,
      *rows,
      key,
      ids[:, None],
      take(length_B),
      n_tokens=n_tokens,
      temperature=temperature,
    )

  return on_every_device(mine, setup, row_outputs=True)(
    params, prompts_BxP, problems, length_B, key, temperature
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
    self._depth_cap = max(depth for _, depth in self.splits)
    self._key = jax.random.fold_in(jax.random.key(config.pools.salt), zlib.crc32(b'evaluation'))
    self._compositions = {}
    for (split, depth), support in self.splits.items():
      key = jax.random.fold_in(jax.random.fold_in(self._key, zlib.crc32(split.encode())), depth)
      composition_key, problem_key = jax.random.split(key)
      compositions = support.sample_at_depth(
        composition_key, depth, config.eval.problems, self._depth_cap
      )
      if split not in config.eval.trained:
        for name, trained in training.items():
          inside = np.asarray(trained.contains_all(compositions))
          if np.any(inside & (np.asarray(compositions.depth) > 1)):
            n = int(inside.sum())
            raise LeakError(
              f'eval.splits.{split}: {n} of its compositions are in training data {name}'
            )
      self._compositions[split, depth] = problem_key, compositions

  @functools.cached_property
  def problems(self) -> dict[tuple[str, int], tuple[Problem, render.Rendered]]:
    """(split, depth) -> its problems, drawn when first asked for: no training waits for them."""
    task, cap = self._config.task, self._depth_cap
    return {
      place: _problems(key, compositions, task, cap)
      for place, (key, compositions) in self._compositions.items()
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
    """Traces (Rollout) and verdicts of `eval.problems` rows, problem after problem.

    Each of the first problems stands in `repeat` rows, so that it is sampled as often.
    """
    problems, rendered = self.problems[split, depth]
    n = self._config.eval.problems
    n_different = math.ceil(n / repeat)

    def pick(x):
      return jnp.repeat(x[:n_different], repeat, axis=0)[:n]

    problems, prompts, lengths = jax.tree.map(
      pick, (problems, rendered.prompt, rendered.trace_length)
    )
    n_tokens = rendered.trace.shape[1] + SLACK
    return _judge(
      params,
      prompts,
      problems,
      lengths,
      self._key if key is None else key,
      temperature,
      self._setup,
      n_tokens,
    )

  def __call__(self, params, arm: str, step: int, final: bool) -> Evaluation:
    """Evaluates parameters with a leading seed axis.

    The final evaluation takes all splits, not only those of `eval.curve`, and adds modules and
    pass@k.
    """
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
          measured += _module_rates(verdict, jax.device_get(problems.composition), config.task)
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


def _module_rates(
  verdict: Verdict, composition: Composition, task: TaskConfig
) -> list[dict[str, Any]]:
  """Share of a module's steps that are right given what the trace says before them.

  Only traces of right structure count. Compact traces do not show what was routed, so there a step
  is judged whole, as its skill's.
  """
  step = np.arange(composition.routing.shape[1])
  counted = verdict.structure[:, None] & (step < composition.depth[:, None])
  routing = ('routing_accuracy', composition.routing, verdict.operand_ok, task.routing_inventory)
  skill = ('skill_accuracy', composition.skill, verdict.result_ok, task.skill_inventory)
  rows = []
  for metric, index, ok, inventory in (skill,) if task.trace == 'compact' else (routing, skill):
    for i, entry in enumerate(inventory):
      mine = counted & (index == i)
      if mine.any():
        rows.append(_rate(metric, ok[mine], module=entry.__name__))
  return rows
