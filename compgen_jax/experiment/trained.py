"""Finished runs from Python: a model that samples and scores traces, and the measurements."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax import verifier
from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import (
  ancestry,
  files,
  platform,
  problems,
  programs,
  run,
  stages,
  workdirs,
)
from compgen_jax.experiment.evaluate import SLACK, Evaluator
from compgen_jax.experiment.problems import TextProblem
from compgen_jax.experiment.rows import Rows, Texts
from compgen_jax.experiment.samples import Sample
from compgen_jax.experiment.supports import build_support
from compgen_jax.learning.losses import token_log_probs
from compgen_jax.model import rollout
from compgen_jax.model.transformer import Model
from compgen_jax.task import text
from compgen_jax.task.vocab import TaskConfig


class Score(NamedTuple):
  """`words`: the trace, token by token. `log_probs`: of each, in nats. `total`: their sum."""

  words: list[str]
  log_probs: list[float]
  total: float


@dataclasses.dataclass(frozen=True)
class Trained:
  """The model that a finished stage ended with.

  `step`: updates of the stage. `params`: parameters of one seed. `model`: pure functions of them
  (`model.transformer.Model`). `config`: the run's.
  """

  config: Config = dataclasses.field(repr=False)
  stage: str
  seed: int
  step: int
  model: Model = dataclasses.field(repr=False)
  params: Any = dataclasses.field(repr=False)

  @property
  def task(self) -> TaskConfig:
    """The task's settings and tokens."""
    return self.config.task

  def evaluate(
    self, what: str, depths: Sequence[int] | None = None, n: int | None = None
  ) -> list[dict[str, Any]]:
    """Measures the model as the run does at the end of a stage.

    Args:
      what: a split of the config, or a support of it. A split's problems are those of the run.
      depths: composition depths, which need not be the support's own unless it is finite (as the
        SFT compositions are); None is its own.
      n: problems per depth; None is `eval.problems`.

    Returns:
      Rows as in results.jsonl (a list of flat dicts; printed, a table).

    Raises:
      ConfigError: no such split or support, a dry one, or a depth or n that it can't have.
    """
    config, support, depths = _measuring(self.config, what, depths, n)
    built = {support: build_support(support, config, self.seed)}
    setup = run.build_setup(config, n_devices=1)
    cells = [(what, depth) for depth in depths]
    evaluator = Evaluator(config, setup, self.seed, built, training=(), cells=cells)
    return Rows(evaluator(self.params, self.stage, self.step, final=True).rows)

  def problems(self, support: str, n: int, depth: int | None = None) -> list[TextProblem]:
    """The first n problems of a support of the config (of one of its depths); always the same ones.

    Printed, each is its prompt and golden trace.

    Raises:
      ConfigError: no such support, one with dry steps, or none of its depths.
    """
    return Texts(problems.draw(self.config, support, n, depth, self.seed))

  def sample(
    self, what: TextProblem | str | tuple, n: int = 1, temperature: float = 1.0, seed: int = 0
  ) -> list[Sample]:
    """Traces that the model writes for one problem; printed, each with its first wrong step marked.

    Args:
      what: a problem of `problems`; a prompt as text; a text such as `bca dd: earlier reverse,
        merge successor`; or (inputs, steps) such as (('bca', 'dd'), [('earlier', 'reverse'),
        ('merge', 'successor')]).
      n: how many.
      temperature: 0 takes the most probable token each time.
      seed: of the randomness; sample i is a function of (seed, i).

    Raises:
      ConfigError: `what` is no problem of this task, or n or the temperature can't be; one line
        that says what is legal.
    """
    if n < 1 or temperature < 0:
      raise ConfigError(f'n={n!r}, temperature={temperature!r}: legal is n >= 1, temperature >= 0')
    problem = problems.read(what, self.task)
    tokens_BxC = self._write(self._columns(problem.prompt), n, temperature, seed)
    rewards = [None] * n
    if self.config.kind(self.stage).explores:
      reward = self.config.settings(self.stage).reward
      rewards = problems.rewards(problem, tokens_BxC, reward, self.task)
    return Texts(self._sample(problem, row, earned) for row, earned in zip(tokens_BxC, rewards))

  def attempt(self, drawn: Sequence[TextProblem]) -> list[Sample]:
    """The greedy trace for each of several problems of this task, all at once; without rewards."""
    prompts_BxP = np.concatenate([self._columns(problem.prompt) for problem in drawn])
    tokens_BxC = self._write(prompts_BxP, len(drawn), 0.0, 0)
    return Texts(self._sample(problem, row) for problem, row in zip(drawn, tokens_BxC))

  def _write(self, prompts_BxP: np.ndarray, n: int, temperature: float, seed: int) -> np.ndarray:
    """int32[n, C]: traces for so many prompts, or for one."""
    n_tokens, end = self.task.trace_width(self.task.max_depth) + SLACK, self.task.end
    key, ids = jax.random.key(seed), np.arange(n)
    model = self.model
    return np.asarray(
      _rollout(self.params, prompts_BxP, key, ids, float(temperature), model, n_tokens, end)
    )

  def _sample(self, problem: TextProblem, row: np.ndarray, reward: float | None = None) -> Sample:
    tokens = row.tolist()
    while tokens and tokens[-1] == self.task.pad:
      tokens = tokens[:-1]
    trace = text.spell(tokens, self.task)
    return Sample(problem, trace, **verifier.verify(problem.line(), trace), reward=reward)

  def score(self, what: TextProblem | str | tuple, trace: str) -> Score:
    """The log-probability of each token of a trace under the model (temperature 1).

    Args:
      what: the problem, as for `sample`.
      trace: text; it need not be right, nor end.

    Raises:
      ConfigError: `what` is no problem of this task, or a word of the trace is no token of it.
    """
    problem = problems.read(what, self.task)
    try:
      tokens = text.parse(trace, self.task)
    except ValueError as e:
      raise ConfigError(f'trace: {e}') from e
    if self.task.pad in tokens:
      raise ConfigError("trace: 'pad' stands for no token; legal are all other words of the task")
    # Of one width for all traces that a model samples, so that one program serves them.
    n_columns = max(len(tokens), self.task.trace_width(self.task.max_depth) + SLACK)
    trace_1xC = np.full((1, n_columns), self.task.pad, np.int32)
    trace_1xC[0, : len(tokens)] = tokens
    log_probs_C = _log_probs(self.params, self._columns(problem.prompt), trace_1xC, self.model)
    log_probs = np.asarray(log_probs_C)[: len(tokens)].astype(float).tolist()
    names = self.task.token_names()
    return Score([names[token] for token in tokens], log_probs, sum(log_probs))

  def _columns(self, prompt: str) -> np.ndarray:
    """int32[1, P]: the prompt's tokens, padded on the left."""
    tokens = text.parse(prompt, self.task)
    width = self.task.prompt_width(self.task.max_depth)
    prompt_1xP = np.full((1, width), self.task.pad, np.int32)
    prompt_1xP[0, width - len(tokens) :] = tokens
    return prompt_1xP


@functools.partial(jax.jit, static_argnames=('model', 'n_tokens', 'end'))
def _rollout(params, prompts_BxP, key, ids_B, temperature, model: Model, n_tokens: int, end: int):
  sampled = rollout.rollout(
    model, params, prompts_BxP, key, ids_B, n_tokens=n_tokens, end=end, temperature=temperature
  )
  return sampled.tokens


@functools.partial(jax.jit, static_argnames='model')
def _log_probs(params, prompt_1xP, trace_1xC, model: Model) -> jax.Array:
  tokens_1xT = jnp.concatenate([prompt_1xP, trace_1xC], axis=1)
  logits_1xCxV = model.apply(params, tokens_1xT, start=prompt_1xP.shape[1] - 1)[:, :-1]
  return token_log_probs(logits_1xCxV, trace_1xC)[0]


def _measuring(
  config: Config, what: str, depths: Sequence[int] | None, n: int | None
) -> tuple[Config, str, tuple[int, ...]]:
  """The config with `what` among its splits and n problems a cell, its support, and the depths."""
  ev, n = config.eval, config.eval.problems if n is None else n
  named = {name: name for name in config.supports} | ev.splits
  legal = [name for name in named if not config.supports[named[name]].dry]
  if what not in legal:
    raise ConfigError(f'evaluate({what!r}): legal is {" | ".join(sorted(legal))}')
  support = config.supports[named[what]]
  deepest = config.task.max_depth - support.prefix
  possible = support.depths if support.compositions else tuple(range(1, deepest + 1))
  depths = support.depths if depths is None else tuple(depths)
  if not depths or not set(depths) <= set(possible) or len(set(depths)) < len(depths):
    legal = f'some of {", ".join(map(str, possible))}, each once'
    raise ConfigError(f'depths={depths!r}: legal for {what} is {legal}')
  if n < 2:
    raise ConfigError(f'n={n!r}: legal is 2 or more')
  # Its own depths stay: how wide the programs are depends on the deepest.
  widened = dataclasses.replace(support, depths=tuple(dict.fromkeys((*support.depths, *depths))))
  pass_k = ev.pass_k if n >= ev.pass_samples else ()
  ev = dataclasses.replace(ev, splits=ev.splits | {what: named[what]}, problems=n, pass_k=pass_k)
  supports = config.supports | {named[what]: widened}
  return dataclasses.replace(config, supports=supports, eval=ev), named[what], depths


# From a workdir -----------------------------------------------------------------------------------


def load(workdir: str | os.PathLike, stage: str, seed: int | None = None) -> Trained:
  """The model of a finished stage of a run.

  Args:
    workdir: the folder of the run.
    stage: an entry of the config's `stages`.
    seed: one of the run's seeds; None is the first.

  Raises:
    ConfigError: no such run, stage or seed; one line that says what is legal.
    CheckpointError: the stage has not finished, or its checkpoint can't be read.
  """
  return restore(workdirs.read_config(workdir), workdir, stage, seed)


def restore(
  config: Config,
  workdir: str | os.PathLike,
  stage: str,
  seed: int | None = None,
  newest: bool = False,
) -> Trained:
  """As `load`, by a config under which the stage would have been trained likewise.

  `newest`: takes the newest checkpoint of a stage that has not finished.
  """
  if stage not in config.stages:
    raise ConfigError(f'stage={stage!r}: legal is {" | ".join(config.stages)}')
  if seed is not None and seed not in config.all_seeds:
    raise ConfigError(f'seed={seed!r}: legal is {" | ".join(map(str, config.all_seeds))}')
  seed = config.all_seeds[0] if seed is None else seed
  platform.prepare()
  base = run.build_setup(config, n_devices=1)
  built = programs.build(stage, config, base, pathlib.Path(workdir))
  step = stages.newest_checkpoint(built.record(seed)) if newest else 0
  params = stages.trained_params(built, (seed,), step or built.steps)
  params = jax.tree.map(lambda x: x[0], params)
  return Trained(config, stage, seed, step or built.steps, base.model, params)


def parent(config: Config, workdir: str | os.PathLike, stage: str, seed: int | None) -> Trained:
  """The model that a stage started from, of the same run or of another."""
  foreign = config.stages[stage].foreign_parent
  if foreign:
    return restore(ancestry.adopted(config, foreign[0]), *foreign, seed)
  return restore(config, workdir, config.stages[stage].parent, seed)


def read(workdir: str | os.PathLike) -> list[dict]:
  """The rows of a run's results.jsonl (or results.jsonl.gz): flat dicts, as `pandas.DataFrame`
  takes them.

  Raises:
    ConfigError: there is none (yet).
  """
  path = workdirs.results_in(pathlib.Path(workdir))
  if not path.is_file():
    raise ConfigError(
      f'workdir={str(workdir)!r}: no results.jsonl; legal is the folder of a finished run'
    )
  return Rows(files.read_jsonl(path))
