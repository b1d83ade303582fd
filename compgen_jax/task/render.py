"""Problem -> tokens.

Values are *named*: the two inputs and each step's result carry consecutive labels (cyclic, random start), so that
a step at depth 5 looks like a step at depth 2. With labels A..., letters a..., for depth 2:

  prompt     solve A bca B dd  C earlier reverse  D merge successor  =
  explicit   C earlier reverse bca C acb   D merge successor acbdd D bdcee   = bdcee end
  compact    C earlier reverse C acb   D merge successor D bdcee   = bdcee end

The token after an entry `C earlier reverse` of the prompt (the next entry's label, or `=`) is the token after step
C's result in the trace: a trace of any depth is written by following the prompt's list, and ends where it ends.
In a *dry* problem all operands and results are random strings. Its letters are noise, so a learner must not be told them:
dry traces show the format of a depth (which names follow which), and nothing of any module.

Modules appear only as opaque tokens; no definition is ever shown.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task.latent import Problem
from compgen_jax.task.strings import String
from compgen_jax.task.vocab import TaskConfig

TRACES = ('explicit', 'compact')


class Rendered(NamedTuple):
  """A problem's tokens, padded with `pad`.

  `prompt` int32[P], padded on the *left*, so that all rows' traces start in the same column; `prompt_length`
  int32[]; `trace` int32[C], padded on the right; `trace_length` int32[] (the `end` token counts); `dry` bool[].
  """

  prompt: jax.Array
  prompt_length: jax.Array
  trace: jax.Array
  trace_length: jax.Array
  dry: jax.Array


def _pack(
  tokens_N: jax.Array, present_N: jax.Array, width: int, pad: int
) -> tuple[jax.Array, jax.Array]:
  """The present tokens in their order, padded on the right to `width`, and how many there are."""
  at_N = jnp.where(present_N, jnp.cumsum(present_N) - 1, width)
  packed = jnp.full((width,), pad, jnp.int32).at[at_N].set(tokens_N.astype(jnp.int32), mode='drop')
  return packed, jnp.sum(present_N).astype(jnp.int32)


def _segment(heads: list[jax.Array], s: String | None) -> tuple[jax.Array, jax.Array]:
  """Head tokens and then a string's letters, as (tokens, present)."""
  tokens, present = jnp.stack(heads), jnp.ones((len(heads),), bool)
  if s is not None:
    tokens = jnp.concatenate([tokens, s.letters])
    present = jnp.concatenate([present, jnp.arange(s.width) < s.length])
  return tokens, present


def labels(problem: Problem, task: TaskConfig) -> jax.Array:
  """int32[V]: the label token of each value."""
  v = jnp.arange(problem.values.length.shape[0])
  return task.label_0 + (problem.first_label + v) % task.n_labels


def render(problem: Problem, task: TaskConfig, depth_cap: int) -> Rendered:
  """Tokens of one problem whose depth is at most `depth_cap` (which sets the widths)."""
  label_V = labels(problem, task)
  value = lambda i: jax.tree.map(lambda x: x[i], problem.values)
  token = lambda t: jnp.int32(t)

  prompt = [
    _segment([token(task.solve)], None),
    _segment([label_V[0]], value(0)),
    _segment([label_V[1]], value(1)),
  ]
  trace = []
  for i in range(depth_cap):
    used = i < problem.composition.depth
    entry = [
      label_V[i + 2],
      task.routing_0 + problem.composition.routing[i],
      task.skill_0 + problem.composition.skill[i],
    ]
    operand = jax.tree.map(lambda x: x[i], problem.operands) if task.trace == 'explicit' else None
    for parts, segment in ((prompt, _segment(entry, None)), (trace, _segment(entry, operand)),
                           (trace, _segment([label_V[i + 2]], value(i + 2)))):  # fmt: skip
      parts.append((segment[0], segment[1] & used))
  prompt.append(_segment([token(task.equals)], None))
  trace += [_segment([token(task.equals)], problem.answer), _segment([token(task.end)], None)]

  join = lambda parts: [jnp.concatenate(x) for x in zip(*parts)]
  prompt_width, trace_width = task.prompt_width(depth_cap), task.trace_width(depth_cap)
  prompt_P, prompt_length = _pack(*join(prompt), prompt_width, task.pad)
  trace_C, trace_length = _pack(*join(trace), trace_width, task.pad)
  return Rendered(
    jnp.roll(prompt_P, prompt_width - prompt_length),
    prompt_length,
    trace_C,
    trace_length,
    problem.dry,
  )
