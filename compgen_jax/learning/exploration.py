"""Prompts -> sampled traces -> verdicts: what policy gradient and rejection fine-tuning have in common."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.learning.state import Setup, in_blocks, sample_problems
from compgen_jax.model.rollout import Rollout, rollout
from compgen_jax.task.latent import Problem
from compgen_jax.task.verify import Verdict, verify


class Exploration(NamedTuple):
  """G sampled traces of each prompt, neighbours in the batch. `prompts` int32[B, P], padded on the left."""

  prompts: jax.Array
  rollout: Rollout
  verdict: Verdict


def attempt(
    setup: Setup, params, problems: Problem, prompts_BxP: jax.Array, key: jax.Array, row_ids: jax.Array,
    length_B: jax.Array, *, n_tokens: int, temperature: float | jax.Array,
) -> tuple[Rollout, Verdict]:  # fmt: skip
  """One sampled trace per row and what it gets right, `setup.rollout_rows` rows at a time.

  A block of rows is sampled until its last row ends, so rows whose golden traces are about as long (`length_B` int32) share
  one. (A row's sample depends on its id, not on its block.)
  """

  def block(rows):
    problems, prompts, ids = rows
    sampled = rollout(
        setup.model, params, prompts, key, ids, n_tokens=n_tokens, end=setup.task.end, temperature=temperature
    )
    return sampled, jax.vmap(lambda p, t: verify(p, t, setup.task))(problems, sampled.tokens)

  order_B = jnp.argsort(length_B)
  rows = jax.tree.map(lambda x: x[order_B], (problems, prompts_BxP, row_ids))
  out = jax.lax.map(block, in_blocks(rows, setup.rollout_rows))
  back_B = jnp.argsort(order_B)
  return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:])[back_B], out)


def explore(setup: Setup, params, key: jax.Array, *, group: int, temperature: float) -> Exploration:
  """Samples `group` traces for each prompt of this device's part of the batch, over all sources."""
  data_key, sample_key = jax.random.split(key)
  ids, problems, rendered = sample_problems(data_key, setup)
  repeated = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), (problems, rendered.prompt, rendered.trace_length))
  problems, prompts, lengths = repeated
  sample_ids = (ids[:, None] * group + jnp.arange(group)).reshape(-1)
  n_tokens = rendered.trace.shape[1]
  sampled, verdict = attempt(
      setup, params, problems, prompts, sample_key, sample_ids, lengths, n_tokens=n_tokens, temperature=temperature
  )
  return Exploration(prompts, sampled, verdict)


def summary(e: Exploration, setup: Setup) -> dict[str, jax.Array]:
  """Metrics of a batch: reward, structure, length in tokens, and entropy in nats per token (estimated by -log p)."""
  n_tokens = setup.sum(jnp.sum(e.rollout.mask))
  return {
      'reward': setup.mean(e.verdict.answer),
      'structure': setup.mean(e.verdict.structure),
      'strict': setup.mean(e.verdict.strict),
      'length': setup.mean(jnp.sum(e.rollout.mask, axis=1)),
      'entropy': -setup.sum(jnp.sum(e.rollout.log_probs)) / n_tokens,
  }
