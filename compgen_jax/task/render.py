"""Problem -> tokens.

Values are *named*: the two inputs and each step's result carry consecutive labels (cyclic, random start), so that
a step at depth 5 looks like a step at depth 2. With labels A..., letters a..., for depth 2:

  prompt     solve A bca B dd  C earlier reverse  D merge successor  =
  explicit   C earlier reverse bca C acb   D merge successor acbdd D bdcee   = bdcee end
  compact    C earlier reverse C acb   D merge successor D bdcee   = bdcee end

The token after an entry `C earlier reverse` of the prompt (the next entry's label, or `=`) is the token after step
C's result in the trace: a trace of any depth is written by following the prompt's list, and ends where it ends.
The operands and results of *dry* steps, the first few of a problem or all of them, are random
strings. Their letters are noise, so a learner must not be told them: dry steps show the format of a
depth (which names follow which), and nothing of any module. Supervised learning sees them in the
trace; whoever is asked to solve the problem is *given* them (`give`).

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
  int32[]; `trace` int32[C], padded on the right; `trace_length` int32[] (the `end` token counts).
  `dry_length` int32[]: so many leading columns of the trace are those of dry steps, with the label
  that follows them (where noise ends is noise as well); all of them where all steps are dry. Behind
  `give` they are the last ones of the prompt.
  """

  prompt: jax.Array
  prompt_length: jax.Array
  trace: jax.Array
  trace_length: jax.Array
  dry_length: jax.Array


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
    _dry_length(problem, trace_length, task),
  )


def _dry_length(problem: Problem, trace_length: jax.Array, task: TaskConfig) -> jax.Array:
  step_length_L = 4 + problem.values.length[2:]
  if task.trace == 'explicit':
    step_length_L += problem.operands.length
  is_dry_L = jnp.arange(step_length_L.shape[0]) < problem.dry
  with_label = jnp.sum(jnp.where(is_dry_L, step_length_L, 0)) + (problem.dry > 0)
  return jnp.where(problem.dry == problem.composition.depth, trace_length, with_label)


def give(rendered: Rendered, width: int, n_trace: int, task: TaskConfig) -> Rendered:
  """The dry columns moved from the trace to the end of the prompt, for a policy to go on from.

  Args:
    rendered: of one problem.
    width: the most columns that are given (`task.dry_width`); the prompt becomes so much wider.
    n_trace: columns of the trace that is left.
    task: the task.
  """
  given = rendered.dry_length
  room = jnp.full((width,), task.pad, jnp.int32)
  n_prompt = width + rendered.prompt.shape[0]
  tokens = jnp.concatenate([room, rendered.prompt, rendered.trace, room])
  return rendered._replace(
    prompt=jax.lax.dynamic_slice_in_dim(tokens, given, n_prompt),
    prompt_length=rendered.prompt_length + given,
    trace=jax.lax.dynamic_slice_in_dim(tokens, n_prompt + given, n_trace),
    trace_length=rendered.trace_length - given,
  )


def whole_trace(
  prompt_P: jax.Array, given: jax.Array, trace_C: jax.Array, width: int, task: TaskConfig
) -> jax.Array:
  """int32[width + C]: the last `given` (at most `width`) columns of a prompt and what follows."""
  tokens = jnp.concatenate([prompt_P, trace_C, jnp.full((width,), task.pad, jnp.int32)])
  return jax.lax.dynamic_slice_in_dim(tokens, prompt_P.shape[0] - given, width + trace_C.shape[0])
