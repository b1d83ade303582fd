"""What the supports of an experiment hold, in numbers and examples: for the report."""

import zlib
from typing import Any

import jax
import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import ancestry
from compgen_jax.experiment.replicate import Replicate
from compgen_jax.task import modules, tables
from compgen_jax.task.latent import Composition
from compgen_jax.task.support import Support
from compgen_jax.task.vocab import TaskConfig


def supports(config: Config, replicate: Replicate) -> dict[str, dict[str, Any]]:
  """Name -> what a replicate's support holds; plain data.

  `compositions`: depth -> how many. `is_exact`: whether all of these were counted; else they are
  estimated from a sample. `example`: a composition, such as `earlier reverse, merge fold`. `shown`:
  support that stages train on -> the share of this one's compositions that it can show, among
  `eval.problems` of each depth. (Dry supports show nothing, and are left out of it.)
  """
  used = ancestry.trained_on(config)
  trained = {name: replicate.supports[name] for name in used if not config.supports[name].dry}
  solvable = [c for c in config.supports.values() if not c.dry]
  cap = max(max(c.depths) for c in solvable)
  cap = max(cap, replicate.evaluator.step_cap)  # as wide as the evaluator asks: programs are shared
  return {
    name: _about(name, support, config, trained, cap)
    for name, support in replicate.supports.items()
  }


def _about(
  name: str, support: Support, config: Config, trained: dict[str, Support], cap: int
) -> dict[str, Any]:
  counts = {depth: tables.size(support, depth) for depth in support.config.depths}
  about: dict[str, Any] = {
    'compositions': {str(depth): n for depth, (n, _) in counts.items()},
    'is_exact': all(is_exact for _, is_exact in counts.values()),
    'shown': {},
  }
  shown: dict[str, list[float]] = {other: [] for other in trained if other != name}
  key = jax.random.key(zlib.crc32(b'examples'))
  for depth in support.config.depths:
    drawn = tables.sample_at_depth(support, key, depth, config.eval.problems, max(cap, depth))
    about['example'] = _in_words(drawn, config.task)  # of the deepest
    for other in () if support.config.dry else shown:
      shown[other].append(float(np.mean(trained[other].shows_all(drawn))))
  about['shown'] = {other: float(np.mean(shares)) for other, shares in shown.items() if shares}
  return about


def _in_words(drawn: Composition, task: TaskConfig) -> str:
  """The first of the compositions (leading axis B)."""
  depth = int(drawn.depth[0])
  routings, skills = (modules.names(x) for x in (task.routing_inventory, task.skill_inventory))
  return ', '.join(
    f'{routings[r]} {skills[s]}' for r, s in zip(drawn.routing[0, :depth], drawn.skill[0, :depth])
  )
