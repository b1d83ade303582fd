"""Several traces in one row: no model pass is spent on padding.

Examples differ in length by a factor of three and more. They are laid into rows of a fixed width, whole and one behind the
other (first fit, longest first, within groups: at most about 11/9 of the fewest rows possible, Johnson 1973); `Model.apply`
keeps them apart by their document numbers. Rows that stay empty come last; a loop over blocks of rows does not reach them.

Shape letters: B examples, P prompt columns, C trace columns, T columns of an example, N packed rows, W their width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_GROUP = 128  # examples that are packed together; groups are packed side by side


class Packed(NamedTuple):
  """`columns`: each of [N, W], zero where `document` int32[N, W] is 0; equal numbers are one example. `n_rows` int32[]: rows in
  use, all leading."""

  columns: dict[str, jax.Array]
  document: jax.Array
  n_rows: jax.Array


def _first_fit(length_B: jax.Array, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Row and column of each example, and the free columns of each of B rows."""
  order_B = jnp.argsort(-length_B)

  def place(free_B, length):
    row = jnp.argmax(free_B >= length)
    here_B = jnp.arange(free_B.shape[0]) == row
    return free_B - here_B * length, (row, width - jnp.max(free_B * here_B))

  free_B, (row_B, column_B) = jax.lax.scan(
    place, jnp.full(length_B.shape, width), length_B[order_B]
  )
  back_B = jnp.argsort(order_B)
  return row_B[back_B], column_B[back_B], free_B


def pack(
    columns: dict[str, jax.Array], first_B: jax.Array, length_B: jax.Array, width: int, multiple: int = 1,
    shard: jax.Array | int = 0, shards: int = 1,
) -> Packed:  # fmt: skip
  """Packs the columns [first, first + length) of each example; one of length 0 leaves no trace.

  The rows in use are dealt out like cards, so that none of `shards` devices has more than one row more than another.

  Args:
    columns: arrays [B, T].
    first_B: int32.
    length_B: int32, at most `width`.
    width: W.
    multiple: the number of rows N is rounded up to a multiple of it.
    shard: int32[], which of the shards to return.
    shards: how many there are.
  """
  n_examples, n_columns = next(iter(columns.values())).shape
  n_groups = -(-n_examples // _GROUP)
  group = -(-n_examples // n_groups)
  length_GxE = jnp.pad(length_B, (0, n_groups * group - n_examples)).reshape(n_groups, group)
  row_GxE, column_GxE, free_GxE = jax.vmap(lambda l: _first_fit(l, width))(length_GxE)
  used_R = free_GxE.reshape(-1) < width
  row_B = (row_GxE + group * jnp.arange(n_groups)[:, None]).reshape(-1)[:n_examples]
  row_B = (jnp.cumsum(used_R) - 1)[row_B]

  n_cells = -(-n_examples // (shards * multiple)) * multiple * width
  start_B = row_B // shards * width + column_GxE.reshape(-1)[:n_examples]
  start_B = jnp.where((length_B > 0) & (row_B % shards == shard), start_B, n_cells)
  example_X = (
    jnp.zeros((n_cells,), jnp.int32).at[start_B].set(jnp.arange(n_examples) + 1, mode='drop')
  )
  cell_X = jnp.arange(n_cells)
  start_X = jax.lax.cummax(
    jnp.where(example_X > 0, cell_X, 0)
  )  # of the example that owns the cell, if one does
  example_X = example_X[start_X] - 1
  column_X = cell_X - start_X
  owned_X = (example_X >= 0) & (column_X < length_B[example_X])
  source_X = example_X * n_columns + first_B[example_X] + column_X
  source_X = jnp.where(owned_X, source_X, 0)
  fill = lambda a: jnp.where(owned_X, a.reshape(-1)[source_X], jnp.zeros((), a.dtype)).reshape(
    -1, width
  )
  document_NxW = jnp.where(owned_X, example_X + 1, 0).reshape(-1, width)
  n_rows = (jnp.sum(used_R) + shards - 1 - shard) // shards
  return Packed(jax.tree.map(fill, columns), document_NxW, n_rows.astype(jnp.int32))


def pack_traces(
    prompt_BxP: jax.Array, trace_BxC: jax.Array, mask_BxC: jax.Array, columns: dict[str, jax.Array],
    pad: int, width: int, multiple: int = 1, shard: jax.Array | int = 0, shards: int = 1,
) -> tuple[dict[str, jax.Array], jax.Array]:  # fmt: skip
  """Next-token examples from prompts and traces, packed.

  Args:
    prompt_BxP: int32, padded on the left.
    trace_BxC: int32, padded on the right.
    mask_BxC: bool, the trace tokens to learn from; an example without any is left out.
    columns: arrays [B, C], what a loss wants to know of each trace token.
    pad: the padding token.
    width: about W, which is the nearest multiple of the longest possible example.
    multiple, shard, shards: see `pack`.

  Returns:
    `(rows, n_rows)`: arrays [N, W] `token`, `target` (the token that follows), `document`, and each of `columns`, at the
    column whose *target* it describes and zero at targets in the prompt; and the number of rows in use.
  """
  n_prompt = prompt_BxP.shape[1]
  tokens = jnp.concatenate([prompt_BxP, trace_BxC], axis=1)
  n_written_B = jnp.max(jnp.where(mask_BxC, jnp.arange(mask_BxC.shape[1]) + 1, 0), axis=1)
  first_B = jnp.sum(prompt_BxP == pad, axis=1)
  length_B = jnp.where(n_written_B > 0, n_prompt - first_B + n_written_B - 1, 0)
  shifted = {name: jnp.pad(a, ((0, 0), (n_prompt - 1, 0))) for name, a in columns.items()}
  shifted |= dict(token=tokens[:, :-1], target=tokens[:, 1:])
  longest = tokens.shape[1] - 1
  packed = pack(
    shifted, first_B, length_B, longest * max(1, round(width / longest)), multiple, shard, shards
  )
  return packed.columns | dict(document=packed.document), packed.n_rows
