"""Problem -> tokens.

Every value has a label. The two inputs and the results carry consecutive labels that start at a
random one and go round, so that a step at depth 5 looks like a step at depth 2. With labels A...,
letters a..., for depth 2:

  prompt     solve A bca B dd  C earlier reverse  D merge successor  =
  explicit   C earlier reverse bca C acb   D merge successor acbdd D bdcee   = bdcee end
  compact    C earlier reverse C acb   D merge successor D bdcee   = bdcee end

Prompt and trace name the steps in the same order. In both, what comes after step C is the label of
the next step, or `=` if there is none. So a trace of any depth can be written by following the
prompt's list, and ends where the list ends.

In a *dry* problem all operands and results are random strings. A learner must not be trained on its
letters. Dry traces show the format of a depth (which names follow which) and nothing of any module.

Modules appear as opaque tokens; no definition is ever shown.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task import strings
from compgen_jax.task.latent import Problem
from compgen_jax.task.strings import String
from compgen_jax.task.vocab import TaskConfig

TRACES = ('explicit', 'compact')


class Rendered(NamedTuple):
  """A problem's tokens, padded with `pad`.

  `prompt` int32[P], padded on the *left*, so that all rows' traces start in the same column;
  `prompt_length` int32[]; `trace` int32[C], padded on the right; `trace_length` int32[], which
  counts the `end` token; `dry` bool[].
  """

  prompt: jax.Array
  prompt_length: jax.Array
  trace: jax.Array
  trace_length: jax.Array
  dry: jax.Array


class _Segment(NamedTuple):
  """Tokens, and which of them are written (bool, of the same length)."""

  tokens: jax.Array
  written: jax.Array


def _segment(markers: list[jax.Array], s: String | None = None, used: jax.Array | bool = True):
  """Marker tokens and then a string's letters; nothing is written unless `used` (bool[])."""
  tokens, written = jnp.stack(markers), jnp.ones((len(markers),), bool)
  if s is not None:
    tokens = jnp.concatenate([tokens, s.letters])
    written = jnp.concatenate([written, jnp.arange(s.width) < s.length])
  return _Segment(tokens, written & used)


def _pack(segments: list[_Segment], width: int, pad: int) -> tuple[jax.Array, jax.Array]:
  """The written tokens in their order, padded on the right to `width`, and their number."""
  tokens = jnp.concatenate([segment.tokens for segment in segments]).astype(jnp.int32)
  written = jnp.concatenate([segment.written for segment in segments])
  column = jnp.where(written, jnp.cumsum(written) - 1, width)
  packed = jnp.full((width,), pad, jnp.int32).at[column].set(tokens, mode='drop')
  return packed, jnp.sum(written).astype(jnp.int32)


def labels(problem: Problem, task: TaskConfig) -> jax.Array:
  """int32[E]: the label token of each value."""
  value_E = jnp.arange(problem.values.length.shape[0])
  return task.label_0 + (problem.first_label + value_E) % task.n_labels


def render(problem: Problem, task: TaskConfig, depth_cap: int) -> Rendered:
  """Tokens of one problem whose depth is at most `depth_cap`, which sets the widths."""
  label_E = labels(problem, task)
  solve, equals, end = (jnp.int32(token) for token in (task.solve, task.equals, task.end))

  prompt = [_segment([solve])]
  prompt += [_segment([label_E[i]], strings.at(problem.values, i)) for i in range(2)]
  trace = []
  for i in range(depth_cap):
    used = i < problem.composition.depth
    label = label_E[i + 2]
    routing = task.routing_0 + problem.composition.routing[i]
    skill = task.skill_0 + problem.composition.skill[i]
    operand = strings.at(problem.operands, i) if task.trace == 'explicit' else None
    prompt.append(_segment([label, routing, skill], None, used))
    trace.append(_segment([label, routing, skill], operand, used))
    trace.append(_segment([label], strings.at(problem.values, i + 2), used))
  prompt.append(_segment([equals]))
  trace += [_segment([equals], problem.answer), _segment([end])]

  prompt_width = task.prompt_width(depth_cap)
  prompt_P, prompt_length = _pack(prompt, prompt_width, task.pad)
  prompt_P = jnp.roll(prompt_P, prompt_width - prompt_length)
  trace_C, trace_length = _pack(trace, task.trace_width(depth_cap), task.pad)
  return Rendered(prompt_P, prompt_length, trace_C, trace_length, problem.dry)
