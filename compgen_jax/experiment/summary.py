"""summary.json: the table of an experiment and its contrasts, with 95 % intervals.

With two or more seeds an interval is over seeds (Student's t): how much the number moves from run
to run. With one seed it is over problems (normal approximation on per-problem values, paired, as
all arms answer the same problems): how well this run is measured, not how another run would turn
out. `interval` says which.
"""

from typing import Any

import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import platform, provenance
from compgen_jax.experiment.evaluate import Pooled
from compgen_jax.statistics import interval, wilson


def contrast(config: Config, evaluations: dict[str, Pooled], name: str, terms) -> dict[str, Any]:
  """A weighted sum of accuracies, in accuracy points (percent), with its interval.

  A term of depth 0 is the mean over its split's depths. Problems of different splits or depths are
  paired by their number, which is harmless: they are independent draws.
  """
  total = 0.0
  for weight, arm, split, depth in terms:
    depths = [depth] if depth else config.supports[config.eval.splits[split]].depths
    items = np.mean(
      [np.asarray(evaluations[arm].items[f'{split}/{d}'], float) for d in depths], axis=0
    )
    total = total + 100.0 * weight * items  # [seeds, n]
  mean, low, high, over = interval(np.mean(total, axis=1), total)
  return dict(
    name=name,
    value=mean,
    low=low,
    high=high,
    n_seeds=total.shape[0],
    n_problems=total.shape[1],
    interval=over,
  )


def table(config: Config, evaluations: dict[str, Pooled]) -> list[dict[str, Any]]:
  """One entry per arm, split and depth.

  Accuracy has its interval; strict accuracy, structure and pass@k are means over seeds.
  """
  entries = []
  for arm, evaluation in evaluations.items():
    for key, items in evaluation.items.items():
      split, depth = key.split('/')
      values = np.asarray(items, float)
      mean, low, high, over = interval(values.mean(axis=1), values)
      if over == 'problems':  # a proportion: Wilson's interval has a width at 0 % and 100 % too
        low, high = wilson(values.sum(), values.size)
      means: dict[str, list[float]] = {}
      for row in evaluation.rows:
        if (row['split'], row['depth']) == (split, int(depth)) and 'module' not in row:
          means.setdefault(row['metric'], []).append(row['value'])
      entries.append(
        dict(
          arm=arm,
          split=split,
          depth=int(depth),
          n=values.shape[1],
          low=max(low, 0.0),
          high=min(high, 1.0),
          interval=over,
        )
        | {metric: float(np.mean(v)) for metric, v in means.items()}
        | {'accuracy': mean}
      )
  return entries


def measured(config: Config, evaluations: dict[str, Pooled]) -> dict[str, Any]:
  """The part of summary.json that is a function of what was measured."""
  return dict(
    experiment=config.experiment,
    seeds=list(config.all_seeds),
    contrasts=[contrast(config, evaluations, name, terms) for name, terms in config.contrasts],
    table=table(config, evaluations),
  )


def summarise(config: Config, evaluations: dict[str, Pooled], wall_s: float) -> dict[str, Any]:
  """What summary.json holds."""
  return measured(config, evaluations) | dict(
    wall_time_s=round(wall_s, 1),
    commit=provenance.commit(),
    command=provenance.command(),
    hardware=platform.hardware(),
    versions={name: __import__(name).__version__ for name in ('jax', 'flax', 'optax')},
  )


def table_text(summary: dict[str, Any]) -> str:
  """The table and the contrasts as lines for a terminal."""
  places = list(dict.fromkeys((e['split'], e['depth']) for e in summary['table']))
  arms = list(dict.fromkeys(e['arm'] for e in summary['table']))
  accuracy = {(e['arm'], e['split'], e['depth']): 100 * e['accuracy'] for e in summary['table']}
  corner = 'accuracy, %'
  width = max(map(len, (corner, *arms))) + 2
  names = [f'{split} {depth}' for split, depth in places]
  columns = [max(11, len(name) + 2) for name in names]
  heads = ''.join(name.rjust(column) for name, column in zip(names, columns))
  lines = ['', corner.ljust(width) + heads]
  for arm in arms:
    cells = (accuracy[arm, split, depth] for split, depth in places)
    numbers = ''.join(f'{cell:{column}.1f}' for cell, column in zip(cells, columns))
    lines.append(arm.ljust(width) + numbers)
  if summary['contrasts']:
    width = max(len(c['name']) for c in summary['contrasts']) + 2
    lines += ['', 'contrast, accuracy points'.ljust(width) + '   value       95 % interval']
    for c in summary['contrasts']:
      between = f'[{c["low"]:+.1f}, {c["high"]:+.1f}] over {c["interval"]}'
      lines.append(f'{c["name"].ljust(width)}{c["value"]:+8.1f}   {between}')
  n = '/'.join(map(str, sorted({e['n'] for e in summary['table']})))
  took = f'{summary["wall_time_s"] / 60:.1f} min, {summary["hardware"]}'
  lines += ['', f'n = {n} problems per cell, seeds {summary["seeds"]}, {took}']
  return '\n'.join(lines)
