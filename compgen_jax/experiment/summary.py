"""summary.json: the table of an experiment and its contrasts, with 95 % intervals.

With two or more seeds an interval is over seeds (Student's t): how much the number moves from run to run. With one seed
it is over problems (normal approximation on per-problem values, paired, as all arms answer the same problems): how well
this run is measured, not how another run would turn out. `interval` says which.
"""

import functools
import json
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import files, platform
from compgen_jax.experiment.evaluate import Pooled as Evaluation
from compgen_jax.statistics import wilson

COLUMNS = ('accuracy', 'strict_accuracy', 'structure_accuracy')


def interval(per_seed: np.ndarray, per_item: np.ndarray) -> tuple[float, float, float, str]:
  """(mean, low, high, over): `per_seed` [seeds] of values; `per_item` [seeds, n] of values whose means they are."""
  mean, n_seeds = float(np.mean(per_seed)), per_seed.size
  if n_seeds > 1:
    from scipy import special  # here, because it takes a fifth of a second of every start

    half = float(special.stdtrit(n_seeds - 1, 0.975) * np.std(per_seed, ddof=1) / np.sqrt(n_seeds))
    return mean, mean - half, mean + half, 'seeds'
  n = per_item.shape[1]
  half = float(1.959964 * np.std(per_item[0], ddof=1) / np.sqrt(n)) if n > 1 else float('inf')
  return mean, mean - half, mean + half, 'problems'


def contrast(
  config: Config, evaluations: dict[str, Evaluation], name: str, terms
) -> dict[str, Any]:
  """A weighted sum of accuracies, in accuracy points (percent), with its interval.

  A term of depth 0 is the mean over its split's depths. Problems of different splits or depths are paired by their
  number, which is harmless: they are independent draws.
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


def table(config: Config, evaluations: dict[str, Evaluation]) -> list[dict[str, Any]]:
  """One entry per arm, split and depth: accuracy with its interval; strict, structure and pass@k as means over seeds."""
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


def summarise(config: Config, evaluations: dict[str, Evaluation], wall_s: float) -> dict[str, Any]:
  """What summary.json holds."""
  return dict(
    experiment=config.experiment,
    seeds=list(config.all_seeds),
    contrasts=[contrast(config, evaluations, name, terms) for name, terms in config.contrasts],
    table=table(config, evaluations),
    wall_time_s=round(wall_s, 1),
    commit=commit(),
    command=command(),
    hardware=platform.hardware(),
    versions={name: __import__(name).__version__ for name in ('jax', 'flax', 'optax')},
  )


def command() -> str:
  """The command that ran this, as one would type it at the top of the checkout; paths below the working folder relative."""
  here = str(pathlib.Path.cwd()) + '/'
  module = pathlib.Path(sys.argv[0])
  program = (
    f'python -m compgen_jax.{module.stem}' if module.parent.name == 'compgen_jax' else module.name
  )
  return ' '.join([program, *(shlex.quote(arg.replace(here, '')) for arg in sys.argv[1:])])


def accumulate_wall_time(folder: pathlib.Path, seconds: float) -> float:
  """Adds this call's seconds to those of earlier calls on the same workdir; returns the sum."""
  path = folder / 'wall_time.json'
  total = seconds + (json.loads(path.read_text()) if path.exists() else 0.0)
  files.write_json(path, total)
  return total


def table_text(summary: dict[str, Any]) -> str:
  """The table and the contrasts as lines for a terminal."""
  columns = list(dict.fromkeys((e['split'], e['depth']) for e in summary['table']))
  arms = list(dict.fromkeys(e['arm'] for e in summary['table']))
  cell = {(e['arm'], e['split'], e['depth']): e for e in summary['table']}
  width = max(len(arm) for arm in arms) + 2
  lines = ['', 'accuracy, %'.ljust(width) + ''.join(f'{s} {d}'.rjust(11) for s, d in columns)]
  for arm in arms:
    lines.append(
      arm.ljust(width) + ''.join(f'{100 * cell[arm, s, d]["accuracy"]:11.1f}' for s, d in columns)
    )
  if summary['contrasts']:
    wide = max(len(c['name']) for c in summary['contrasts']) + 2
    lines += ['', 'contrast, accuracy points'.ljust(wide) + '   value       95 % interval']
    for c in summary['contrasts']:
      lines.append(
        f'{c["name"].ljust(wide)}{c["value"]:+8.1f}   [{c["low"]:+.1f}, {c["high"]:+.1f}] over {c["interval"]}'
      )
  n = {e['n'] for e in summary['table']}
  lines.append('')
  lines.append(
    f'n = {"/".join(map(str, sorted(n)))} problems per cell, seeds {summary["seeds"]}, {summary["wall_time_s"] / 60:.1f} min, {summary["hardware"]}'
  )
  return '\n'.join(lines)


@functools.cache
def commit() -> str | None:
  """The commit of the code that runs, with '+changes' where the work tree differs; None outside a checkout.

  Kept from the first call on, which a run makes when it starts: the work tree may go on while it runs.
  """
  folder = pathlib.Path(__file__).parent
  git = lambda *args: subprocess.run(
    ['git', *args], cwd=folder, capture_output=True, text=True, timeout=10
  )
  try:
    head, status = git('rev-parse', 'HEAD'), git('status', '--porcelain', '--', str(folder.parent))
  except (OSError, subprocess.TimeoutExpired):
    return None
  return (
    head.stdout.strip() + ('+changes' if status.stdout.strip() else '')
    if head.returncode == 0
    else None
  )
