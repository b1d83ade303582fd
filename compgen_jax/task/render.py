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

The operands and results of *dry* steps (the first few of a problem, or all) are random strings. A
learner must not be trained on their letters. Dry steps show the format of a depth (which names
follow which) and nothing of any module. Supervised learning finds them in the trace. Who has to
solve the problem is *given* them: they are the end of the prompt (`give`).

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
  counts the `end` token. `dry_length` int32[]: so many leading columns of the trace are those of
  dry steps and the label that follows them (where noise ends is noise too); all columns where all
  steps are dry. After `give` they are the last columns of the prompt.
  """

  prompt: jax.Array
  prompt_length: jax.Array
  trace: jax.Array
  trace_length: jax.Array
  dry_length: jax.Array


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


def _joined(segments: list[_Segment]) -> _Segment:
  """The segments, one behind the other, as one."""
  tokens = jnp.concatenate([segment.tokens for segment in segments]).astype(jnp.int32)
  return _Segment(tokens, jnp.concatenate([segment.written for segment in segments]))


def _pack(segments: list[_Segment], width: int, pad: int) -> tuple[jax.Array, jax.Array]:
  """The written tokens in their order, padded on the right to `width`, and their number."""
  tokens, written = _joined(segments)
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

  def step(i, label, routing, skill, operand, result) -> tuple[_Segment, _Segment]:
    """What the prompt and the trace say of step i."""
    used = i < problem.composition.depth
    names = [label, task.routing_0 + routing, task.skill_0 + skill]
    shown = _segment(names, operand if task.trace == 'explicit' else None, used)
    return _segment(names, None, used), _joined([shown, _segment([label], result, used)])

  # One program for all steps: a copy for each of them would take seconds to compile.
  _, routing_L, skill_L = problem.composition
  results = jax.tree.map(lambda x: x[2:], problem.values)
  of_steps = jnp.arange(depth_cap), label_E[2:], routing_L, skill_L, problem.operands, results
  of_steps = jax.tree.map(lambda x: x[:depth_cap], of_steps)
  asked, worked = jax.tree.map(jnp.ravel, jax.vmap(step)(*of_steps))
  inputs = [_segment([label_E[i]], strings.at(problem.values, i)) for i in range(2)]
  prompt = [_segment([solve]), *inputs, asked, _segment([equals])]
  trace = [worked, _segment([equals], problem.answer), _segment([end])]

  prompt_width = task.prompt_width(depth_cap)
  prompt_P, prompt_length = _pack(prompt, prompt_width, task.pad)
  prompt_P = jnp.roll(prompt_P, prompt_width - prompt_length)
  trace_C, trace_length = _pack(trace, task.trace_width(depth_cap), task.pad)
  dry_length = _dry_length(problem, trace_length, task)
  return Rendered(prompt_P, prompt_length, trace_C, trace_length, dry_length)


def _dry_length(problem: Problem, trace_length: jax.Array, task: TaskConfig) -> jax.Array:
  length_L = 4 + problem.values.length[2:]  # of each step, in columns
  if task.trace == 'explicit':
    length_L += problem.operands.length
  is_dry_L = jnp.arange(length_L.shape[0]) < problem.dry
  with_label = jnp.sum(jnp.where(is_dry_L, length_L, 0)) + (problem.dry > 0)
  return jnp.where(problem.dry == problem.composition.depth, trace_length, with_label)


def give(rendered: Rendered, width: int, n_trace: int, task: TaskConfig) -> Rendered:
  """Moves the dry columns of one problem from its trace to the end of its prompt.

  Args:
    rendered: the problem.
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
  prompt_P: jax.Array, given: jax.Array, written_C: jax.Array, width: int, task: TaskConfig
) -> jax.Array:
  """int32[width + C]: the last `given` (at most `width`) columns of a prompt, and what follows
  it."""
  room = jnp.full((width,), task.pad, jnp.int32)
  tokens = jnp.concatenate([prompt_P, written_C, room])
  first = prompt_P.shape[0] - given
  return jax.lax.dynamic_slice_in_dim(tokens, first, width + written_C.shape[0])
