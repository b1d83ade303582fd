"""Prompts -> sampled traces -> verdicts: what policy gradient and rejection fine-tuning have in common."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.learning.state import Setup, in_blocks, sample_problems
from compgen_jax.model.rollout import Rollout, rollout
from compgen_jax.task import render
from compgen_jax.task.latent import Problem
from compgen_jax.task.verify import Verdict, verify


class Exploration(NamedTuple):
  """G sampled traces of each prompt, neighbours in the batch. `prompts` int32[B, P], padded on the left."""

  prompts: jax.Array
  rollout: Rollout
  verdict: Verdict


def attempt(
    setup: Setup, params, problems: Problem, prompts_QxP: jax.Array, key: jax.Array, row_id_QxG: jax.Array,
    length_Q: jax.Array, given_Q: jax.Array, *, n_tokens: int, temperature: float | jax.Array,
    given_width: int = 0,
) -> tuple[Rollout, Verdict]:  # fmt: skip
  """G sampled traces of each of Q problems and what they get right (leading axis Q * G), `setup.rollout_rows` at a time.

  A block of rows is sampled until its last row ends, so problems whose golden traces are about as long (`length_Q` int32)
  share one. (A sample depends on its id, not on its block.) The last `given_Q` columns of a prompt
  (at most `given_width`) are the dry steps that its trace begins with; verdicts are on the whole.
  """
  n_prompts, group = row_id_QxG.shape

  def block(rows):
    problems, prompts, ids, given = rows
    sampled = rollout(
      setup.model,
      params,
      prompts,
      key,
      ids.reshape(-1),
      n_tokens=n_tokens,
      end=setup.task.end,
      temperature=temperature,
    )
    problems, prompts, given = jax.tree.map(
      lambda x: jnp.repeat(x, group, axis=0), (problems, prompts, given)
    )
    traces = sampled.tokens
    if given_width:
      traces = jax.vmap(lambda p, g, t: render.whole_trace(p, g, t, given_width, setup.task))(
        prompts, given, traces
      )
    return sampled, jax.vmap(lambda p, t: verify(p, t, setup.task))(problems, traces)

  order_Q = jnp.argsort(length_Q)
  rows = jax.tree.map(lambda x: x[order_Q], (problems, prompts_QxP, row_id_QxG, given_Q))
  out = jax.lax.map(block, in_blocks(rows, -(-setup.rollout_rows // group)))
  back_Q = jnp.argsort(order_Q)
  in_order = lambda x: x.reshape((n_prompts, group) + x.shape[2:])[back_Q].reshape(
    (-1,) + x.shape[2:]
  )
  return jax.tree.map(in_order, out)


def explore(setup: Setup, params, key: jax.Array, *, group: int, temperature: float) -> Exploration:
  """Samples `group` traces for each prompt of this device's part of the batch, over all sources."""
  data_key, sample_key = jax.random.split(key)
  ids_Q, problems, rendered = sample_problems(data_key, setup)
  supports = [source.support for source in setup.sources]
  given_width = setup.task.dry_width(max((s.config.prefix for s in supports), default=0))
  if given_width:
    n_trace = setup.task.trace_width(max(s.depth_cap for s in supports))
    rendered = jax.vmap(lambda r: render.give(r, given_width, n_trace, setup.task))(rendered)
  row_id_QxG = ids_Q[:, None] * group + jnp.arange(group)
  sampled, verdict = attempt(
      setup, params, problems, rendered.prompt, sample_key, row_id_QxG, rendered.trace_length,
      rendered.dry_length, n_tokens=rendered.trace.shape[1], temperature=temperature,
      given_width=given_width,
  )  # fmt: skip
  return Exploration(jnp.repeat(rendered.prompt, group, axis=0), sampled, verdict)


def summary(e: Exploration, setup: Setup) -> dict[str, jax.Array]:
  """Metrics of a batch: reward, structure, length in tokens, entropy in nats per token (estimated by -log p), and
  the share of decoded columns that hold a token (the others come after a row's end)."""
  n_tokens = setup.sum(jnp.sum(e.rollout.mask))
  return {
    'reward': setup.mean(e.verdict.answer),
    'structure': setup.mean(e.verdict.structure),
    'strict': setup.mean(e.verdict.strict),
    'length': setup.mean(jnp.sum(e.rollout.mask, axis=1)),
    'entropy': -setup.sum(jnp.sum(e.rollout.log_probs)) / n_tokens,
    'decoded_useful': n_tokens / setup.sum(jnp.sum(e.rollout.decoded)),
  }
