"""A few traces that a policy samples, with their rewards: to be read while it learns."""

from typing import Any

import jax
import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import kept, points
from compgen_jax.experiment.evaluate import Evaluator
from compgen_jax.learning.exploration import REWARDS

SAMPLES = 4  # of one problem


def lines(
  evaluator: Evaluator, params: Any, config: Config, stage: str, step: int
) -> list[dict[str, Any]]:
  """SAMPLES traces of the first problem of each (split, depth) of `eval.curve`, as plain data.

  They are sampled and rewarded as in the stage's training (at its temperature), but not learned
  from. `reward`, and what `evaluate.Evaluation` says of traces. (Not of splits with a prefix; [] in
  a stage that does not explore.)
  """
  if not config.kind(stage).explores:
    return []
  settings, n_rows = config.settings(stage), evaluator.rows
  cells = [
    (split, depth)
    for split, depth in evaluator.problems
    if split in config.eval.curve and not config.supports[config.eval.splits[split]].prefix
  ][: min(n_rows, kept.KEPT) // SAMPLES]
  if not cells:
    return []
  repeated = [
    jax.tree.map(lambda x: np.repeat(x[:1], SAMPLES, axis=0), evaluator.problems[cell])
    for cell in cells
  ]
  problems, rendered = points.joined(repeated, SAMPLES, n_rows)
  written = evaluator.write(params, problems, rendered, settings.temperature, prefix=0)
  rollout, verdict = jax.device_get(written)
  rewards = REWARDS[settings.reward](verdict, problems.composition.depth)
  texts = kept.first_problems(rendered, rollout, config.task)[: len(cells) * SAMPLES]
  found = []
  for i, (trace, reward) in enumerate(zip(texts, np.asarray(rewards).astype(float).tolist())):
    split, depth = cells[i // SAMPLES]
    label = {'step': step, 'split': split, 'depth': depth, 'reward': reward}
    found.append(label | trace | {'problem': 0})
  return found
