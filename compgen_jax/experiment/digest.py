"""What a report shows, as numbers with n and interval; nothing here draws or writes.

Intervals follow summary.json: with two or more seeds they are over seeds (Student's t), with one over problems. Where
that formula gives no width at all (every problem right, every one wrong, all seeds alike) there is no such thing as
certainty, so the Wilson interval over problems stands in.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import record
from compgen_jax.statistics import wilson
from compgen_jax.experiment.summary import interval

# Okabe and Ito's palette, in an order that keeps neighbours apart also in grey; its yellow is too pale for points.
COLOURS = ('#666666', '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9')
NO_WIDTH = 1e-9  # an interval narrower than this (rounding) measured no spread
CURVES = {  # (stage kinds, metric of metrics.jsonl): title of its panel
  (('sft',), 'loss'): 'SFT: loss (nats per token)',
  (('rft',), 'loss'): 'RFT: loss (nats per token)',
  (('rl', 'rft'), 'reward'): 'RL, RFT: reward (sampled traces right)',
  (('rl',), 'structure'): 'RL: structure (sampled traces right)',
  (('rl',), 'entropy'): 'RL: entropy (nats per token)',
}

Cell = tuple[str, str, int]  # arm, split, depth
Column = tuple[str, int]  # split, depth


class Estimate(NamedTuple):
  """A share with its 95 % interval `over` seeds, problems or steps; n is per seed."""

  value: float
  low: float
  high: float
  n: int
  over: str


Modules = dict[str, dict[str, dict[str, Estimate]]]  # metric -> module -> arm


class Contrast(NamedTuple):
  """A contrast of the summary, in accuracy points, with what it is made of."""

  name: str
  value: float
  low: float
  high: float
  over: str
  n: int
  formula: str  # '' where the config does not have it
  is_difference: bool  # False for a plain level, about which "is it zero?" is no question

  @property
  def side(self) -> str:
    """Where the interval lies: above zero | below zero | includes zero | no width (nothing measured its spread)."""
    if self.high - self.low < NO_WIDTH:
      return 'no width'
    return 'above zero' if self.low > 0 else 'below zero' if self.high < 0 else 'includes zero'

  @property
  def written(self) -> tuple[str, str]:
    """Value and interval as text, differences with their sign."""
    value, low, high = (
      signed(x) if self.is_difference else f'{x:.1f}' for x in (self.value, self.low, self.high)
    )
    return value, f'[{low}, {high}]'


class Outcomes(NamedTuple):
  """Shares of traces; they add up to 1. See `_outcomes` for what is approximate."""

  strict: float
  answer_only: float
  wrong_step: float
  wrong_structure: float


class Line(NamedTuple):
  """One arm's curve: the mean over seeds and their range."""

  x: np.ndarray  # share of the stage's updates, percent: stages of any length side by side
  mean: np.ndarray
  low: np.ndarray
  high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Digest:
  """Everything that tables and figures show."""

  arms: tuple[str, ...]
  columns: tuple[Column, ...]
  updates: dict[str, int]  # of an arm's stage
  accuracy: dict[Cell, Estimate]
  others: dict[str, dict[Cell, Estimate]]  # metric -> the same
  outcomes: dict[Cell, Outcomes]
  contrasts: tuple[Contrast, ...]
  modules: Modules
  unseen: tuple[str, ...]  # splits that `modules` pools
  curves: dict[str, dict[str, Line]]  # title of a panel -> arm
  accuracy_curves: dict[Column, dict[str, Line]]  # -> arm

  def colour(self, arm: str) -> str:
    """The arm's colour, the same in every table and figure."""
    return COLOURS[self.arms.index(arm) % len(COLOURS)]


def digest(
  folder: pathlib.Path, config: Config, rows: list[dict[str, Any]], result: dict[str, Any]
) -> Digest:
  """Collects what the report shows.

  Args:
    folder: the run's workdir, for the learning curves.
    config: the experiment.
    rows: the rows of results.jsonl.
    result: what summary.json holds.
  """
  table = result['table']
  arms = tuple(dict.fromkeys(entry['arm'] for entry in table))
  splits = dict.fromkeys(entry['split'] for entry in table)
  unseen = tuple(split for split in splits if split not in config.eval.trained)
  final = [row for row in rows if row['step'] == config.stages[row['arm']].steps]
  others: dict[str, dict[Cell, Estimate]] = {}
  of_cells = [row for row in final if 'module' not in row]
  for (metric, *cell), group in _groups(of_cells, 'metric', 'arm', 'split', 'depth'):
    if metric != 'accuracy':
      others.setdefault(metric, {})[tuple(cell)] = estimate(group)
  return Digest(
    arms=arms,
    columns=tuple(dict.fromkeys((entry['split'], entry['depth']) for entry in table)),
    updates={arm: config.stages[arm].steps for arm in arms},
    accuracy={(e['arm'], e['split'], e['depth']): _accuracy(e) for e in table},
    others=others,
    outcomes={(e['arm'], e['split'], e['depth']): _outcomes(e) for e in table},
    contrasts=tuple(
      _contrast(c, dict(config.contrasts).get(c['name'])) for c in result['contrasts']
    ),
    modules=_modules(final, unseen, config.task.trace),
    unseen=unseen,
    curves=_curves(folder, config, arms),
    accuracy_curves=_accuracy_curves(config, rows, arms),
  )


def signed(value: float) -> str:
  """With one decimal and its sign, except where it rounds to nothing."""
  return '0.0' if abs(value) < 0.05 else f'{value:+.1f}'.replace('-', '−')


def estimate(rows: list[dict[str, Any]], unit: str = 'problems') -> Estimate:
  """Pools rows of one metric, weighted by n. A mean of values in [0, 1] varies no more than a share does, so Wilson's
  interval covers pass@k too."""
  per_seed = [
    (np.array([r['value'] for r in g]), np.array([r['n'] for r in g]))
    for _, g in _groups(rows, 'seed')
  ]
  values = np.array([np.sum(value * n) / np.sum(n) for value, n in per_seed])
  n = round(np.mean([np.sum(n) for _, n in per_seed]))
  if len(values) > 1 and np.ptp(values) > NO_WIDTH:
    mean, low, high, over = interval(values, values[:, None])
    return Estimate(mean, max(low, 0.0), min(high, 1.0), n, over)
  mean = float(np.mean(values))
  return Estimate(mean, *wilson(mean * n, n), n, unit)


def _groups(
  rows: Iterable[dict[str, Any]], *fields: str
) -> list[tuple[tuple, list[dict[str, Any]]]]:
  groups: dict[tuple, list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault(tuple(row[field] for field in fields), []).append(row)
  return list(groups.items())


def _accuracy(entry: dict[str, Any]) -> Estimate:
  value, n = entry['accuracy'], entry['n']
  if entry['high'] - entry['low'] < NO_WIDTH:
    return Estimate(value, *wilson(value * n, n), n, 'problems')
  return Estimate(value, entry['low'], entry['high'], n, entry['interval'])


def _outcomes(entry: dict[str, Any]) -> Outcomes:
  """Shares that add up to 1. Results do not say how often a right answer ends a trace of wrong structure; taken as
  rarely as can be, which makes `wrong_step` the least it can be."""
  answer, strict, structure = (
    entry['accuracy'],
    entry['strict_accuracy'],
    entry['structure_accuracy'],
  )
  return Outcomes(
    strict, answer - strict, max(structure - answer, 0.0), 1.0 - max(structure, answer)
  )


def _contrast(c: dict[str, Any], terms: tuple | None) -> Contrast:
  is_difference = terms is None or abs(sum(weight for weight, *_ in terms)) < 1e-9
  formula = _formula(terms) if terms else ''
  return Contrast(
    c['name'],
    c['value'],
    c['low'],
    c['high'],
    c['interval'],
    c['n_problems'],
    formula,
    is_difference,
  )


def _formula(terms: tuple) -> str:
  """`compound − sft, on unseen 4`; with splits or depths that differ, each arm carries its own."""
  place = lambda split, depth: f'{split} {depth}' if depth else f'{split}, mean over depths'
  places = {place(split, depth) for _, _, split, depth in terms}
  text = ''
  for weight, arm, split, depth in terms:
    sign = (' + ' if text else '') if weight >= 0 else (' − ' if text else '−')
    factor = '' if abs(weight) == 1 else f'{abs(weight):g} × '
    text += sign + factor + (arm if len(places) == 1 else f'{arm} ({place(split, depth)})')
  return f'{text}, on {places.pop()}' if len(places) == 1 else text


def _modules(final: list[dict[str, Any]], unseen: tuple[str, ...], trace: str) -> Modules:
  modules: Modules = {}
  # A compact trace shows no operands, so nothing about routing alone can be read from it.
  metrics = ('skill_accuracy', 'routing_accuracy') if trace == 'explicit' else ('skill_accuracy',)
  of_modules = [
    row for row in final if 'module' in row and row['split'] in unseen and row['metric'] in metrics
  ]
  for (metric, module, arm), group in _groups(of_modules, 'metric', 'module', 'arm'):
    modules.setdefault(metric, {}).setdefault(module, {})[arm] = estimate(group, 'steps')
  return {metric: modules[metric] for metric in metrics if metric in modules}


def _curves(
  folder: pathlib.Path, config: Config, arms: tuple[str, ...]
) -> dict[str, dict[str, Line]]:
  history = {arm: record.read_metrics(folder, arm, config.all_seeds) for arm in arms}
  curves: dict[str, dict[str, Line]] = {}
  for (kinds, metric), title in CURVES.items():
    for arm in arms:
      points = [(row['step'], row[metric]) for row in history[arm] if metric in row]
      if config.stages[arm].kind in kinds and points:
        curves.setdefault(title, {})[arm] = _line(points, config.stages[arm].steps)
  return curves


def _accuracy_curves(
  config: Config, rows: list[dict[str, Any]], arms: tuple[str, ...]
) -> dict[Column, dict[str, Line]]:
  """Accuracy during training. A stage's curve starts where the stage it comes from ended."""
  curves: dict[Column, dict[str, Line]] = {}
  accuracy = [
    row for row in rows if row['metric'] == 'accuracy' and row['split'] in config.eval.curve
  ]
  by_cell = {
    key: [(step, [row['value'] for row in group]) for (step,), group in _groups(same, 'step')]
    for key, same in _groups(accuracy, 'arm', 'split', 'depth')
  }
  for (arm, split, depth), points in by_cell.items():
    if len(points) > 1:  # one point is no curve: the table has it
      start = by_cell.get((config.stages[arm].init_from, split, depth))
      points = ([(0, start[-1][1])] if start else []) + points
      curves.setdefault((split, depth), {})[arm] = _line(points, config.stages[arm].steps)
  return {key: {arm: lines[arm] for arm in arms if arm in lines} for key, lines in curves.items()}


def _line(points: list[tuple[int, list[float]]], updates: int) -> Line:
  steps, values = zip(*points)
  values_NxS = np.asarray(values)
  mean, low, high = (reduce(values_NxS, axis=1) for reduce in (np.mean, np.min, np.max))
  return Line(100 * np.asarray(steps) / updates, mean, low, high)
