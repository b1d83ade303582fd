"""Runs as a report sees them: results drawn at random, none of it trained."""

import numpy as np

from compgen_jax import config as config_lib
from compgen_jax.experiment import files, summary, workdirs
from compgen_jax.experiment.evaluate import Pooled
from compgen_jax.statistics import wilson
from configs import default

ARMS = {'sft': 0.30, 'atomic': 0.36, 'compound': 0.62, 'sft_continued': 0.33, 'rft': 0.41}
MODULES = {
  'skill_accuracy': ('reverse', 'rotate', 'swap_ends'),
  'routing_accuracy': ('previous', 'first'),
}
GAIN = (
  (1, 'compound', 'deeper', 0),
  (-1, 'sft', 'deeper', 0),
  (-0.5, 'rft', 'seen', 2),
  (0.5, 'sft', 'seen', 2),
)
CONTRASTS = (
  ('ex.compound_minus_atomic', ((1, 'compound', 'unseen', 3), (-1, 'atomic', 'unseen', 3))),
  ('ex.gain', GAIN),
  ('ex.level', ((1, 'sft', 'unseen', 3),)),
)
# What summary.json says of a support, and a kept trace: see `experiment/about.py`, `evaluate.py`.
ABOUT = {
  'compositions': {'2': 25, '3': 4800},
  'is_exact': False,
  'example': 'earlier reverse, merge fold',
  'shown': {'sft': 0.5},
}
KEPT = {
  'split': 'unseen',
  'depth': 2,
  'prompt': 'solve A bca B dd C earlier reverse D merge successor =',
  'trace': 'C earlier reverse bca C acb D merge successor acbdd D bdcee = bdcee end',
  'alphabet': 'abcdefgh',
  'reserved': [],
}
# Name of a metric of metrics.jsonl -> its value at the start and at the end of a stage.
LEARNING = {
  'loss': (2.0, 0.1),
  'reward': (0.2, 0.6),
  'structure': (0.6, 0.9),
  'entropy': (0.5, 0.2),
}


def make_config(seeds=(), contrasts=CONTRASTS, arms=tuple(ARMS)):
  """A config whose stages are `arms`; all but 'sft' start from it."""
  config = default.get_config()
  config.experiment, config.seeds, config.contrasts = 'example', seeds, contrasts
  for arm in arms:
    if arm != 'sft':
      kind = {'rft': 'rft', 'sft_continued': 'sft'}.get(arm, 'rl')
      config.stages[arm] = default.stage(kind, 'sft', 300, ('sft',))
  return config_lib.from_config_dict(config)


def make_run(folder, config, levels=ARMS, modules=MODULES, n=200):
  """(rows, result) as a run makes them, with accuracies about `levels`, and the learning curves."""
  rng = np.random.default_rng(0)
  evaluations, rows = {}, []
  for arm in config.stage_order:
    write_learning_curves(folder, config, arm, rng)
    evaluations[arm] = Pooled([], {})
    for split in config.ordered_splits:
      for depth in config.supports[config.eval.splits[split]].depths:
        p = levels[arm] if depth == 1 else levels[arm] ** (depth / 2)
        for seed in config.all_seeds:
          label = dict(
            experiment=config.experiment,
            arm=arm,
            stage=config.stages[arm].kind,
            seed=seed,
            split=split,
            depth=depth,
          )
          if split in config.eval.curve:
            rows += _curve_rows(label, config.stages[arm].steps, p, n)
          answers = [bool(x) for x in rng.random(n) < p]
          evaluations[arm].items.setdefault(f'{split}/{depth}', []).append(answers)
          label |= dict(step=config.stages[arm].steps)
          evaluations[arm].rows.extend(_final_rows(label, p, sum(answers), n, modules))
    rows += evaluations[arm].rows
  result = summary.summarise(config, evaluations, 75.0)
  result |= {'supports': {name: dict(ABOUT) for name in config.supports}, 'starts_from': {}}
  return rows, result


def write_learning_curves(folder, config, arm, rng):
  """The stage's metrics.jsonl of every seed."""
  stage = config.stages[arm]
  for seed in config.all_seeds:
    history = []
    for step in range(20, stage.steps + 1, 20):
      row = {'step': step}
      for metric, (start, end) in LEARNING.items():
        level = start + (end - start) * step / stage.steps
        row[metric] = level + 0.02 * float(rng.normal())
      history.append(row)
    files.write_sealed_jsonl(workdirs.stage_folder(folder, arm, seed) / 'metrics.jsonl', history)


def _curve_rows(label, steps, p, n):
  return [
    label | dict(step=int(at * steps), metric='accuracy') | _share(int(at * p * n), n)
    for at in (0.4, 0.8)
  ]


def _final_rows(label, p, n_right, n, modules):
  counts = dict(
    accuracy=n_right,
    strict_accuracy=int(0.9 * n_right),
    structure_accuracy=(n_right + n) // 2 if p else 0,
  )
  n_wrong = n - n_right
  counts |= dict(zip(('wrong_structure', 'wrong_routing', 'wrong_copy'), [n_wrong // 4] * 3))
  counts['wrong_skill'] = n_wrong - 3 * (n_wrong // 4)
  rows = [label | dict(metric=metric) | _share(k, n) for metric, k in counts.items()]
  rows += [label | dict(metric=f'pass@{k}', value=1 - (1 - p) ** k, n=12) for k in (1, 4)]
  for metric, names in modules.items() if p else ():
    for i, name in enumerate(names):
      share = _share(int(40 * p ** (i % 7 / 5)), 40)
      rows.append(label | dict(metric=metric, module=name) | share)
  return rows


def _share(k, n):
  low, high = wilson(k, n)
  return dict(value=k / n, n=n, low=low, high=high)
