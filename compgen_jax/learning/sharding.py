"""How parameters and optimizer state are split over the mesh axis MODEL: one rule for every array.

The weight matrices of the blocks, which are nearly all of a large model, are split over the larger
of their two axes: of a feed-forward part each device has some of the hidden units. The compiler
divides the products accordingly, and sums what the devices have at the end of each part of a block
(Shoeybi et al. 2019, arXiv 1909.08053). Split embeddings, norms and convolutions would only add
meetings: those stay whole.
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec

from compgen_jax.learning.devices import MODEL
from compgen_jax.model.transformer import is_matrix


def spec(path, x: Any, n: int, lead: tuple[str | None, ...] = ()) -> PartitionSpec:
  """How an array of parameters or optimizer state is split.

  Of the axes of a matrix that n divides the larger is split over MODEL (of equals the first).

  Args:
    path: the array's JAX key path.
    x: the array or its shape and dtype, with leading axes before those of the model.
    n: devices along MODEL.
    lead: over which mesh axis each of the leading axes is split; None is over none.
  """
  axes = [*lead, *[None] * (x.ndim - len(lead))]
  own = jax.ShapeDtypeStruct(x.shape[len(lead) :], x.dtype)
  legal = [axis for axis in (x.ndim - 2, x.ndim - 1) if axis >= 0 and x.shape[axis] % n == 0]
  if n > 1 and is_matrix(path, own) and legal:
    axes[max(legal, key=lambda axis: x.shape[axis])] = MODEL
  while axes and axes[-1] is None:  # as programs say it of what they return
    axes.pop()
  return PartitionSpec(*axes)


def specs(tree: Any, n: int, lead: tuple[str | None, ...] = ()) -> Any:
  """`spec` of every array."""
  return jax.tree.map_with_path(lambda path, x: spec(path, x, n, lead), tree)


def keep_split(tree: Any, n: int, lead: tuple[str | None, ...] = ()) -> Any:
  """The same arrays; inside a program, which else might hold them whole on every device."""
  if n == 1:
    return tree
  return jax.lax.with_sharding_constraint(tree, specs(tree, n, lead))


def split_first(x: jax.Array) -> jax.Array:
  """An array inside a program, its leading axis split over MODEL, if the mesh has it and can."""
  n = jax.sharding.get_abstract_mesh().shape.get(MODEL, 1)
  if n == 1 or x.shape[0] % n:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(MODEL))


def bytes_of_device(tree: Any, n: int) -> int:
  """Bytes of the arrays, or shapes of arrays, that one device holds."""

  def held(x, split):
    return x.size * x.dtype.itemsize // (n if MODEL in split else 1)

  return sum(jax.tree.leaves(jax.tree.map(held, tree, specs(tree, n))))
