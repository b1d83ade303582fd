"""Learning curves: a line per arm, over the updates of its stage."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import workdirs

Place = tuple[str, int]  # split, depth


class Line(NamedTuple):
  """One arm's curve, float[points] each: the mean over seeds and their range."""

  x: np.ndarray  # share of the stage's updates, percent: stages of any length side by side
  mean: np.ndarray
  low: np.ndarray
  high: np.ndarray


class Panel(NamedTuple):
  """What one panel of the learning figure shows of metrics.jsonl."""

  metric: str
  kinds: tuple[str, ...]  # the kinds of stages that have it there
  title: str
  top: float | None = None  # the end of its axis; None where the data decide
  log_if_wide: bool = False  # a logarithmic axis where values differ more than 20-fold


PANELS = (
  Panel('loss', ('sft',), 'SFT: loss (nats per token)', log_if_wide=True),
  Panel('loss', ('rft',), 'RFT: loss (nats per token)', log_if_wide=True),
  Panel('reward', ('rl', 'rft'), 'RL, RFT: reward (sampled traces right)', top=1.0),
  Panel('structure', ('rl',), 'RL: structure (sampled traces right)', top=1.0),
  Panel('entropy', ('rl',), 'RL: entropy (nats per token)'),
  Panel('signal', ('rl',), 'RL: signal (groups with unequal rewards)', top=1.0),
  Panel('kl', ('rl',), 'RL: KL to the parent (nats per token)'),
)


def learning_curves(
  folder: pathlib.Path, config: Config, arms: tuple[str, ...]
) -> dict[Panel, dict[str, Line]]:
  """Panel -> arm -> line, from each stage's metrics.jsonl; panels without a line are left out."""
  history = {arm: workdirs.read_metrics(folder, arm, config.all_seeds) for arm in arms}
  curves: dict[Panel, dict[str, Line]] = {}
  for panel in PANELS:
    for arm in arms:
      stage = config.stages[arm]
      points = [(row['step'], row[panel.metric]) for row in history[arm] if panel.metric in row]
      if stage.kind in panel.kinds and points:
        curves.setdefault(panel, {})[arm] = _line(points, stage.steps)
  return curves


def accuracy_curves(
  config: Config, rows: list[dict[str, Any]], arms: tuple[str, ...]
) -> dict[Place, dict[str, Line]]:
  """(split, depth) -> arm -> accuracy during training, from the rows of results.jsonl.

  A stage's curve starts at update 0; where that was not measured, where its parent ended. One point
  is no curve: the table has it.
  """
  points: dict[tuple[str, str, int], dict[int, list[float]]] = {}
  for row in rows:
    if row['metric'] == 'accuracy' and row['split'] in config.eval.curve:
      by_step = points.setdefault((row['arm'], row['split'], row['depth']), {})
      by_step.setdefault(row['step'], []).append(row['value'])
  lines: dict[Place, dict[str, Line]] = {}
  for (arm, split, depth), by_step in points.items():
    n_seeds = max(map(len, by_step.values()))
    by_step = {step: values for step, values in by_step.items() if len(values) == n_seeds}
    if len(by_step) > 1:
      stage = config.stages[arm]
      parent = points.get((stage.parent, split, depth))
      start = {0: list(parent.values())[-1]} if parent else {}
      line = _line(list((start | by_step).items()), stage.steps)
      lines.setdefault((split, depth), {})[arm] = line
  return {place: {arm: of[arm] for arm in arms if arm in of} for place, of in lines.items()}


def _line(points: list[tuple[int, list[float]]], updates: int) -> Line:
  """Points are (update, a value per seed)."""
  steps, values = zip(*points)
  values_NxS = np.asarray(values)
  mean, low, high = (reduce(values_NxS, axis=1) for reduce in (np.mean, np.min, np.max))
  return Line(100 * np.asarray(steps) / updates, mean, low, high)
