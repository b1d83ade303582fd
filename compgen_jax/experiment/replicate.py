"""A replicate of an experiment, and the arrays that its updates are given."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from compgen_jax.experiment.evaluate import Evaluator
from compgen_jax.experiment.programs import Stage, key_for, replicated
from compgen_jax.learning.state import Given
from compgen_jax.task.support import Support


class Replicate(NamedTuple):
  """One replicate of an experiment: what its seed draws, beside initialisation and samples."""

  seed: int
  supports: dict[str, Support]
  evaluator: Evaluator


def arguments(stage: Stage, replicates: list[Replicate], start: Any) -> Given:
  """What all updates of a stage are given, with a leading replicate axis.

  `start`: the parameters that the stage starts from, with the same axis.
  """
  seeds = jnp.asarray([replicate.seed for replicate in replicates])
  names = [source.name for source in (*stage.setup.sources, *stage.setup.anchor)]
  supports = [
    {name: replicate.supports[name].sampler for name in names} for replicate in replicates
  ]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *supports)
  keys = jax.vmap(lambda seed: key_for(seed, stage.name))(seeds)
  return Given(keys, start, replicated(stacked), stage.rates_from(0, len(replicates)))
