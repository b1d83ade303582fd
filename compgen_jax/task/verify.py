"""What a trace gets right: defined for any tokens, exact, on device.

The paper's reward is probably an exact match of the answer alone. Reports of the paper say so; this
was not checked against the paper itself. The stricter verdicts tell *why* a trace fails: its
structure, a routing mechanism, or a skill.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task import modules, routing, strings
from compgen_jax.task.latent import Problem
from compgen_jax.task.render import labels
from compgen_jax.task.strings import String
from compgen_jax.task.vocab import TaskConfig


class Verdict(NamedTuple):
  """Verdicts on one trace.

  answer: bool[], the trace ends, and the letters between its last `=` and its `end` are the answer.
  structure: bool[], the right modules in the right order, as many as asked, every string behind its
    label.
  strict: bool[], the answer, the structure, and every operand and result are right.
  operand_ok: bool[L], step i's operand is what its routing mechanism makes of what the trace itself
    says before it. A compact trace shows no operands; there it is always true.
  result_ok: bool[L], step i's result is what its skill makes of the operand that the trace says; in
    a compact trace, of the operand that its routing mechanism makes.

  Where the structure is wrong, beyond the depth, and in dry steps (of whose letters none is right),
  `operand_ok` and `result_ok` are false.
  """

  answer: jax.Array
  structure: jax.Array
  strict: jax.Array
  operand_ok: jax.Array
  result_ok: jax.Array


class Said(NamedTuple):
  """The strings of a trace whose structure is right, as the trace has them; else without meaning.

  values: leading axis E, the problem's inputs and then a result a step. operands: leading axis L;
  those of a compact trace mean nothing. A length is what the trace says, so it can be 0 or above
  the width cap.
  """

  values: String
  operands: String


class _Trace(NamedTuple):
  """A trace up to its first `end`; what follows is ignored.

  tokens: int32[C].
  ended: bool[], there is an `end`.
  end: int32[], the column of the first `end`; C if there is none.
  is_marker: bool[C], the tokens before it that are not letters.
  markers: int32[4 * L + 2], the columns of the first markers; C where there are no more.
  """

  tokens: jax.Array
  ended: jax.Array
  end: jax.Array
  is_marker: jax.Array
  markers: jax.Array


def _parse(trace_C: jax.Array, depth_cap: int, task: TaskConfig) -> _Trace:
  """Finds the end and the markers of a trace."""
  n_columns = trace_C.shape[0]
  column_C = jnp.arange(n_columns, dtype=jnp.int32)
  is_end_C = trace_C == task.end
  ended = jnp.any(is_end_C)
  end = jnp.where(ended, jnp.argmax(is_end_C), n_columns)
  is_letter_C = (0 <= trace_C) & (trace_C < task.alphabet)
  is_marker_C = (column_C < end) & ~is_letter_C
  # Four a step, `=`, and one more, which ends the string behind `=`.
  n_markers = 4 * depth_cap + 2
  slot_C = jnp.where(is_marker_C, jnp.cumsum(is_marker_C) - 1, n_markers)
  markers = jnp.full((n_markers,), n_columns, jnp.int32).at[slot_C].set(column_C, mode='drop')
  return _Trace(trace_C, ended, end, is_marker_C, markers)


def _string_between(trace: _Trace, start: jax.Array, stop: jax.Array, width: int) -> String:
  """The letters behind column `start` and before column `stop`.

  The length is what the trace says, so it can be 0 or above the width cap.
  """
  columns_W = start + 1 + jnp.arange(width)
  tokens_W = trace.tokens[jnp.clip(columns_W, 0, trace.tokens.shape[0] - 1)]
  letters_W = jnp.where(columns_W < stop, tokens_W, 0)
  return String(letters_W.astype(jnp.int32), (stop - start - 1).astype(jnp.int32))


def _answer_is_right(trace: _Trace, answer: String, task: TaskConfig) -> jax.Array:
  """bool[]: the trace ends, and between its last `=` and its end is `answer` and nothing else."""
  column_C = jnp.arange(trace.tokens.shape[0])
  is_equals_C = (trace.tokens == task.equals) & (column_C < trace.end)
  equals = jnp.max(jnp.where(is_equals_C, column_C, -1))
  said = _string_between(trace, equals, trace.end, task.width)
  letters_only = ~jnp.any(trace.is_marker & (column_C > equals))
  return trace.ended & (equals >= 0) & letters_only & strings.equal(said, answer)


def _structure_is_right(trace: _Trace, problem: Problem, task: TaskConfig) -> jax.Array:
  """bool[]: the trace ends, and its markers are the right ones in the right places.

  These are (label, routing mechanism, skill, label) a step, and then `=`. Letters may not come
  before the first marker, nor between a label and its modules. In a compact trace they may not come
  between the skill and the label of the result either.
  """
  composition = problem.composition
  depth, depth_cap = composition.depth, composition.routing.shape[0]
  label_L = labels(problem, task)[2:]
  routing_L = task.routing_0 + composition.routing
  skill_L = task.skill_0 + composition.skill
  expected_Lx4 = jnp.stack([label_L, routing_L, skill_L, label_L], axis=1)
  expected = jnp.append(expected_Lx4.reshape(-1), task.equals)
  expected = jnp.where(jnp.arange(4 * depth_cap + 1) == 4 * depth, task.equals, expected)
  ordinal_C = jnp.cumsum(trace.is_marker) - 1
  is_expected_C = trace.tokens == expected[jnp.clip(ordinal_C, 0, 4 * depth_cap)]
  right_number = jnp.sum(trace.is_marker) == 4 * depth + 1
  right_markers = right_number & jnp.all(is_expected_C | ~trace.is_marker)

  # This many columns behind a step's label is the last marker that no letters may precede.
  n_adjacent = 2 if task.trace == 'explicit' else 3
  step_L = jnp.arange(depth_cap)
  distance_L = trace.markers[4 * step_L + n_adjacent] - trace.markers[4 * step_L]
  no_letters_between = jnp.all((distance_L == n_adjacent) | (step_L >= depth))
  return trace.ended & right_markers & no_letters_between & (trace.markers[0] == 0)


def _said(trace: _Trace, problem: Problem, task: TaskConfig) -> Said:
  step_L = jnp.arange(problem.composition.routing.shape[0])

  def string_behind(i):
    return _string_between(trace, trace.markers[i], trace.markers[i + 1], task.width)

  operands = jax.vmap(string_behind)(4 * step_L + 2)
  results = jax.vmap(string_behind)(4 * step_L + 3)
  inputs = jax.tree.map(lambda v: v[:2], problem.values)
  return Said(strings.join(inputs, results), operands)


def is_proper(s: String, task: TaskConfig) -> jax.Array:
  """bool: the string (any leading axes) has 1 to W letters. Modules are defined for no other."""
  return (s.length >= 1) & (s.length <= task.width)


def _steps_are_right(said: Said, problem: Problem, task: TaskConfig) -> tuple[jax.Array, jax.Array]:
  """`(operand_ok, result_ok)`, both bool[L], for traces whose structure is right."""
  composition = problem.composition

  def verify_step(i):
    sources = routing.sources(said.values, i)
    operand = modules.apply(task.routing_inventory, composition.routing[i], sources, task.alphabet)
    operand_ok = jnp.bool_(True)
    if task.trace == 'explicit':
      said_operand = strings.at(said.operands, i)
      operand_ok = is_proper(said_operand, task) & strings.equal(said_operand, operand)
      operand = said_operand
    result = modules.apply(task.skill_inventory, composition.skill[i], operand, task.alphabet)
    said_result = strings.at(said.values, i + 2)
    result_ok = strings.equal(said_result, result)
    result_ok &= is_proper(operand, task) & is_proper(said_result, task)
    return operand_ok, result_ok

  return jax.vmap(verify_step)(jnp.arange(composition.routing.shape[0]))


def verify(problem: Problem, trace_C: jax.Array, task: TaskConfig) -> Verdict:
  """Verdicts on one trace (int32[C], any values) of one problem, its dry steps included."""
  return read(problem, trace_C, task)[0]


def read(problem: Problem, trace_C: jax.Array, task: TaskConfig) -> tuple[Verdict, Said]:
  """The verdicts on a trace, and what it says; see `verify`."""
  depth, depth_cap = problem.composition.depth, problem.composition.routing.shape[0]
  trace = _parse(trace_C, depth_cap, task)
  answer = _answer_is_right(trace, problem.answer, task)
  structure = _structure_is_right(trace, problem, task)
  said = _said(trace, problem, task)
  operand_ok, result_ok = _steps_are_right(said, problem, task)
  step_L = jnp.arange(depth_cap)
  used_L = (problem.dry <= step_L) & (step_L < depth)
  strict = answer & structure & jnp.all((operand_ok & result_ok) | ~used_L)
  counted_L = structure & used_L
  verdict = Verdict(answer, structure, strict, operand_ok & counted_L, result_ok & counted_L)
  return verdict, said
