"""Sampling traces: prompts are run once, then each step draws a token for every row.

Steps run in scans of `scan_length`. Between two scans the loop stops if all rows have ended.

The token in trace column c of row i is drawn with `fold_in(fold_in(key, row_id[i]), c)`, where
`row_id` is the global index of the example. So a row's randomness does not depend on how rows are
batched or placed on devices.

Shape letters: B samples, Q prompts, P prompt columns, C trace columns, V vocabulary entries.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.model.kernels import argmax, ceil_div
from compgen_jax.model.transformer import Cache, Model


class Rollout(NamedTuple):
  """Sampled traces.

  Attributes:
    tokens: int32[B, C], `pad` after the end token.
    log_probs: float32[B, C], each token's log-probability in the distribution it was drawn from
      (greedy sampling: in the distribution at temperature 1); 0 after the end token.
    mask: bool[B, C], true up to and including the end token.
    decoded: int32[B], columns that were computed for the row, those after its end included.
  """

  tokens: jax.Array
  log_probs: jax.Array
  mask: jax.Array
  decoded: jax.Array


class _Rows(NamedTuple):
  """What one step hands to the next: logits of the next token, the cache, rows that have ended."""

  logits_BxV: jax.Array
  cache: Cache
  done_B: jax.Array


class _Loop(NamedTuple):
  """What one scan hands to the next."""

  column: jax.Array  # int32[], the trace column that is sampled next
  rows: _Rows
  traces: tuple[jax.Array, ...]  # tokens, log-probabilities and mask, each [C, B]


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
  scan_length: int = 4,
  goes_on: Callable[[jax.Array], jax.Array] = lambda unfinished: unfinished,
) -> Rollout:
  """Samples B / Q traces of each prompt (neighbours in the result), up to `n_tokens` tokens each.

  Args:
    model: the model.
    params: its parameters.
    prompts_QxP: int32, padded on the left.
    key: randomness of this call.
    row_id_B: int32, global example indices of the samples.
    n_tokens: C, the columns of the result.
    end: the token that ends a trace.
    temperature: of sampling, may be traced; 0 takes the most probable token.
    scan_length: steps between two checks whether all rows have ended.
    goes_on: whether to go on (bool[]), of whether rows here are unfinished.
  """
  params = model.unstack(params)
  row_keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(row_id_B)

  def step(rows: _Rows, noise_BxV):
    token_B, log_prob_B = _draw(rows.logits_BxV, noise_BxV, temperature)
    token_B = jnp.where(rows.done_B, model.pad, token_B)
    log_prob_B = jnp.where(rows.done_B, 0.0, log_prob_B)
    logits_BxV, cache = model.decode_step(params, rows.cache, token_B)
    drawn = (token_B, log_prob_B, ~rows.done_B)
    return _Rows(logits_BxV, cache, rows.done_B | (token_B == end)), drawn

  def scan(loop: _Loop) -> _Loop:
    columns = loop.column + jnp.arange(scan_length)
    noise = _gumbel(row_keys_B, columns, model.vocab_size)
    rows, drawn = jax.lax.scan(step, loop.rows, noise)
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=loop.column, axis=0)
    return _Loop(loop.column + scan_length, rows, jax.tree.map(write, loop.traces, drawn))

  # 1. Prefill. Every step reads the whole cache. So the cache first has room for half of the trace
  # columns, and for the others only once the first half is written.
  n_prompt, n_scans = prompts_QxP.shape[1], ceil_div(n_tokens, scan_length)
  half, whole = ceil_div(n_scans, 2) * scan_length, n_scans * scan_length
  rows = _prefill(model, params, prompts_QxP, row_id_B.shape[0], n_prompt + half)
  loop = _Loop(jnp.int32(0), rows, _empty_traces((whole, row_id_B.shape[0]), model.pad))
  # 2. Decode the first half.
  loop = _repeat(scan, loop, half, goes_on)
  # 3. Decode the second half.
  if whole > half:
    cache = model.extend(loop.rows.cache, n_prompt + whole)
    loop = _repeat(scan, loop._replace(rows=loop.rows._replace(cache=cache)), whole, goes_on)

  tokens, log_probs, mask = (jnp.swapaxes(x, 0, 1)[:, :n_tokens] for x in loop.traces)
  return Rollout(tokens, log_probs, mask, jnp.full(row_id_B.shape, loop.column))


def _prefill(model: Model, params, prompts_QxP, n_rows: int, capacity: int) -> _Rows:
  """Runs each prompt once, and copies the result for each of its samples."""
  n_samples = n_rows // prompts_QxP.shape[0]

  def for_each_sample(x):
    is_per_row = x.ndim > 0
    return jnp.repeat(x, n_samples, axis=0) if is_per_row else x

  logits_and_cache = model.prefill(params, prompts_QxP, capacity)
  logits_BxV, cache = jax.tree.map(for_each_sample, logits_and_cache)
  return _Rows(logits_BxV, cache, jnp.zeros((n_rows,), bool))


def _empty_traces(shape: tuple[int, int], pad: int) -> tuple[jax.Array, ...]:
  return jnp.full(shape, pad, jnp.int32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool)


def _repeat(scan, loop: _Loop, until: int, goes_on: Callable) -> _Loop:
  """Scans up to column `until`, or until all rows have ended."""

  def unfinished(loop: _Loop):
    return (loop.column < until) & goes_on(~jnp.all(loop.rows.done_B))

  return jax.lax.while_loop(unfinished, scan, loop)


def _gumbel(row_keys_B, columns, vocab_size: int) -> jax.Array:
  """Gumbel noise [len(columns), B, V] of these trace columns.

  The generator runs once for a scan: on CPU a call takes as long as a block, whatever its size.
  """

  def one(row_key, column):
    return jax.random.gumbel(jax.random.fold_in(row_key, column), (vocab_size,))

  of_column = jax.vmap(one, in_axes=(0, None))
  return jax.vmap(of_column, in_axes=(None, 0))(row_keys_B, columns)


def _draw(logits_BxV, noise_BxV, temperature) -> tuple[jax.Array, jax.Array]:
  """A token for each row, int32[B], and its log-probability, float32[B].

  argmax(logits + T * Gumbel noise) is a draw from softmax(logits / T). At T = 0 it is the most
  probable token.
  """
  token_B = argmax(logits_BxV + temperature * noise_BxV)
  log_probs_BxV = jax.nn.log_softmax(logits_BxV / jnp.where(temperature > 0, temperature, 1.0))
  return token_B, jnp.take_along_axis(log_probs_BxV, token_B[:, None], axis=1)[:, 0]
