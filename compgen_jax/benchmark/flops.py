"""Operations in matrix products, counted from shapes.

A multiply-add is 2 operations. Padding counts, because it is computed. Embeddings, softmax, norms,
attention biases and AdamW are time without a count.
"""

from typing import Any

import jax

from compgen_jax.learning import optimizer
from compgen_jax.model.transformer import Model, is_matrix


def forward(model: Model, rows: float, queries: int, keys: float, logits: int) -> float:
  """Operations of a forward pass.

  Args:
    model: the model.
    rows: how many.
    queries: columns of a row that are computed.
    keys: columns that each of them meets in attention.
    logits: columns of a row whose logits are computed.
  """
  c = model.config
  block = 2 * queries * (4 * c.d_model**2 + 2 * c.d_model * c.d_ff) + 4 * queries * keys * c.d_model
  return float(rows * (c.depth * block + 2 * logits * c.d_model * model.vocab_size))


def packed_row(model: Model, columns: int) -> float:
  """Operations of the forward pass of one packed row; its attention is computed in chunks."""
  met = sum(queries * keys for queries, keys in model.attended(columns)) / columns
  return forward(model, 1, columns, met, columns)


def update(optimizer_name: str, params: Any) -> float:
  """Operations of an update of the parameters, where Muon orthogonalises (no other optimizer does).

  See `optimizer.orthogonalise`. A matrix of a x b (a <= b) takes a first and a last product of
  2 a a b operations each. The others take 2 a^3: each polynomial has one, and each but one of them
  has three more, two for the next X X^T and one for the product of all polynomials.
  """
  if optimizer_name != 'muon':
    return 0.0
  n_polynomials = len(optimizer.NEWTON_SCHULZ)
  n_square_products = n_polynomials + 3 * (n_polynomials - 1)
  total = 0.0
  for path, leaf in jax.tree.leaves_with_path(params):
    if is_matrix(path, leaf):
      n_blocks, *sides = leaf.shape
      a, b = sorted(sides)
      total += n_blocks * (2 * 2 * a * a * b + n_square_products * 2 * a**3)
  return total
