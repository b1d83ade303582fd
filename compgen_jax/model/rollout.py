"""Sampling traces: one prefill, then one token per `lax.scan` step, in segments that are skipped once all rows end.

Row i's token t is drawn with `fold_in(fold_in(key, row_id[i]), t)`, where `row_id` is the global example index, so
the sample does not depend on how rows are batched or placed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.model.kernels import argmax
from compgen_jax.model.transformer import Model


class Rollout(NamedTuple):
  """`tokens` int32[B, C], `pad` after the end token; `log_probs` float32[B, C] of each token under the distribution it
  was drawn from (greedy: at temperature 1), 0 where padded; `mask` bool[B, C], true up to and including the end; `decoded`
  int32[B], columns that were computed for the row, those after its end too."""

  tokens: jax.Array
  log_probs: jax.Array
  mask: jax.Array
  decoded: jax.Array


def rollout(
  model: Model,
  params,
  prompts_QxP: jax.Array,
  key: jax.Array,
  row_id_B: jax.Array,
  *,
  n_tokens: int,
  end: int,
  temperature: float | jax.Array,
  segment: int = 4,
) -> Rollout:
  """Samples up to `n_tokens` tokens after each prompt, B / Q times (neighbours in the result).

  Args:
    model: the model.
    params: its parameters.
    prompts_QxP: int32, padded on the left; each is run once, whatever the number of its samples.
    key: randomness of this call.
    row_id_B: int32, global example indices of the samples.
    n_tokens: C, the columns of the result.
    end: the token that finishes a row.
    temperature: of sampling, may be traced; 0 takes the most probable token.
    segment: scan steps between two looks at whether every row is done.
  """
  n_segments = -(-n_tokens // segment)
  n_rows, n_prompt = row_id_B.shape[0], prompts_QxP.shape[1]
  row_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(row_id_B)

  def gumbel(t):
    return jax.vmap(lambda k: jax.random.gumbel(jax.random.fold_in(k, t), (model.vocab_size,)))(
      row_keys
    )

  def draw(logits_BxV, noise_BxV):
    # argmax(logits + T * Gumbel noise) is a draw from softmax(logits / T), and the most probable token at T = 0.
    token_B = argmax(logits_BxV + temperature * noise_BxV)
    log_probs_BxV = jax.nn.log_softmax(logits_BxV / jnp.where(temperature > 0, temperature, 1.0))
    return token_B, jnp.take_along_axis(log_probs_BxV, token_B[:, None], axis=1)[:, 0]

  def step(carry, noise_BxV):
    logits_BxV, cache, done_B = carry
    token_B, log_prob_B = draw(logits_BxV, noise_BxV)
    token_B, log_prob_B = jnp.where(done_B, model.pad, token_B), jnp.where(done_B, 0.0, log_prob_B)
    logits_BxV, cache = model.decode_step(params, cache, token_B)
    return (logits_BxV, cache, done_B | (token_B == end)), (token_B, log_prob_B, ~done_B)

  def run_segment(state):
    i, carry, out = state
    # The generator is called once a segment: on CPU a call costs as much as a layer, whatever its size.
    carry, columns = jax.lax.scan(step, carry, jax.vmap(gumbel)(i * segment + jnp.arange(segment)))
    write = lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, i * segment, axis=0)
    return i + 1, carry, jax.tree.map(write, out, columns)

  # Every step reads the whole cache, so the second half of the columns gets its room when it is reached.
  half = -(-n_segments // 2)
  params = model.unstack(params)
  logits_QxV, cache = model.prefill(params, prompts_QxP, n_prompt + half * segment)
  for_each_sample = lambda x: jnp.repeat(x, n_rows // prompts_QxP.shape[0], axis=0) if x.ndim else x
  logits_BxV, cache = jax.tree.map(for_each_sample, (logits_QxV, cache))
  shape = (n_segments * segment, n_rows)
  out = (
    jnp.full(shape, model.pad, jnp.int32),
    jnp.zeros(shape, jnp.float32),
    jnp.zeros(shape, bool),
  )
  state = (jnp.int32(0), (logits_BxV, cache, jnp.zeros((n_rows,), bool)), out)
  for until in sorted({half, n_segments}):
    i, (logits_BxV, cache, done_B), out = state
    state = i, (logits_BxV, model.extend(cache, n_prompt + until * segment), done_B), out
    unfinished = lambda state: (state[0] < until) & ~jnp.all(state[1][2])
    state = jax.lax.while_loop(unfinished, run_segment, state)
  i, _, out = state
  return Rollout(
    *(jnp.swapaxes(x, 0, 1)[:, :n_tokens] for x in out), jnp.full((n_rows,), i * segment)
  )
