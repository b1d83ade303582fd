"""What a trace gets right. Total (defined for whatever tokens), exact, on device.

The reward of the paper is an exact match of the final string only (likely, see its digests); the stricter verdicts
tell *why* a trace fails: its structure, a routing mechanism, or a skill.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task import routing, skills, strings
from compgen_jax.task.latent import Problem
from compgen_jax.task.render import labels
from compgen_jax.task.strings import String
from compgen_jax.task.vocab import TaskConfig


class Verdict(NamedTuple):
  """Verdicts on one trace.

  `answer` bool[]: the trace ends, and the letters between its last `=` and its `end` are the answer.
  `structure` bool[]: the right modules in the right order, as many as asked, every string named by its label.
  `strict` bool[]: the answer, the structure, and every operand and result are right.
  `operand_ok`, `result_ok` bool[L]: step i's operand (result) is what its routing mechanism (skill) makes of what
  the trace itself says before it; counted only where the structure is right and i < depth, and
  never for dry steps, of which no letter is right or wrong. `operand_ok` is true throughout for
  compact traces, whose `result_ok` then judges routing and skill together.
  """

  answer: jax.Array
  structure: jax.Array
  strict: jax.Array
  operand_ok: jax.Array
  result_ok: jax.Array


def _letters_after(at: jax.Array, until: jax.Array, tokens_C: jax.Array, width: int) -> String:
  """The string in columns (at, until); its length is 0 or above the width cap where that is what is written."""
  columns = at + 1 + jnp.arange(width)
  letters = jnp.where(columns < until, tokens_C[jnp.clip(columns, 0, tokens_C.shape[0] - 1)], 0)
  return String(letters.astype(jnp.int32), (until - at - 1).astype(jnp.int32))


def verify(problem: Problem, trace_C: jax.Array, task: TaskConfig) -> Verdict:
  """Judges one trace (int32[C], any values) of one problem, its dry steps included."""
  width, depth = task.width, problem.composition.depth
  depth_cap = problem.composition.routing.shape[0]
  n_columns = trace_C.shape[0]
  column = jnp.arange(n_columns)

  # Up to the first `end`; what follows it is nobody's business.
  ends = trace_C == task.end
  ended = jnp.any(ends)
  end_at = jnp.where(ended, jnp.argmax(ends), n_columns)
  inside = column < end_at
  head = inside & ((trace_C >= task.alphabet) | (trace_C < 0))

  # Answer: between the last `=` and `end`, letters only.
  equals_at = jnp.max(jnp.where(inside & (trace_C == task.equals), column, -1))
  answer = _letters_after(equals_at, end_at, trace_C, width)
  clean = ~jnp.any(head & (column > equals_at))
  answer_ok = ended & (equals_at >= 0) & clean & strings.equal(answer, problem.answer)

  # Structure: the trace's head tokens are exactly (label, routing, skill, label) per step, and `=`.
  label_V = labels(problem, task)
  step = jnp.arange(depth_cap)
  heads_Lx4 = jnp.stack(
    [
      label_V[2:],
      task.routing_0 + problem.composition.routing[step],
      task.skill_0 + problem.composition.skill[step],
      label_V[2:],
    ],
    axis=1,
  )
  slot = jnp.arange(4 * depth_cap + 1)
  expected = jnp.append(heads_Lx4.reshape(-1), task.equals)
  expected = jnp.where(slot == 4 * depth, task.equals, expected)
  ordinal_C = jnp.cumsum(head) - 1
  matches = trace_C == expected[jnp.clip(ordinal_C, 0, 4 * depth_cap)]
  structure = ended & (jnp.sum(head) == 4 * depth + 1) & jnp.all(matches | ~head)

  # Columns of the heads, and with them the strings that the trace itself names.
  at_N = jnp.full((4 * depth_cap + 2,), n_columns, jnp.int32)
  at_N = at_N.at[jnp.where(head, ordinal_C, 4 * depth_cap + 2)].set(
    column.astype(jnp.int32), mode='drop'
  )
  read = jax.vmap(lambda k: _letters_after(at_N[k], at_N[k + 1], trace_C, width))
  said_operands, said_results = read(4 * step + 2), read(4 * step + 3)
  # Nothing may stand between a label and its routing mechanism and skill; nor after these in compact traces.
  n_tight = 2 if task.trace == 'explicit' else 3
  tight = jnp.all((step >= depth) | (at_N[4 * step + n_tight] == at_N[4 * step] + n_tight))
  structure &= tight & (at_N[0] == 0)

  inputs = jax.tree.map(lambda v: v[:2], problem.values)
  said_values = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inputs, said_results)

  proper = lambda s: (s.length >= 1) & (s.length <= width)  # of anything else, modules make nothing

  def judge(i):
    sources = routing.sources(said_values, i)
    wanted = routing.apply(
      problem.composition.routing[i], sources, task.alphabet, task.routing_inventory
    )
    said = jax.tree.map(lambda x: x[i], said_operands)
    operand = said if task.trace == 'explicit' else wanted
    operand_ok = (
      proper(said) & strings.equal(said, wanted) if task.trace == 'explicit' else jnp.bool_(True)
    )
    result = skills.apply(
      problem.composition.skill[i], operand, task.alphabet, task.skill_inventory
    )
    said_result = jax.tree.map(lambda x: x[i], said_results)
    return operand_ok, proper(operand) & proper(said_result) & strings.equal(said_result, result)

  operand_ok, result_ok = jax.vmap(judge)(step)
  real = (step >= problem.dry) & (step < depth)
  counted = structure & real
  steps_ok = jnp.all((operand_ok & result_ok) | ~real)
  strict = answer_ok & structure & steps_ok
  return Verdict(answer_ok, structure, strict, operand_ok & counted, result_ok & counted)
