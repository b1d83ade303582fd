"""The hierarchical latent selection model, explicitly: a prompt P induces selections S, which generate the trace D.

S is a composition: L pairs (routing mechanism, skill). D is what they produce step by step from the two inputs:
an operand and a result each, and the last result is the answer. `execute` is the deterministic map S -> D,
`sample` draws S from a support and the inputs from the input distribution (so that P = (inputs, names of S)),
and `posterior` inverts it: which selections explain a trace. (The paper's model, arXiv 2606.18089: "a prompt P
induces discrete latent selections S; S generates the observed reasoning trace D".)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.task import routing, skills, strings
from compgen_jax.task.strings import String
from compgen_jax.task.vocab import TaskConfig


class Composition(NamedTuple):
  """Selections S. `depth` int32[]; `routing`, `skill` int32[L], zero beyond the depth."""

  depth: jax.Array
  routing: jax.Array
  skill: jax.Array


class Problem(NamedTuple):
  """A composition with everything it produces.

  `values` (leading axis V = L + 2): the two inputs, then a result per step. `operands` (leading axis L). What they
  hold beyond the depth means nothing. `first_label` int32[]: the label that names the first input.
  `dry` int32[]: so many leading steps are *dry*: their operands and results are random strings,
  whatever the modules (see `render`). The steps behind them, the real ones, read what the dry ones
  hold as if it were their own.
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
):
  """S -> D: runs a composition.

  Args:
    composition: the selections.
    inputs: the two input strings, leading axis 2.
    task: the task.
    dry: int32[], so many leading steps are not run.
    noise: what these hold in place of operands and results, leading axes L; None where no step is
      dry.

  Returns:
    `(values, operands)`, Strings with leading axes L + 2 and L. Steps beyond the depth (other than
    dry ones) repeat the last value.
  """
  depth_cap = composition.routing.shape[0]
  empty = jax.tree.map(lambda x: jnp.zeros((depth_cap,) + x.shape[1:], x.dtype), inputs)
  values = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), inputs, empty)

  def step(values, i):
    sources = routing.sources(values, i)
    operand = routing.apply(composition.routing[i], sources, task.alphabet, task.routing_inventory)
    result = skills.apply(composition.skill[i], operand, task.alphabet, task.skill_inventory)
    result = strings.select(i < composition.depth, result, sources.previous)
    if noise is not None:
      noisy_operand, noisy_result = jax.tree.map(lambda x: x[i], noise)
      operand = strings.select(i < dry, noisy_operand, operand)
      result = strings.select(i < dry, noisy_result, result)
    values = jax.tree.map(lambda v, r: v.at[i + 2].set(r), values, result)
    return values, operand

  return jax.lax.scan(step, values, jnp.arange(depth_cap))


def problem(
  composition: Composition,
  inputs: String,
  first_label: jax.Array,
  task: TaskConfig,
  dry: jax.Array | int = 0,
  noise: tuple[String, String] | None = None,
) -> Problem:
  """The problem of a composition and two inputs (leading axis 2); `dry`, `noise`: see `execute`."""
  values, operands = execute(composition, inputs, task, dry, noise)
  answer = jax.tree.map(lambda v: v[-1], values)
  dry = jnp.minimum(jnp.int32(dry), composition.depth)
  return Problem(composition, values, operands, answer, first_label, dry)


def below(bits: jax.Array, n: int) -> jax.Array:
  """int32 in [0, n) from uint32 random bits. (The bias is below n / 2**32; many small draws from one call compile faster.)"""
  return (bits % jnp.uint32(n)).astype(jnp.int32)


def random_strings(bits: jax.Array, shortest: int, longest: int, task: TaskConfig) -> String:
  """Strings (leading axis n) from uint32[n, 1 + W] random bits: lengths uniform in [shortest, longest], letters uniform."""
  length_N = shortest + below(bits[:, 0], longest - shortest + 1)
  make = lambda letters_W, length: strings.make(letters_W, length, task.width)
  return jax.vmap(make)(below(bits[:, 1:], task.alphabet), length_N)


def sample(
  key: jax.Array, composition: Composition, task: TaskConfig, dry: jax.Array | int = 0
) -> Problem:
  """P and D given S: draws inputs and the starting label, then runs the composition.

  The first `dry` steps (int32[]; 0 where it is known that there are none) are not run: their
  operands and results are random strings of any length. A problem is dry as a whole where `dry` is
  L or more: then its answer is a random string as well.
  """
  depth_cap = composition.routing.shape[0]
  never_dry = isinstance(dry, int) and dry == 0
  n_strings = 2 if never_dry else 2 + 2 * depth_cap
  # One draw for everything: on CPU a call of the generator costs as much as running a composition.
  bits = jax.random.bits(key, (1 + n_strings, 1 + task.width))
  first_label = below(bits[0, 0], task.n_labels)
  inputs = random_strings(bits[1:3], task.min_input, task.max_input, task)
  if never_dry:
    return problem(composition, inputs, first_label, task)
  noise = random_strings(bits[3:], 1, task.width, task)
  operands, results = (jax.tree.map(lambda x: x[i : i + depth_cap], noise) for i in (0, depth_cap))
  return problem(composition, inputs, first_label, task, dry, (operands, results))


class Posterior(NamedTuple):
  """P(S | D), step by step; zero beyond the depth.

  `selection` float32[L, R, S]: the joint over (routing, skill), zero everywhere where nothing explains the step.
  `explained` bool[L]: some pair explains the step.
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

  The model is deterministic given S and its steps are independent given the values, so the posterior factorises
  over steps: prior(r, s) * [skill_s(routing_r(values so far)) = result], normalised; where the trace shows its
  operands (explicit form) also [routing_r(values so far) = operand]. It works on any values, a model's own too.

  Args:
    values: two inputs and a result per step, leading axis L + 2.
    depth: int32[], the number of steps.
    task: the task.
    operands: leading axis L, or None where the trace does not show them.
    prior_RxS: float32, the prior over pairs; None is uniform.
  """
  depth_cap = values.length.shape[0] - 2
  if prior_RxS is None:
    prior_RxS = jnp.full((task.n_routings, task.n_skills), 1.0 / (task.n_routings * task.n_skills))

  def step(i):
    result = jax.tree.map(lambda v: v[i + 2], values)
    operand_R = routing.apply_all(routing.sources(values, i), task.alphabet, task.routing_inventory)
    result_RxS = jax.vmap(lambda o: skills.apply_all(o, task.alphabet, task.skill_inventory))(
      operand_R
    )
    consistent_RxS = jax.vmap(jax.vmap(lambda r: strings.equal(r, result)))(result_RxS)
    if operands is not None:
      shown = jax.tree.map(lambda o: o[i], operands)
      consistent_RxS &= jax.vmap(lambda o: strings.equal(o, shown))(operand_R)[:, None]
    weight_RxS = prior_RxS * consistent_RxS * (i < depth)
    total = jnp.sum(weight_RxS)
    return weight_RxS / jnp.where(total > 0, total, 1.0), total > 0

  return Posterior(*jax.vmap(step)(jnp.arange(depth_cap)))
