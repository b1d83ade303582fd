"""Prompts -> sampled traces -> verdicts -> rewards: what all stages that explore share."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.learning import batches
from compgen_jax.learning.gradients import in_parts
from compgen_jax.learning.setup import Setup
from compgen_jax.model.kernels import ceil_div
from compgen_jax.model.rollout import Rollout, rollout
from compgen_jax.task import render
from compgen_jax.task.latent import Problem
from compgen_jax.task.render import Rendered
from compgen_jax.task.sampler import Sampler
from compgen_jax.task.verify import Verdict, verify
from compgen_jax.task.vocab import TaskConfig

# Rewards ------------------------------------------------------------------------------------------
#
# To add one: a function of the verdict on a sample and the depth of its problem, and an entry
# below.


def answer(verdict: Verdict, depth: jax.Array) -> jax.Array:
  """1 where the answer is right: the paper's reward (as reports of it say)."""
  del depth
  return verdict.answer


def strict(verdict: Verdict, depth: jax.Array) -> jax.Array:
  """1 where the answer, the structure and every step are right."""
  del depth
  return verdict.strict


def steps(verdict: Verdict, depth: jax.Array) -> jax.Array:
  """0.2 for the answer plus 0.8 times the share of right steps; 0 where the answer is wrong.

  After the process reward of arXiv 2512.07783.
  """
  n_right = jnp.sum(verdict.operand_ok & verdict.result_ok, axis=-1)
  return verdict.answer * (0.2 + 0.8 * n_right / depth)


REWARDS: dict[str, Callable[[Verdict, jax.Array], jax.Array]] = {
  f.__name__: f for f in (answer, strict, steps)
}


# Exploring ----------------------------------------------------------------------------------------


class Exploration(NamedTuple):
  """G sampled traces of each prompt, neighbours in the batch.

  `prompts` int32[B, P], padded on the left. `reward` float32[B], in [0, 1].
  """

  prompts: jax.Array
  rollout: Rollout
  verdict: Verdict
  reward: jax.Array


def attempt(
  setup: Setup,
  params,
  problems: Problem,
  rendered: Rendered,
  key: jax.Array,
  row_id_QxG: jax.Array,
  *,
  n_tokens: int,
  temperature: float | jax.Array,
  given_width: int = 0,
) -> tuple[Rollout, Verdict]:
  """G sampled traces of each of Q problems, and the verdicts on them; leading axis B = Q * G.

  `setup.rollout_rows` samples are drawn at a time, until the last of them ends. So that they end at
  about the same time, problems are sorted by the length of their golden traces first. (A sample
  depends on its id, not on its place.) Where the last columns of prompts, `given_width` at most,
  are given dry steps, verdicts are on these and the sample together.
  """
  n_prompts, n_samples = row_id_QxG.shape

  def sample(part):
    problems, prompts, ids, given = part
    sampled = rollout(
      setup.model,
      params,
      prompts,
      key,
      ids.reshape(-1),
      n_tokens=n_tokens,
      end=setup.task.end,
      temperature=temperature,
      goes_on=setup.devices.goes_on,
    )
    repeated = jax.tree.map(lambda x: jnp.repeat(x, n_samples, axis=0), (problems, prompts, given))
    return sampled, jax.vmap(verdict_of)(*repeated, sampled.tokens)

  def verdict_of(problem, prompt, given, written):
    if given_width:
      written = render.whole_trace(prompt, given, written, given_width, setup.task)
    return verify(problem, written, setup.task)

  order_Q = jnp.argsort(rendered.trace_length)
  rows = (problems, rendered.prompt, row_id_QxG, rendered.dry_length)
  rows = jax.tree.map(lambda x: x[order_Q], rows)
  out = jax.lax.map(sample, in_parts(rows, ceil_div(setup.rollout_rows, n_samples)))
  back_Q = jnp.argsort(order_Q)

  def in_order(x):
    x_QxG = x.reshape((n_prompts, n_samples) + x.shape[2:])[back_Q]
    return x_QxG.reshape((-1,) + x.shape[2:])

  return jax.tree.map(in_order, out)


def give(rendered: Rendered, prefix: int, depth: int, task: TaskConfig) -> Rendered:
  """Problems (leading axis Q) whose dry steps are given: see `render.give`.

  They have at most `prefix` dry steps, and at most `depth` others.
  """
  if not prefix:
    return rendered
  width, n_trace = task.dry_width(prefix), task.trace_width(depth)
  return jax.vmap(lambda r: render.give(r, width, n_trace, task))(rendered)


class Posed(NamedTuple):
  """This device's part of a batch of problems to be solved, leading axis Q.

  `row_id_Q` int32, global indices. `given_width`: the most columns of a prompt that are given.
  """

  row_id_Q: jax.Array
  problems: Problem
  rendered: Rendered
  given_width: int


def pose(key: jax.Array, samplers: dict[str, Sampler], setup: Setup) -> Posed:
  """Problems of every source; their dry steps are given."""
  row_id_Q, problems, rendered = batches.draw(key, setup.sources, samplers, setup)
  prefix = max(source.config.prefix for source in setup.sources)
  deepest = max(max(source.config.depths) for source in setup.sources)
  rendered = give(rendered, prefix, deepest, setup.task)
  return Posed(row_id_Q, problems, rendered, setup.task.dry_width(prefix))


def explore(
  setup: Setup,
  params,
  key: jax.Array,
  samplers: dict[str, Sampler],
  *,
  group: int,
  temperature: float,
  reward: str,
) -> Exploration:
  """`group` sampled traces for each prompt of this device's part of a batch, with their rewards."""
  data_key, sample_key = jax.random.split(key)
  row_id_Q, problems, rendered, given_width = pose(data_key, samplers, setup)

  def of_part(part):
    return attempt(
      setup,
      params,
      *part[:2],
      sample_key,
      part[2],
      n_tokens=rendered.trace.shape[1],
      temperature=temperature,
      given_width=given_width,
    )

  row_id_QxG = row_id_Q[:, None] * group + jnp.arange(group)
  sampled, verdict = setup.devices.by_part(of_part, (problems, rendered, row_id_QxG))
  depth_B = jnp.repeat(problems.composition.depth - problems.dry, group)
  reward_B = REWARDS[reward](verdict, depth_B).astype(jnp.float32)
  return Exploration(jnp.repeat(rendered.prompt, group, axis=0), sampled, verdict, reward_B)


def metrics(e: Exploration, setup: Setup) -> dict[str, jax.Array]:
  """What is logged of a batch: means over its samples.

  `reward`: what was trained on. `answer`, `structure`, `strict`: shares of right ones. `length`:
  tokens. `entropy`: nats per token, estimated by -log p. `decoded_useful`: the share of decoded
  columns that hold a token (the others come after a sample's end).
  """
  devices = setup.devices
  n_tokens = devices.sum(jnp.sum(e.rollout.mask))
  length = devices.mean(jnp.sum(e.rollout.mask, axis=1))
  return {
    'reward': devices.mean(e.reward),
    'answer': devices.mean(e.verdict.answer),
    'structure': devices.mean(e.verdict.structure),
    'strict': devices.mean(e.verdict.strict),
    'length': length,
    'entropy': -devices.mean(jnp.sum(e.rollout.log_probs, axis=1)) / length,
    'decoded_useful': n_tokens / devices.sum(jnp.sum(e.rollout.decoded)),
  }
