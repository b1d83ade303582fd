"""What a report shows, as numbers with n and interval; nothing here draws or writes.

Intervals follow summary.json: with two or more seeds they are over seeds (Student's t), with one
over problems. Where that formula gives no width at all (every problem right, every one wrong, all
seeds alike) there is no such thing as certainty, so the Wilson interval over problems stands in.
"""

import dataclasses
import enum
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from compgen_jax.config import Config
from compgen_jax.report import words
from compgen_jax.report.curves import Line, Panel, Place, accuracy_curves, learning_curves
from compgen_jax.report.looks import Look, look
from compgen_jax.statistics import interval, wilson

NO_WIDTH = 1e-9  # an interval narrower than this (rounding) measured no spread

Cell = tuple[str, str, int]  # arm, split, depth


class Estimate(NamedTuple):
  """A share with its 95 % interval `over` seeds, problems or steps; n is per seed."""

  value: float
  low: float
  high: float
  n: int
  over: str


Modules = dict[str, dict[str, dict[str, Estimate]]]  # metric -> module -> arm


class Side(enum.Enum):
  """Where an interval lies; the value is how tables say it."""

  ABOVE = 'above zero'
  BELOW = 'below zero'
  AROUND = 'includes zero'
  NO_WIDTH = 'no width'  # nothing measured its spread, so nothing follows


class Contrast(NamedTuple):
  """A contrast of the summary, in accuracy points, with what it is made of."""

  name: str
  value: float
  low: float
  high: float
  over: str
  n: int
  what: str  # in words: what is compared
  where: str  # on which split and depth; '' where that differs from term to term
  pair: tuple[str, str, str, int] | None  # arm, other arm, split, depth, if that is all there is
  is_difference: bool  # False for a plain level: nobody asks whether that is zero

  @property
  def side(self) -> Side:
    """Where the interval lies."""
    if self.high - self.low < NO_WIDTH:
      return Side.NO_WIDTH
    if self.low > 0:
      return Side.ABOVE
    return Side.BELOW if self.high < 0 else Side.AROUND

  @property
  def written(self) -> tuple[str, str]:
    """Value and interval as text, differences with their sign."""
    value, low, high = (
      signed(x) if self.is_difference else f'{x:.1f}' for x in (self.value, self.low, self.high)
    )
    return value, f'[{low}, {high}]'


class Outcomes(NamedTuple):
  """Shares of greedy traces; they add up to 1.

  The last four have a wrong answer, by what goes wrong first (see `measures.of_failures`).
  """

  strict: float
  answer_only: float
  wrong_copy: float
  wrong_skill: float
  wrong_routing: float
  wrong_structure: float


class Profile(NamedTuple):
  """Places of different depths that one line can join."""

  title: str
  places: tuple[Place, ...]
  is_trained: bool


@dataclasses.dataclass(frozen=True)
class Digest:
  """Everything that tables and figures show."""

  arms: tuple[str, ...]
  places: tuple[Place, ...]
  profiles: tuple[Profile, ...]  # every place, once
  updates: dict[str, int]  # of an arm's stage
  accuracy: dict[Cell, Estimate]
  others: dict[str, dict[Cell, Estimate]]  # metric -> the same
  outcomes: dict[Cell, Outcomes]  # empty for results made before failures were told apart
  contrasts: tuple[Contrast, ...]
  modules: Modules
  unseen: tuple[str, ...]  # splits that `modules` pools
  curves: dict[Panel, dict[str, Line]]  # -> arm
  accuracy_curves: dict[Place, dict[str, Line]]  # -> arm

  def look(self, arm: str) -> Look:
    """The arm's look, the same in every table and figure."""
    return look(self.arms.index(arm))


def digest(
  folder: pathlib.Path, config: Config, rows: list[dict[str, Any]], summary: dict[str, Any]
) -> Digest:
  """Collects what the report shows.

  Args:
    folder: the run's workdir, for the learning curves.
    config: the experiment.
    rows: the rows of results.jsonl.
    summary: what summary.json holds.
  """
  table = summary['table']
  arms = tuple(dict.fromkeys(entry['arm'] for entry in table))
  splits = dict.fromkeys(entry['split'] for entry in table)
  unseen = tuple(split for split in splits if split not in config.eval.trained)
  final = [row for row in rows if row['step'] == config.stages[row['arm']].steps]
  places = tuple(dict.fromkeys((entry['split'], entry['depth']) for entry in table))
  others: dict[str, dict[Cell, Estimate]] = {}
  of_cells = [row for row in final if 'module' not in row]
  for (metric, *cell), group in _groups(of_cells, 'metric', 'arm', 'split', 'depth'):
    if metric != 'accuracy' and metric not in Outcomes._fields:  # those have places of their own
      others.setdefault(metric, {})[tuple(cell)] = estimate(group)
  return Digest(
    arms=arms,
    places=places,
    profiles=_profiles(config, places),
    updates={arm: config.stages[arm].steps for arm in arms},
    accuracy={(e['arm'], e['split'], e['depth']): _accuracy(e) for e in table},
    others=others,
    outcomes={
      (e['arm'], e['split'], e['depth']): _outcomes(e) for e in table if 'wrong_structure' in e
    },
    contrasts=tuple(_contrast(config, c) for c in summary['contrasts']),
    modules=_modules(final, unseen, config.task.trace),
    unseen=unseen,
    curves=learning_curves(folder, config, arms),
    accuracy_curves=accuracy_curves(config, rows, arms),
  )


def signed(value: float) -> str:
  """With one decimal and its sign, except where it rounds to nothing."""
  return '0.0' if abs(value) < 0.05 else f'{value:+.1f}'.replace('-', '−')


def estimate(rows: list[dict[str, Any]], unit: str = 'problems') -> Estimate:
  """Pools rows of one metric, weighted by n.

  A mean of values in [0, 1] varies no more than a share does, so Wilson's interval covers pass@k
  too. `unit` is what n counts.
  """
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
  right, strict = entry['accuracy'], entry['strict_accuracy']
  return Outcomes(strict, right - strict, *(entry[name] for name in Outcomes._fields[2:]))


def _profiles(config: Config, places: tuple[Place, ...]) -> tuple[Profile, ...]:
  """Splits of a kind (trained on or not, behind dry steps or not) joined while depths differ."""
  joined: list[tuple[tuple[bool, bool], list[Place]]] = []
  for split in dict.fromkeys(split for split, _ in places):
    mine = [place for place in places if place[0] == split]
    depths = {depth for _, depth in mine}
    has_prefix = bool(config.supports[config.eval.splits[split]].prefix)
    kind = split in config.eval.trained, has_prefix
    for other, held in joined:
      if other == kind and not depths & {depth for _, depth in held}:
        held += mine
        break
    else:
      joined.append((kind, mine))
  profiles = []
  for (is_trained, has_prefix), held in joined:
    title = 'trained on' if is_trained else 'never trained on'
    title += ', behind dry steps' if has_prefix else ''
    names = ', '.join(dict.fromkeys(split for split, _ in held))
    in_order = tuple(sorted(held, key=lambda place: place[1]))
    profiles.append(Profile(f'{title}: {names}', in_order, is_trained))
  return tuple(sorted(profiles, key=lambda profile: not profile.is_trained))


def _contrast(config: Config, c: dict[str, Any]) -> Contrast:
  terms = dict(config.contrasts)[c['name']]
  what, where = words.contrast(config, terms)
  pair = None
  if len(terms) == 2 and terms[0][2:] == terms[1][2:] and terms[0][0] == -terms[1][0] == 1:
    (_, arm, split, depth), (_, other, *_) = terms
    pair = arm, other, split, depth
  return Contrast(
    name=c['name'],
    value=c['value'],
    low=c['low'],
    high=c['high'],
    over=c['interval'],
    n=c['n_problems'],
    what=what,
    where=where,
    pair=pair,
    is_difference=abs(sum(weight for weight, *_ in terms)) < 1e-9,
  )


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
