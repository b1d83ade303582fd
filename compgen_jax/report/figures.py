"""The report's figures.

Matplotlib is used only here, in lines.py and in axes.py, and through Figure objects: no backend is
chosen for anyone.
"""

import math
import textwrap
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from compgen_jax.report import axes as parts
from compgen_jax.report import lines
from compgen_jax.report.axes import BAND, FAINT, INK
from compgen_jax.report.digest import Contrast, Digest, Estimate, Outcomes, Side

LABEL_WIDTH = 56  # characters of a contrast, in words, in a line
MOST_LINES = 2  # of its words; more would reach into the next one's
FIGURE_SPACE = '\u2007'
# Brewer's BrBG: good to bad, colour-blind safe, and none of the arms' colours.
OUTCOMES = {
  'strict': ('every step right', '#01665e', 'white'),
  'answer_only': ('answer right, not every step', '#80cdc1', INK),
  'wrong_copy': ('steps right, answer not copied', '#f6e8c3', INK),
  'wrong_skill': ('a skill wrong first', '#dfc27d', INK),
  'wrong_routing': ('a routing mechanism wrong first', '#bf812d', 'white'),
  'wrong_structure': ('structure wrong', '#543005', 'white'),
}


class Drawing(NamedTuple):
  """A figure, its file's name, and its caption of one line."""

  name: str
  figure: Figure
  caption: str


def draw(digest: Digest) -> list[Drawing]:
  """Every figure that the digest has data for."""
  n = '/'.join(map(str, sorted({e.n for e in digest.accuracy.values()})))
  caption = (
    'Above: problems answered right (greedy) by number of steps, with 95 % intervals; '
    f'n = {n} problems per seed at each point. Below: the same as a rate per step, '
    'accuracy^(1 / steps), which is flat where steps fail independently of depth.'
  )
  drawings = [Drawing('accuracy', lines.accuracy(digest), caption)]
  if digest.contrasts:
    caption = (
      'Contrasts with 95 % intervals: filled where the interval excludes zero, else hollow; '
      'squares are levels.'
    )
    drawings.append(Drawing('contrasts', contrasts(digest), caption))
  if lines.has_passes(digest):
    caption = (
      'pass@k at temperature 1: problems with a right answer among k samples, with 95 % intervals. '
      'Arms that meet at large k differ in how often, not in whether, they find an answer.'
    )
    drawings.append(Drawing('passes', lines.passes(digest), caption))
  if digest.outcomes:
    caption = (
      f'How greedy traces end (n = {n} per seed): where the answer is wrong, '
      'by what goes wrong first.'
    )
    drawings.append(Drawing('why', why(digest), caption))
  if digest.modules:
    caption = (
      'Steps of each module done right, given what the trace says before them; '
      f'{", ".join(digest.unseen)} pooled; well-structured traces only; '
      f'sorted by {digest.arms[0]}.'
    )
    drawings.append(Drawing('modules', modules(digest), caption))
  return drawings + draw_curves(digest)


def draw_curves(digest: Digest) -> list[Drawing]:
  """The figures of what goes on during training, as far as there are data."""
  drawings = []
  band = ', band from the lowest to the highest' if lines.has_bands(digest) else ''
  if digest.accuracy_curves:
    caption = (
      f'Accuracy during training, from start to end of each stage: mean over seeds{band}. '
      'A stage starts where the one it comes from ended.'
    )
    drawings.append(Drawing('curves', lines.curves(digest), caption))
  if digest.curves:
    caption = f'What training reports, from start to end of each stage: mean over seeds{band}.'
    drawings.append(Drawing('learning', lines.learning(digest), caption))
  return drawings


def contrasts(digest: Digest) -> Figure:
  """Forest plot. Its axis covers all intervals and zero."""
  rows = digest.contrasts
  figure, (ax,) = parts.grid(1, 1, 0.9 + 0.42 * len(rows), lines='x')
  ax.axvline(0, color=INK, linewidth=1)
  for y, contrast in enumerate(rows):
    _contrast(ax, y, contrast)
  low, high = min(0.0, *(c.low for c in rows)), max(0.0, *(c.high for c in rows))
  margin = 0.05 * (high - low) or 1.0
  ax.set_xlim(low - margin, high + margin)
  ax.set_ylim(len(rows) - 0.5, -0.5)
  ax.set_yticks(range(len(rows)), [_label(c) for c in rows], fontsize=8)
  ax.tick_params(axis='y', length=0)
  ax.set_xlabel('accuracy points', fontsize=9, color=INK)
  numbers = ax.twinx()  # the numbers stand beside the plot, where they can't cover anything
  parts.bare(numbers, '')
  numbers.set_ylim(ax.get_ylim())
  numbers.set_yticks(range(len(rows)), _aligned([c.written for c in rows]), fontsize=9)
  numbers.tick_params(axis='y', length=0)
  return figure


def _label(contrast: Contrast) -> str:
  """What is compared, and below it where; its name, if that takes more lines than there is room."""
  lines = textwrap.wrap(contrast.what, LABEL_WIDTH, break_long_words=False)
  if len(lines) > MOST_LINES:
    return parts.literal(contrast.name)
  what = '\n'.join(lines)
  where = contrast.where + ('' if contrast.is_difference else ' (a level)')
  return parts.literal(f'{what}\n{where}' if where else what)


def _aligned(written: list[tuple[str, str]]) -> list[str]:
  """Value and interval, the values right-aligned by spaces as wide as a digit."""
  width = max(len(value) for value, _ in written)
  return [f'{value.rjust(width, FIGURE_SPACE)}  {between}' for value, between in written]


def _contrast(ax: Any, y: int, contrast: Contrast) -> None:
  colour = INK if contrast.is_difference else FAINT
  is_filled = contrast.side in (Side.ABOVE, Side.BELOW)
  ax.plot([contrast.low, contrast.high], [y, y], color=colour, linewidth=1.8, solid_capstyle='butt')
  ax.plot(
    contrast.value,
    y,
    marker='o' if contrast.is_difference else 's',
    color=colour,
    markerfacecolor=colour if is_filled else 'white',
    markersize=7,
    markeredgewidth=1.5,
  )


def modules(digest: Digest) -> Figure:
  """Dot plot: a row per module, sorted by the first arm that has it."""
  heights = [len(rows) for rows in digest.modules.values()]
  figure = parts.figure(0.8 + max(0.3, 0.06 * len(digest.arms)) * max(heights))
  # Both panels get rows of the same height: below the shorter one the figure stays empty.
  mosaic, ratios = [list(digest.modules)], [1]
  if min(heights) < max(heights):
    mosaic.append(
      [metric if len(rows) == max(heights) else '.' for metric, rows in digest.modules.items()]
    )
    ratios = [min(heights), max(heights) - min(heights)]
  for metric, ax in figure.subplot_mosaic(mosaic, height_ratios=ratios).items():
    parts.bare(ax, 'x')
    _module_rows(ax, digest, digest.modules[metric])
    parts.title(ax, f'{metric.removesuffix("_accuracy")} modules: steps right, %')
  parts.arm_legend(figure, digest)
  return figure


def _module_rows(ax: Any, digest: Digest, rows: dict[str, dict[str, Estimate]]) -> None:
  def order(name: str) -> tuple[float, str]:
    first = rows[name].get(digest.arms[0])
    return (-first.value if first else 1.0, name)

  names = sorted(rows, key=order)
  for y in range(0, len(names), 2):
    ax.axhspan(y - 0.5, y + 0.5, color=BAND, zorder=0, linewidth=0)
  for arm in digest.arms:
    parts.points(ax, digest, arm, [rows[name].get(arm) for name in names], 0.7, sideways=True)
  ax.set_yticks(range(len(names)), names, fontsize=9)
  ax.tick_params(axis='y', length=0)
  ax.set_ylim(len(names) - 0.5, -0.5)
  parts.percent(ax.xaxis)


def why(digest: Digest) -> Figure:
  """Stacked bars: a panel per (split, depth), a bar per arm."""
  n_across = min(4, len(digest.places))
  n_rows = math.ceil(len(digest.places) / n_across)
  height = 0.75 + n_rows * (0.6 + 0.27 * len(digest.arms))
  figure, axes = parts.grid(n_rows, n_across, height, lines='', sharey=True)
  for ax, (split, depth) in zip(axes, digest.places):
    for y, arm in enumerate(digest.arms):
      if (arm, split, depth) in digest.outcomes:
        _stack(ax, y, digest.outcomes[arm, split, depth])
    parts.title(ax, f'{split}, depth {depth}')
    parts.percent(ax.xaxis, 50)
    ax.set_xlim(0, 100)
    ax.set_ylim(len(digest.arms) - 0.5, -0.5)
    ax.set_yticks(range(len(digest.arms)), digest.arms, fontsize=9)
    ax.tick_params(axis='y', length=0)
  for ax in axes[len(digest.places) :]:
    ax.remove()
  handles = [Patch(color=colour, label=label) for label, colour, _ in OUTCOMES.values()]
  parts.legend(figure, handles, 3)
  figure.supxlabel('share of greedy traces, %', fontsize=9, color=INK)
  return figure


def _stack(ax: Any, y: int, outcomes: Outcomes) -> None:
  left = 0.0
  for name, share in outcomes._asdict().items():
    _, colour, ink = OUTCOMES[name]
    ax.barh(
      y, 100 * share, left=100 * left, height=0.78, color=colour, edgecolor='white', linewidth=0.6
    )
    if share >= 0.12:  # narrower ones have no room for their number
      middle = 100 * (left + share / 2)
      number = f'{100 * share:.0f}'
      ax.text(middle, y, number, ha='center', va='center', fontsize=7.5, color=ink)
    left += share
