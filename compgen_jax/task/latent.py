"""The hierarchical latent selection model: prompt P -> selections S -> trace D.

S is a composition: L pairs (routing mechanism, skill). D is what they make step by step from the
two inputs: an operand and a result a step; the last result is the answer. `execute` is the
deterministic map S -> D. `sample` draws the inputs, so that P = (inputs, names of S), and runs S; a
support draws S itself. `posterior` inverts the model: which selections explain a trace. (The
paper's model, arXiv 2606.18089: "a prompt P induces discrete latent selections S; S generates the
observed reasoning trace D".)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.task import modules, routing, strings
from compgen_jax.task.strings import String
from compgen_jax.task.vocab import TaskConfig


class Composition(NamedTuple):
  """Selections S. `depth` int32[]; `routing`, `skill` int32[L], zero beyond the depth."""

  depth: jax.Array
  routing: jax.Array
  skill: jax.Array


def with_cap(composition: Composition, cap: int) -> Composition:
  """The composition with its arrays cut, or filled up with zeros, to `cap` steps.

  There may be leading axes. The depth does not change, even if it exceeds `cap`. Numpy arrays stay
  numpy arrays.
  """

  def fit(x):
    pad = np.pad if isinstance(x, np.ndarray) else jnp.pad
    n_missing = max(0, cap - x.shape[-1])
    return pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n_missing)])[..., :cap]

  return Composition(composition.depth, fit(composition.routing), fit(composition.skill))


class Problem(NamedTuple):
  """A composition with everything it makes.

  values: leading axis E = L + 2, the two inputs and then a result a step.
  operands: leading axis L. What values and operands hold beyond the depth means nothing.
  answer: the last result.
  first_label: int32[], which label names the first input.
  dry: int32[], so many leading steps are *dry*: their operands and results are random strings,
    whatever the modules (see `render`). The steps behind them read these strings like any others.
  """

  composition: Composition
  values: String
  operands: String
  answer: String
  first_label: jax.Array
  dry: jax.Array


def execute(
  composition: Composition,
  inputs: String,
  task: TaskConfig,
  dry: jax.Array | int = 0,
  noise: tuple[String, String] | None = None,
) -> tuple[String, String]:
  """S -> D: runs a composition.

  Args:
    composition: the selections.
    inputs: the two input strings, leading axis 2.
    task: the task.
    dry: int32[], so many leading steps are not run.
    noise: the operands and results of these, leading axes L; None where no step is dry.

  Returns:
    `(values, operands)`, leading axes E and L. Steps beyond the depth repeat the last value, unless
    they are dry.
  """
  depth_cap = composition.routing.shape[0]
  empty = jax.tree.map(lambda x: jnp.zeros((depth_cap,) + x.shape[1:], x.dtype), inputs)

  def step(values, i):
    sources = routing.sources(values, i)
    operand = modules.apply(task.routing_inventory, composition.routing[i], sources, task.alphabet)
    result = modules.apply(task.skill_inventory, composition.skill[i], operand, task.alphabet)
    result = strings.select(i < composition.depth, result, sources.previous)
    if noise is not None:
      operand = strings.select(i < dry, strings.at(noise[0], i), operand)
      result = strings.select(i < dry, strings.at(noise[1], i), result)
    values = jax.tree.map(lambda v, r: v.at[i + 2].set(r), values, result)
    return values, operand

  return jax.lax.scan(step, strings.join(inputs, empty), jnp.arange(depth_cap))


def problem(
  composition: Composition,
  inputs: String,
  first_label: jax.Array,
  task: TaskConfig,
  dry: jax.Array | int = 0,
  noise: tuple[String, String] | None = None,
) -> Problem:
  """The problem that a composition and two inputs (leading axis 2) make.

  `dry` and `noise`: see `execute`.
  """
  values, operands = execute(composition, inputs, task, dry, noise)
  dry = jnp.minimum(jnp.int32(dry), composition.depth)
  return Problem(composition, values, operands, strings.at(values, -1), first_label, dry)


def below(bits: jax.Array, n: jax.Array | int) -> jax.Array:
  """int32 in [0, n) from uint32 random bits, of the same shape.

  Its bias is below n / 2**32. One large draw of bits compiles faster than many small draws of
  integers.
  """
  return (bits % jnp.uint32(n)).astype(jnp.int32)


def random_strings(bits: jax.Array, shortest: int, longest: int, task: TaskConfig) -> String:
  """Random strings (leading axis B): lengths uniform in [shortest, longest], letters uniform.

  `bits` uint32[B, 1 + W]: a word for the length and one for each letter.
  """
  length_B = shortest + below(bits[:, 0], longest - shortest + 1)
  return jax.vmap(strings.make)(below(bits[:, 1:], task.alphabet), length_B)


def sample(
  key: jax.Array, composition: Composition, task: TaskConfig, dry: jax.Array | int = 0
) -> Problem:
  """P and D given S: draws two inputs and the first label, then runs the composition.

  The first `dry` steps (int32[]; 0 where it is known that there are none) are not run: their
  operands and results are random strings of any length. With `dry` of L or more all of the problem
  is dry, its answer too.
  """
  depth_cap = composition.routing.shape[0]
  none_is_dry = isinstance(dry, int) and dry == 0
  n_strings = 2 if none_is_dry else 2 + 2 * depth_cap
  # One draw for everything: on CPU a call of the generator costs as much as running a composition.
  bits = jax.random.bits(key, (1 + n_strings, 1 + task.width))
  first_label = below(bits[0, 0], task.n_labels)
  inputs = random_strings(bits[1:3], task.min_input, task.max_input, task)
  if none_is_dry:
    return problem(composition, inputs, first_label, task)
  strings_2L = random_strings(bits[3:], 1, task.width, task)
  operands = jax.tree.map(lambda x: x[:depth_cap], strings_2L)
  results = jax.tree.map(lambda x: x[depth_cap:], strings_2L)
  return problem(composition, inputs, first_label, task, dry, (operands, results))


class Posterior(NamedTuple):
  """P(S | D), step by step; zero beyond the depth.

  `selection` float32[L, R, S]: the joint over (routing mechanism, skill); all zero where no pair
  explains the step. `explained` bool[L]: some pair explains the step.
  """

  selection: jax.Array
  explained: jax.Array

  @property
  def routing(self) -> jax.Array:
    """float32[L, R]: the marginal of the routing mechanism."""
    return jnp.sum(self.selection, axis=-1)

  @property
  def skill(self) -> jax.Array:
    """float32[L, S]: the marginal of the skill."""
    return jnp.sum(self.selection, axis=-2)


def posterior(
  values: String,
  depth: jax.Array,
  task: TaskConfig,
  operands: String | None = None,
  prior_RxS: jax.Array | None = None,
) -> Posterior:
  """Which selections explain a trace.

  Given S the model is deterministic, and given the values its steps are independent. So the
  posterior factorises over steps: prior(r, s) * [skill_s(routing_r(values so far)) = result],
  normalised. Where the trace shows its operands (explicit form) there is one more factor:
  [routing_r(values so far) = operand]. The values may be a model's own.

  Args:
    values: two inputs and a result a step, leading axis E.
    depth: int32[], the number of steps.
    task: the task.
    operands: leading axis L, or None where the trace does not show them.
    prior_RxS: float32, the prior over pairs; None is uniform.
  """
  depth_cap = values.length.shape[0] - 2
  if prior_RxS is None:
    prior_RxS = jnp.full((task.n_routings, task.n_skills), 1.0 / (task.n_routings * task.n_skills))

  def results_of_all_skills(operand):
    return modules.apply_all(task.skill_inventory, operand, task.alphabet)

  are_equal = jax.vmap(strings.equal, in_axes=(0, None))

  def step(i):
    operand_R = modules.apply_all(task.routing_inventory, routing.sources(values, i), task.alphabet)
    result_RxS = jax.vmap(results_of_all_skills)(operand_R)
    result = strings.at(values, i + 2)
    consistent_RxS = jax.vmap(are_equal, in_axes=(0, None))(result_RxS, result)
    if operands is not None:
      consistent_RxS &= are_equal(operand_R, strings.at(operands, i))[:, None]
    weight_RxS = prior_RxS * consistent_RxS * (i < depth)
    total = jnp.sum(weight_RxS)
    return weight_RxS / jnp.where(total > 0, total, 1.0), total > 0

  selection, explained = jax.vmap(step)(jnp.arange(depth_cap))
  return Posterior(selection, explained)
