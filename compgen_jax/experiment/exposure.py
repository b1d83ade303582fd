"""How well the arms of a finished run execute a module, by how often SFT's data showed it."""

import collections
from typing import Any

import numpy as np

from compgen_jax.experiment.finished import Finished
from compgen_jax.statistics import pooled_share
from compgen_jax.theory import witnesses

# Compositions that hold a module: the least of each class, which goes up to the next.
CLASSES = (0, 1, 2, 3, 4, 5, 7, 10, 15, 25, 50, 100)
KINDS = ('routing', 'skill')


def rows(run: Finished, arm: str) -> list[dict[str, Any]]:
  """The share of an arm's steps that are right, by kind of module and by how many compositions of
  the data at the start of the arm's line, its SFT parent's, hold the module.

  Steps are those of the splits that are neither trained on nor of the validation pool; seeds are
  clusters (`pooled_share`). Empty where these data have no table.
  """
  config, data = run.config, run.root_data(arm)
  if not all(config.supports[name].compositions for name in data):
    return []
  splits = {
    split
    for split in config.ordered_splits
    if split not in config.eval.trained and config.pool_of(split) != 'validation'
  }
  n, right = (collections.defaultdict(collections.Counter) for _ in range(2))  # of class, by seed
  modules = collections.defaultdict(set)
  for seed, evaluation in run.evaluations[arm].items():
    class_of = _classes(run, data, seed)
    for row in evaluation.rows:
      kind = row['metric'].removesuffix('_accuracy')
      if kind in KINDS and row['split'] in splits:
        key = kind, class_of[row['module']]
        n[key][seed] += row['n']
        right[key][seed] += row['value'] * row['n']
        modules[key].add((seed, row['module']))
  return [
    dict(kind=key[0], n=sum(n[key].values()), modules=len(modules[key]))
    | _range(key[1])
    | _share(right[key], n[key])
    for key in sorted(n)
  ]


def _classes(run: Finished, data: tuple[str, ...], seed: int) -> dict[str, int]:
  """For each module, by name, the index of its class."""
  task = run.config.task
  used_ZxM = witnesses.times_used(witnesses.steps_of(run.compositions(data, seed), task), task)
  held_M = np.sum(used_ZxM > 0, axis=0)
  class_M = np.searchsorted(CLASSES, held_M, side='right') - 1
  return dict(zip(witnesses.module_names(task), class_M.tolist()))


def _range(index: int) -> dict[str, int | None]:
  """The least and the most compositions of a class."""
  last = index + 1 == len(CLASSES)
  return dict(least=CLASSES[index], most=None if last else CLASSES[index + 1] - 1)


def _share(right: collections.Counter, n: collections.Counter) -> dict[str, Any]:
  share, low, high, over = pooled_share(*(np.array([x[seed] for seed in n]) for x in (right, n)))
  return dict(accuracy=share, low=low, high=high, interval=over)
