"""The report's figures. Matplotlib is used only here, and through Figure objects: no backend is chosen for anyone."""

import math
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from compgen_jax.experiment.digest import COLOURS, Digest, Estimate, Outcomes

INK, FAINT, BAND = '#222222', '#8a8a8a', '#f4f4f4'
WIDTH = 9.6  # inches: readable at a laptop's width
DPI = 160
MARKERS = 'osD^vPX'
# Brewer's BrBG: good to bad, colour-blind safe, and none of the arms' colours.
OUTCOMES = {
  'strict': ('every step right', '#01665e', 'white'),
  'answer_only': ('answer right, a step or the structure wrong', '#80cdc1', INK),
  'wrong_step': ('structure right, a routing or skill step wrong', '#dfc27d', INK),
  'wrong_structure': ('structure wrong', '#8c510a', 'white'),
}


class Drawing(NamedTuple):
  """A figure, its file's name, and its caption of one line."""

  name: str
  figure: Figure
  caption: str


def draw(digest: Digest) -> list[Drawing]:
  """Every figure that the digest has data for."""
  n = '/'.join(map(str, sorted({e.n for e in digest.accuracy.values()})))
  caption = f'Problems answered right (greedy), with 95 % intervals; n = {n} problems per seed at each point.'
  drawings = [Drawing('accuracy', accuracy(digest), caption)]
  if digest.contrasts:
    caption = 'Contrasts with 95 % intervals: filled where the interval excludes zero, else hollow; squares are levels.'
    drawings.append(Drawing('contrasts', contrasts(digest), caption))
  if digest.curves or digest.accuracy_curves:
    caption = 'Training, from start to end of each stage: mean over seeds, band from the lowest to the highest.'
    if digest.accuracy_curves:
      caption += ' Accuracy starts where the stage it comes from ended.'
    drawings.append(Drawing('learning', learning(digest), caption))
  if digest.modules:
    caption = (
      f'Steps of each module done right, given what the trace says before them; {", ".join(digest.unseen)} pooled; '
      f'well-structured traces only; sorted by {digest.arms[0]}.'
    )
    drawings.append(Drawing('modules', modules(digest), caption))
  caption = f'Why greedy traces fail (n = {n}). Right answers count as right structure: the third is a lower bound.'
  drawings.append(Drawing('why', why(digest), caption))
  return drawings


def accuracy(digest: Digest) -> Figure:
  """One group per (split, depth), one point with its interval per arm."""
  per_row = max(3, min(len(digest.columns), 64 // len(digest.arms)))
  n_rows = math.ceil(len(digest.columns) / per_row)
  per_row = math.ceil(len(digest.columns) / n_rows)  # rows of like length
  figure, axes = _grid(n_rows, 1, 0.5 + 3.0 * n_rows)
  for i, ax in enumerate(axes):
    columns = digest.columns[i * per_row : (i + 1) * per_row]
    for x in range(0, len(columns), 2) if len(columns) > 1 else ():
      ax.axvspan(x - 0.5, x + 0.5, color=BAND, zorder=0, linewidth=0)
    for arm in digest.arms:
      _points(ax, digest, arm, [digest.accuracy.get((arm, *column)) for column in columns], 0.76)
    _percent(ax.yaxis)
    ax.set_ylabel('accuracy, %', fontsize=9, color=INK)
    ax.set_xlim(-0.5, per_row - 0.5)
    ax.set_xticks(
      range(len(columns)),
      [f'{_broken(split)}\ndepth {depth}' for split, depth in columns],
      fontsize=9,
    )
    ax.tick_params(axis='x', length=0)
  _arm_legend(figure, digest)
  return figure


def contrasts(digest: Digest) -> Figure:
  """Forest plot. Its axis covers all intervals and zero."""
  rows = digest.contrasts
  figure, (ax,) = _grid(1, 1, 0.9 + 0.34 * len(rows), grid='x')
  ax.axvline(0, color=INK, linewidth=1)
  for y, c in enumerate(rows):
    colour = INK if c.is_difference else FAINT
    filled = c.side in ('above zero', 'below zero')
    ax.plot([c.low, c.high], [y, y], color=colour, linewidth=1.8, solid_capstyle='butt')
    marker = 'o' if c.is_difference else 's'
    face = colour if filled else 'white'
    ax.plot(
      c.value, y, marker, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.5
    )
  low, high = min(0.0, *(c.low for c in rows)), max(0.0, *(c.high for c in rows))
  margin = 0.05 * (high - low) or 1.0
  ax.set_xlim(low - margin, high + margin)
  ax.set_ylim(len(rows) - 0.5, -0.5)
  ax.set_yticks(
    range(len(rows)),
    [c.name if c.is_difference else f'{c.name} (a level)' for c in rows],
    fontsize=9,
  )
  ax.tick_params(axis='y', length=0)
  ax.set_xlabel('accuracy points', fontsize=9, color=INK)
  values = ax.twinx()  # the numbers stand beside the plot, where they can't cover anything
  _bare(values, '')
  values.set_ylim(ax.get_ylim())
  values.set_yticks(range(len(rows)), ['  '.join(c.written) for c in rows], fontsize=9)
  values.tick_params(axis='y', length=0)
  return figure


def learning(digest: Digest) -> Figure:
  """One panel per metric and per evaluated (split, depth), one line per arm."""
  panels = [(title, lines, False) for title, lines in digest.curves.items()]
  panels += [
    (f'accuracy, %: {s}, depth {d}', lines, True)
    for (s, d), lines in digest.accuracy_curves.items()
  ]
  n_rows = math.ceil(len(panels) / 3)
  figure, axes = _grid(n_rows, min(3, len(panels)), 0.4 + 2.35 * n_rows)
  for ax, (title, lines, is_accuracy) in zip(axes, panels):
    scale = 100 if is_accuracy else 1
    for arm, line in lines.items():
      colour, style = digest.colour(arm), _line_style(digest, arm, len(line.x))
      ax.plot(line.x, scale * line.mean, color=colour, linewidth=1.6, **style)
      ax.fill_between(
        line.x, scale * line.low, scale * line.high, color=colour, alpha=0.18, linewidth=0
      )
    ax.set_title(title, fontsize=9, color=INK, loc='left')
    if is_accuracy:
      _percent(ax.yaxis)
    elif 'loss' in title and _spans_decades(lines):
      ax.set_yscale('log')
      ax.yaxis.set_major_formatter('{x:g}')
    else:
      top = (
        1.0 if 'traces right' in title else max(line.high.max() for line in lines.values()) or 1.0
      )
      ax.set_ylim(-0.025 * top, 1.05 * top)
    _percent(ax.xaxis)
  for ax in axes[len(panels) :]:
    ax.remove()
  for ax in axes[max(0, len(panels) - 3) : len(panels)]:
    ax.set_xlabel("share of the stage's updates, %", fontsize=9, color=INK)
  _arm_legend(
    figure, digest, {arm: f'{arm} ({digest.updates[arm]:,} updates)' for arm in digest.arms}
  )
  return figure


def modules(digest: Digest) -> Figure:
  """Dot plot: a row per module, sorted by the first arm that has it."""
  heights = [len(rows) for rows in digest.modules.values()]
  figure = _figure(0.8 + max(0.3, 0.045 * len(digest.arms)) * max(heights))
  # Both panels get rows of the same height: the shorter one leaves the rest of its column free.
  mosaic, ratios = [list(digest.modules)], [1]
  if min(heights) < max(heights):
    mosaic.append(
      [metric if len(rows) == max(heights) else '.' for metric, rows in digest.modules.items()]
    )
    ratios = [min(heights), max(heights) - min(heights)]
  for metric, ax in figure.subplot_mosaic(mosaic, height_ratios=ratios).items():
    rows = digest.modules[metric]
    order = lambda name: (
      -rows[name][digest.arms[0]].value if digest.arms[0] in rows[name] else 1.0,
      name,
    )
    names = sorted(rows, key=order)
    _bare(ax, 'x')
    for y in range(0, len(names), 2):
      ax.axhspan(y - 0.5, y + 0.5, color=BAND, zorder=0, linewidth=0)
    for arm in digest.arms:
      _points(ax, digest, arm, [rows[name].get(arm) for name in names], 0.6, sideways=True)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.tick_params(axis='y', length=0)
    ax.set_ylim(len(names) - 0.5, -0.5)
    _percent(ax.xaxis)
    ax.set_title(
      f'{metric.removesuffix("_accuracy")} modules: steps right, %',
      fontsize=9,
      color=INK,
      loc='left',
    )
  _arm_legend(figure, digest)
  return figure


def why(digest: Digest) -> Figure:
  """Stacked bars: a panel per (split, depth), a bar per arm."""
  n_columns = min(4, len(digest.columns))
  n_rows = math.ceil(len(digest.columns) / n_columns)
  height = 0.75 + n_rows * (0.6 + 0.27 * len(digest.arms))
  figure, axes = _grid(n_rows, n_columns, height, grid='', sharey=True)
  for ax, (split, depth) in zip(axes, digest.columns):
    for y, arm in enumerate(digest.arms):
      if (arm, split, depth) in digest.outcomes:
        _stack(ax, y, digest.outcomes[arm, split, depth])
    ax.set_title(f'{split}, depth {depth}', fontsize=9, color=INK, loc='left')
    _percent(ax.xaxis, 50)
    ax.set_xlim(0, 100)
    ax.set_ylim(len(digest.arms) - 0.5, -0.5)
    ax.set_yticks(range(len(digest.arms)), digest.arms, fontsize=9)
    ax.tick_params(axis='y', length=0)
  for ax in axes[len(digest.columns) :]:
    ax.remove()
  handles = [Patch(color=colour, label=label) for label, colour, _ in OUTCOMES.values()]
  figure.legend(
    handles=handles, loc='outside upper left', ncols=2, frameon=False, fontsize=9, labelcolor=INK
  )
  figure.supxlabel('share of greedy traces, %', fontsize=9, color=INK)
  return figure


# Parts --------------------------------------------------------------------------------------------------------


def _figure(height: float) -> Figure:
  return Figure(figsize=(WIDTH, height), dpi=DPI, layout='constrained', facecolor='white')


def _grid(
  n_rows: int, n_columns: int, height: float, grid: str = 'y', sharey: bool = False
) -> tuple[Figure, list[Any]]:
  """A figure and its axes in reading order."""
  figure = _figure(height)
  axes = list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=sharey).flat)
  for ax in axes:
    _bare(ax, grid)
  return figure, axes


def _bare(ax: Any, grid: str) -> None:
  """Takes away what carries no data; adds grid lines across axis `grid` ('' for none)."""
  ax.set_facecolor('none')
  for side in ('top', 'right', 'left'):
    ax.spines[side].set_visible(False)
  ax.spines['bottom'].set_color(FAINT)
  ax.set_axisbelow(True)
  ax.tick_params(labelcolor=INK, labelsize=8, color=FAINT)
  if grid:
    ax.grid(axis=grid, color='#dddddd', linewidth=0.7)


def _percent(axis: Any, every: int = 25) -> None:
  """0 to 100, with room for whole points at both ends."""
  axis.axes.set(**{f'{axis.axis_name}lim': (-2.5, 102.5)})
  axis.set_ticks(range(0, 101, every))


def _points(
  ax: Any,
  digest: Digest,
  arm: str,
  estimates: list[Estimate | None],
  spread: float,
  sideways: bool = False,
) -> None:
  """An arm's estimates at 0, 1, 2, ... with their intervals, beside those of the other arms; nothing for None."""
  beside = (
    spread * (digest.arms.index(arm) / max(1, len(digest.arms) - 1) - 0.5)
    if len(digest.arms) > 1
    else 0.0
  )
  at, shown = (
    zip(*((i + beside, e) for i, e in enumerate(estimates) if e)) if any(estimates) else ((), ())
  )
  values, low, high = ([100 * getattr(e, name) for e in shown] for name in ('value', 'low', 'high'))
  bars = ax.hlines if sideways else ax.vlines
  bars(at, low, high, color=digest.colour(arm), linewidth=1.6, alpha=0.75)
  size = 4.5 if sideways or len(digest.arms) > 6 else 6
  x, y = (values, at) if sideways else (at, values)
  ax.plot(x, y, _marker(digest, arm), color=digest.colour(arm), markersize=size, markeredgewidth=0)


def _marker(digest: Digest, arm: str) -> str:
  """Shape tells arms apart in grey print, and where there are more arms than colours."""
  return MARKERS[(i := digest.arms.index(arm)) % len(MARKERS) - i // len(MARKERS)]


def _line_style(digest: Digest, arm: str, n_points: int) -> dict[str, Any]:
  """Markers only where a line has so few points that they help."""
  marker = _marker(digest, arm) if n_points <= 15 else None
  return dict(
    marker=marker, markersize=3.5, linestyle='--' if digest.arms.index(arm) >= len(COLOURS) else '-'
  )


def _arm_legend(figure: Figure, digest: Digest, labels: dict[str, str] | None = None) -> None:
  """Above the axes, so that it can't cover data; in as many columns as fit."""
  labels = labels or {arm: arm for arm in digest.arms}
  handles = []
  for arm, label in labels.items():
    style = _line_style(digest, arm, 0) | dict(marker=_marker(digest, arm), markersize=5)
    handles.append(Line2D([], [], color=digest.colour(arm), linewidth=1.6, label=label, **style))
  n_columns = min(len(labels), max(1, 130 // (8 + max(map(len, labels.values())))))
  figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(labels) / n_columns))
  figure.legend(
    handles=handles,
    loc='outside upper left',
    ncols=n_columns,
    frameon=False,
    fontsize=9,
    labelcolor=INK,
  )


def _stack(ax: Any, y: int, outcomes: Outcomes) -> None:
  left = 0.0
  for name, share in outcomes._asdict().items():
    _, colour, ink = OUTCOMES[name]
    ax.barh(
      y, 100 * share, left=100 * left, height=0.78, color=colour, edgecolor='white', linewidth=0.6
    )
    if share >= 0.12:  # narrower ones have no room for their number
      ax.text(
        100 * (left + share / 2),
        y,
        f'{100 * share:.0f}',
        ha='center',
        va='center',
        fontsize=7.5,
        color=ink,
      )
    left += share


def _spans_decades(lines: dict[str, Any]) -> bool:
  low, high = (
    min(line.low.min() for line in lines.values()),
    max(line.high.max() for line in lines.values()),
  )
  return low > 0 and high / low > 20


def _broken(name: str) -> str:
  """Long names break at underscores, to stay within their group."""
  return name.replace('_', '_\n') if len(name) > 12 else name
