"""Several traces in one row, so that the model does not run on padding.

Examples differ in length by a factor of three and more. Whole examples are laid one behind the
other into rows of a fixed width: first fit, longest first, which needs at most about 11/9 of the
fewest rows possible (Johnson 1973). `Model.apply` keeps them apart by their document numbers. Rows
that stay empty come last, so that a loop over microbatches can leave them out.

Shape letters beside those of README.md: Y groups, U examples of a group,
X cells, i.e. all columns of all rows in one axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.model.kernels import ceil_div

_GROUP = (
  128  # examples that are assigned to rows together; groups are independent, so they run at once
)


class Packed(NamedTuple):
  """Packed rows.

  `features`: arrays [M, T], zero where `document` int32[M, T] is 0; columns of equal document are
  one example. `n_rows` int32[]: rows in use, all leading.
  """

  features: dict[str, jax.Array]
  document: jax.Array
  n_rows: jax.Array


class _Places(NamedTuple):
  """Where examples go: `row_B`, `column_B` int32; `n_rows` int32[], rows in use."""

  row_B: jax.Array
  column_B: jax.Array
  n_rows: jax.Array


def _first_fit(length_U: jax.Array, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Row and column of each example of a group, and the free columns of each of U rows."""
  order_U = jnp.argsort(-length_U)

  def place(free_U, length):
    row = jnp.argmax(free_U >= length)
    here_U = jnp.arange(free_U.shape[0]) == row
    return free_U - here_U * length, (row, width - jnp.max(free_U * here_U))

  empty_U = jnp.full(length_U.shape, width)
  free_U, (row_U, column_U) = jax.lax.scan(place, empty_U, length_U[order_U])
  back_U = jnp.argsort(order_U)
  return row_U[back_U], column_U[back_U], free_U


def _assign(length_B: jax.Array, width: int) -> _Places:
  """A row and a column for every example; the rows in use are numbered without gaps."""
  n_examples = length_B.shape[0]
  n_groups = ceil_div(n_examples, _GROUP)
  size = ceil_div(n_examples, n_groups)
  length_YxU = jnp.pad(length_B, (0, n_groups * size - n_examples)).reshape(n_groups, size)
  row_YxU, column_YxU, free_YxU = jax.vmap(lambda length_U: _first_fit(length_U, width))(length_YxU)
  used = free_YxU.reshape(-1) < width
  row_B = (row_YxU + size * jnp.arange(n_groups)[:, None]).reshape(-1)[:n_examples]
  column_B = column_YxU.reshape(-1)[:n_examples]
  return _Places((jnp.cumsum(used) - 1)[row_B], column_B, jnp.sum(used))


def _deal(
  places: _Places,
  length_B: jax.Array,
  n_cells: int,
  width: int,
  shard: jax.Array | int,
  n_shards: int,
) -> tuple[jax.Array, jax.Array]:
  """The first cell of each example among this shard's cells (`n_cells` where it has none).

  Rows are dealt out like cards, so no shard has more than one row more than another. Returns the
  cells int32[B] and the number of this shard's rows in use.
  """
  first_B = places.row_B // n_shards * width + places.column_B
  mine_B = (length_B > 0) & (places.row_B % n_shards == shard)
  n_rows = (places.n_rows + n_shards - 1 - shard) // n_shards
  return jnp.where(mine_B, first_B, n_cells), n_rows.astype(jnp.int32)


def _owners(cell_B: jax.Array, length_B: jax.Array, n_cells: int) -> tuple[jax.Array, jax.Array]:
  """int32[X]: the example that owns each cell (-1: none), and the cell's offset in that example."""
  numbers_B = jnp.arange(cell_B.shape[0]) + 1
  starts_X = jnp.zeros((n_cells,), jnp.int32).at[cell_B].set(numbers_B, mode='drop')
  cell_X = jnp.arange(n_cells)
  last_start_X = jax.lax.cummax(jnp.where(starts_X > 0, cell_X, 0))
  example_X = starts_X[last_start_X] - 1
  offset_X = cell_X - last_start_X
  owned_X = (example_X >= 0) & (offset_X < length_B[example_X])
  return jnp.where(owned_X, example_X, -1), offset_X


def pack(
  features: dict[str, jax.Array],
  first_B: jax.Array,
  length_B: jax.Array,
  width: int,
  multiple: int = 1,
  shard: jax.Array | int = 0,
  n_shards: int = 1,
) -> Packed:
  """Packs the columns [first, first + length) of each example; an example of length 0 is left out.

  Args:
    features: arrays [B, columns].
    first_B: int32.
    length_B: int32, at most `width`.
    width: T, columns of a packed row.
    multiple: the number of rows M is rounded up to a multiple of it.
    shard: int32[], which of the shards to return.
    n_shards: how many shards share the rows.
  """
  n_examples, n_columns = next(iter(features.values())).shape
  n_cells = ceil_div(n_examples, n_shards * multiple) * multiple * width
  places = _assign(length_B, width)
  cell_B, n_rows = _deal(places, length_B, n_cells, width, shard, n_shards)
  example_X, offset_X = _owners(cell_B, length_B, n_cells)
  owned_X = example_X >= 0
  source_X = jnp.where(owned_X, example_X * n_columns + first_B[example_X] + offset_X, 0)

  def gather(feature):
    cells_X = jnp.where(owned_X, feature.reshape(-1)[source_X], jnp.zeros((), feature.dtype))
    return cells_X.reshape(-1, width)

  document_MxT = jnp.where(owned_X, example_X + 1, 0).reshape(-1, width)
  return Packed(jax.tree.map(gather, features), document_MxT, n_rows)


def pack_traces(
  prompt_BxP: jax.Array,
  trace_BxC: jax.Array,
  mask_BxC: jax.Array,
  features: dict[str, jax.Array],
  pad: int,
  width: int,
  multiple: int = 1,
  shard: jax.Array | int = 0,
  n_shards: int = 1,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Next-token examples from prompts and traces, packed.

  Args:
    prompt_BxP: int32, padded on the left.
    trace_BxC: int32, padded on the right.
    mask_BxC: bool, the trace tokens to learn from; an example without any is left out.
    features: arrays [B, C], what a loss wants to know of each trace token.
    pad: the padding token.
    width: about T, which is the nearest multiple of the longest possible example.
    multiple, shard, n_shards: see `pack`.

  Returns:
    `(rows, n_rows)`. `rows` holds arrays [M, T]: `token`, `target` (the token that follows),
    `document`, and each of `features` at the column whose *target* it describes, zero where the
    target is in the prompt. `n_rows` int32[]: the number of rows in use.
  """
  n_prompt = prompt_BxP.shape[1]
  tokens = jnp.concatenate([prompt_BxP, trace_BxC], axis=1)
  n_written_B = jnp.max(jnp.where(mask_BxC, jnp.arange(mask_BxC.shape[1]) + 1, 0), axis=1)
  first_B = jnp.sum(prompt_BxP == pad, axis=1)
  length_B = jnp.where(n_written_B > 0, n_prompt - first_B + n_written_B - 1, 0)
  shifted = {name: jnp.pad(a, ((0, 0), (n_prompt - 1, 0))) for name, a in features.items()}
  shifted |= dict(token=tokens[:, :-1], target=tokens[:, 1:])
  longest = tokens.shape[1] - 1
  row_width = longest * max(1, round(width / longest))
  packed = pack(shifted, first_B, length_B, row_width, multiple, shard, n_shards)
  return packed.features | dict(document=packed.document), packed.n_rows
