"""Figures of theory.json: what was witnessed, what that predicts, and what it says of modules."""

import math
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from compgen_jax.report import axes as parts
from compgen_jax.report.axes import FAINT, INK
from compgen_jax.report.composability import KIND_NAMES, groups, rank
from compgen_jax.report.figures import Drawing
from compgen_jax.report.looks import Look, look

LEAST = 20  # problems of a point of `witnesses`, and of a calibration line, that is drawn
CONTROL, MODEL = 'depth', 'depth, witnesses'  # of `predicted`
SORTS = {'routing': 'routing mechanisms', 'skill': 'skills'}


class Arms(NamedTuple):
  """What report/axes.py asks of a digest: the arms shown, and how they look in all figures."""

  arms: tuple[str, ...]
  stages: tuple[str, ...]

  def look(self, arm: str) -> Look:
    """The arm's look, by its place among all stages of the experiment."""
    return look(self.stages.index(arm))


class Interval(NamedTuple):
  """A value with its interval, as report/axes.py draws it."""

  value: float
  low: float
  high: float


def draw(found: dict[str, Any]) -> list[Drawing]:
  """Every figure that theory.json has data for."""
  drawings = []
  panels = witness_panels(found, 'pairs')
  if panels:
    caption = (
      'Accuracy by the share of a composition\u2019s (routing, skill) pairs that SFT\u2019s data '
      f'witness, with 95 % intervals; points of fewer than {LEAST} problems are left out.'
    )
    drawings.append(Drawing('witnesses', witnesses(found, panels, 'pairs'), caption))
  if found['predictions']:
    on = {row['fitted_on'] for row in found['predictions']} - {None}
    halves = 'half of the problems, measured on the other'
    caption = (
      'Predicted against measured accuracy of classes of compositions, alike in depth and in all '
      'that is witnessed. Filled: by depth and witnesses; hollow: by depth alone, the control. '
      f'Line: calibration. Fitted on {", ".join(sorted(on)) or halves}.'
    )
    drawings.append(Drawing('predicted', predicted(found), caption))
  if any(row['pairs']['entanglement']['value'] is not None for row in found['modules']):
    caption = (
      'Entanglement of each module: executed right in witnessed (routing, skill) pairs minus in '
      'others, accuracy points, with 95 % intervals over compositions.'
    )
    drawings.append(Drawing('entanglement', entanglement(found), caption))
  if _gains(found):
    caption = (
      'What reward enriches before exploring (executions of a (routing, skill) pair, within '
      'prompts), and the accuracy that the pair then gains on unseen compositions.'
    )
    drawings.append(Drawing('enrichment', enrichment(found), caption))
  return drawings


def witness_panels(found: dict[str, Any], kind: str) -> list[tuple[tuple, list[dict[str, Any]]]]:
  """(split, depth) and its rows, of splits that no arm was trained on.

  Points of fewer than LEAST problems are left out.
  """
  of_kind = [row for row in found['accuracy'] if row['kind'] == kind and row['n'] >= LEAST]
  rows = [row for row in of_kind if row['split'] not in found['trained']]
  return list(groups(rows, 'split', 'depth'))


def witnesses(
  found: dict[str, Any], panels: list[tuple[tuple, list[dict[str, Any]]]], kind: str
) -> Figure:
  """Accuracy by share of witnessed steps: a line per arm, with 95 % intervals."""
  arms = Arms(tuple(found['arms']), tuple(found['stages']))
  drawn, all_axes = _grid(len(panels), min(4, len(panels)), 2.3)
  for ax, ((split, depth), of_panel) in zip(all_axes, panels):
    for (arm,), mine in groups(of_panel, 'arm'):
      x = [100 * row['witnessed'] / depth for row in mine]
      low, high = ([100 * row[name] for row in mine] for name in ('low', 'high'))
      ax.vlines(x, low, high, color=arms.look(arm).colour, linewidth=1.4, alpha=0.6)
      parts.line(ax, arms, arm, x, [100 * row['accuracy'] for row in mine])
    parts.title(ax, f'{split}, depth {depth}')
    parts.percent(ax.xaxis, 50)
    parts.percent(ax.yaxis)
  parts.arm_legend(drawn, arms)
  _names(drawn, f'witnessed {KIND_NAMES[kind]}, % of steps', 'accuracy, %')
  return drawn


def _grid(n_panels: int, n_across: int, height: float) -> tuple[Figure, list[Any]]:
  """Panels in rows; the last row may be shorter."""
  n_rows = math.ceil(n_panels / n_across)
  drawn, axes = parts.grid(n_rows, n_across, 0.6 + height * n_rows, sharey=True)
  for ax in axes[n_panels:]:
    ax.remove()
  return drawn, axes[:n_panels]


def _names(drawn: Figure, x: str, y: str) -> None:
  drawn.supxlabel(x, fontsize=9, color=INK)
  drawn.supylabel(y, fontsize=9, color=INK)


def predicted(found: dict[str, Any]) -> Figure:
  """A panel per split and arm, those of a split beside each other: classes by predicted and
  measured accuracy."""
  rows = {(r['split'], r['arm'], r['model']): r for r in found['predictions']}
  splits = list(dict.fromkeys(split for split, _, _ in rows))
  arms = Arms(tuple(found['arms']), tuple(found['stages']))
  across = len(arms.arms) if len(arms.arms) <= 6 else 4  # more in a row have no room for titles
  drawn, axes = _grid(len(splits) * len(arms.arms), across, 2.1)
  for ax, (split, arm) in zip(axes, [(s, a) for s in splits for a in arms.arms]):
    control, model = (rows[split, arm, name] for name in (CONTROL, MODEL))
    ax.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8)
    colour = arms.look(arm).colour
    for row, face in ((control, 'none'), (model, colour)):
      x, y = ([100 * c[name] for c in row['classes']] for name in ('predicted', 'measured'))
      size = [4 + c['n'] ** 0.5 for c in row['classes']]
      edge = FAINT if face == 'none' else colour
      ax.scatter(x, y, size, facecolors=face, edgecolors=edge, linewidths=0.7, alpha=0.7)
    kept = [b for b in model['calibration'] if b['n'] >= LEAST]
    x, y = ([100 * b[name] for b in kept] for name in ('predicted', 'measured'))
    ax.plot(x, y, color=INK, linewidth=1.0)
    parts.title(ax, f'{split}: {arm}')
    said = f'{rank(model["rank_correlation"])}\n{rank(control["rank_correlation"])} control'
    ax.text(0.98, 0.02, said, transform=ax.transAxes, ha='right', va='bottom', fontsize=7)
    parts.percent(ax.xaxis, 50)
    parts.percent(ax.yaxis, 50)
  _names(drawn, 'predicted accuracy, %', 'measured accuracy, %')
  return drawn


def entanglement(found: dict[str, Any]) -> Figure:
  """Modules, sorted by the first arm's entanglement: an interval per arm."""
  rows = {(row['arm'], row['module']): row for row in found['modules']}
  arms = Arms(tuple(found['asked']), tuple(found['stages']))
  drawn, axes = parts.grid(1, 2, 6.5, lines='x')
  for ax, (sort, title) in zip(axes, SORTS.items()):
    first = [row for row in found['modules'] if (row['arm'], row['sort']) == (arms.arms[0], sort)]
    scored = [row for row in first if _entanglement_of(row) is not None]
    modules = [row['module'] for row in sorted(scored, key=_entanglement_of)]
    ax.axvline(0, color=INK, linewidth=1)
    for arm in arms.arms:
      held = [rows[arm, module]['pairs']['entanglement'] for module in modules]
      values = [None if h['value'] is None else Interval(**h) for h in held]
      parts.points(ax, arms, arm, values, 0.7, sideways=True)
    ax.set_yticks(range(len(modules)), modules, fontsize=8)
    ax.tick_params(axis='y', length=0)
    parts.title(ax, title)
  parts.arm_legend(drawn, arms)
  drawn.supxlabel('accuracy points', fontsize=9, color=INK)
  return drawn


def _entanglement_of(row: dict[str, Any]) -> float | None:
  return row['pairs']['entanglement']['value']


def _gains(found: dict[str, Any]) -> list[dict[str, Any]]:
  return [row for row in found['gains'] if row['kind'] == 'pairs' and row['points']]


def enrichment(found: dict[str, Any]) -> Figure:
  """A panel per arm that explores: its (routing, skill) pairs."""
  rows = _gains(found)
  arms = Arms(tuple(found['asked']), tuple(found['stages']))
  drawn, axes = _grid(len(rows), min(3, max(2, len(rows))), 2.8)
  for ax, row in zip(axes, rows):
    kept = [
      (100 * within, 100 * gain) for _, within, _, gain in row['points'] if within is not None
    ]
    style = parts.marker(arms, row['arm'], 3.5)
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.plot(*zip(*kept), linestyle='', alpha=0.7, **style)
    said = f'{rank(row["within"])}\n{rank(row["headroom"])} by 1 - P(E) alone'
    ax.text(0.98, 0.98, said, transform=ax.transAxes, ha='right', va='top', fontsize=7)
    parts.title(ax, row['arm'])
  _names(drawn, 'enrichment under reward before exploring, points', 'gain, accuracy points')
  return drawn
