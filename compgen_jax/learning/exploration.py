"""Prompts -> sampled traces -> verdicts: what policy gradient and rejection fine-tuning have in common."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.learning.state import Setup, in_blocks, numbered, sample_problems
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
    *, n_tokens: int, temperature: float | jax.Array,
) -> tuple[Rollout, Verdict]:  # fmt: skip
  """One sampled trace per row and what it gets right, `setup.rollout_rows` rows at a time."""

  def block(rows):
    problems, prompts, ids = rows
    sampled = rollout(
        setup.model, params, prompts, key, ids, n_tokens=n_tokens, end=setup.task.end, temperature=temperature
    )
    return sampled, jax.vmap(lambda p, t: verify(p, t, setup.task))(problems, sampled.tokens)

  blocks = in_blocks((problems, prompts_BxP, row_ids), setup.rollout_rows)
  out = jax.lax.map(block, blocks)
  return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), out)


def explore(setup: Setup, params, key: jax.Array, *, group: int, temperature: float) -> Exploration:
  """Samples `group` traces for each prompt of this device's part of the batch, over all sources.

  Sources differ in width; their rows are padded to the widest.
  """
  data_key, sample_key = jax.random.split(key)
  parts = []
  for first, source in numbered(setup.sources):
    ids = setup.row_ids(first, source.rows)
    problems, rendered = sample_problems(data_key, source.support, ids)
    problems, prompts = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), (problems, rendered.prompt))
    sample_ids = (ids[:, None] * group + jnp.arange(group)).reshape(-1)
    n_tokens = rendered.trace.shape[1]
    sampled, verdict = attempt(
        setup, params, problems, prompts, sample_key, sample_ids, n_tokens=n_tokens, temperature=temperature
    )
    parts.append(Exploration(prompts, sampled, verdict))
  pad = setup.task.pad
  wide_prompt = max(e.prompts.shape[1] for e in parts)
  wide_trace = max(e.rollout.tokens.shape[1] for e in parts)
  deep = max(e.verdict.operand_ok.shape[1] for e in parts)
  right = lambda x, width, fill: jnp.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=fill)
  parts = [
      Exploration(
          jnp.pad(e.prompts, ((0, 0), (wide_prompt - e.prompts.shape[1], 0)), constant_values=pad),
          Rollout(
              right(e.rollout.tokens, wide_trace, pad),
              right(e.rollout.log_probs, wide_trace, 0.0),
              right(e.rollout.mask, wide_trace, False),
          ),
          e.verdict._replace(
              operand_ok=right(e.verdict.operand_ok, deep, False), result_ok=right(e.verdict.result_ok, deep, False)
          ),
      )
      for e in parts
  ]
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


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
