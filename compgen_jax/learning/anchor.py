"""An auxiliary SFT loss in stages that explore.

A policy unlearns what its prompts do not ask for: from prompts of one step, how to continue a list.
With an anchor, every update also takes a small step on golden traces of given supports (dry ones to
keep the format only), the same for every arm that is compared.
"""

from typing import Any

import jax

from compgen_jax.learning import sft
from compgen_jax.learning.section import ExploringSection
from compgen_jax.learning.setup import Setup
from compgen_jax.learning.state import Given

_PURPOSE = 1 << 20  # folded into an update's key: no other draw of the update uses it


def add(
  grads: Any, params: Any, key: jax.Array, given: Given, setup: Setup, config: ExploringSection
) -> tuple[Any, dict[str, jax.Array]]:
  """`grads` plus `anchor_weight` times the gradient of the anchor's cross-entropy, and its metrics.

  Unchanged, and no metrics, where the stage has no anchor. Gradients and metrics are this device's
  part of sums over devices.
  """
  if not setup.anchor:
    return grads, {}
  key = jax.random.fold_in(key, _PURPOSE)
  more, metrics = sft.golden_gradient(params, key, setup.anchor, given.samplers, setup)
  grads = jax.tree.map(lambda g, m: g + config.anchor_weight * m, grads, more)
  return grads, {'anchor_loss': metrics['loss']}
