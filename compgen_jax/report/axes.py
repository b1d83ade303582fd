"""What all figures share: sizes, bare axes, and how an arm's points, lines and legend are drawn."""

import math
import textwrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from compgen_jax.report.digest import Digest, Estimate

INK, FAINT, BAND = '#222222', '#8a8a8a', '#f4f4f4'
WIDTH = 9.6  # inches: readable at a laptop's width
DPI = 160
TITLE = 44  # letters of a title side by side, where three panels share the width
FEW_POINTS = 15  # a line of at most so many points has markers


def figure(height: float) -> Figure:
  """An empty figure of the common width; height in inches."""
  return Figure(figsize=(WIDTH, height), dpi=DPI, layout='constrained', facecolor='white')


def grid(
  n_rows: int, n_across: int, height: float, lines: str = 'y', sharey: bool = False
) -> tuple[Figure, list[Any]]:
  """A figure and its axes in reading order; grid lines across axis `lines` ('' for none)."""
  drawn = figure(height)
  axes = list(drawn.subplots(n_rows, n_across, squeeze=False, sharey=sharey).flat)
  for ax in axes:
    bare(ax, lines)
  return drawn, axes


def bare(ax: Any, lines: str) -> None:
  """Takes away what carries no data; adds grid lines across axis `lines` ('' for none)."""
  ax.set_facecolor('none')
  for side in ('top', 'right', 'left'):
    ax.spines[side].set_visible(False)
  ax.spines['bottom'].set_color(FAINT)
  ax.set_axisbelow(True)
  ax.tick_params(labelcolor=INK, labelsize=8, color=FAINT)
  if lines:
    ax.grid(axis=lines, color='#dddddd', linewidth=0.7)


def percent(axis: Any, every: int = 25) -> None:
  """0 to 100, with room for whole points at both ends."""
  axis.axes.set(**{f'{axis.axis_name}lim': (-2.5, 102.5)})
  axis.set_ticks(range(0, 101, every))


def title(ax: Any, text: str) -> None:
  """A panel's title, over its left end, in lines that a third of the width has room for."""
  lines = textwrap.wrap(text, TITLE)
  ax.set_title('\n'.join(map(literal, lines)), fontsize=9, color=INK, loc='left')


def points(
  ax: Any,
  digest: Digest,
  arm: str,
  estimates: list[Estimate | None],
  spread: float,
  sideways: bool = False,
) -> None:
  """An arm's estimates at 0, 1, 2, ... with their intervals; nothing where there is None.

  Arms stand beside each other, over `spread` of the distance between two estimates.
  """
  n_arms = len(digest.arms)
  shift = spread * (digest.arms.index(arm) / (n_arms - 1) - 0.5) if n_arms > 1 else 0.0
  shown = [(i + shift, e) for i, e in enumerate(estimates) if e is not None]
  at = [x for x, _ in shown]
  value, low, high = (
    [100 * getattr(e, name) for _, e in shown] for name in ('value', 'low', 'high')
  )
  bars = ax.hlines if sideways else ax.vlines
  bars(at, low, high, color=digest.look(arm).colour, linewidth=1.6, alpha=0.75)
  if sideways:
    size = 4.5 if n_arms <= 6 else 3.5
    ax.plot(value, at, linestyle='', **marker(digest, arm, size))
  else:
    size = 6 if n_arms <= 6 else 4.5
    ax.plot(at, value, linestyle='', **marker(digest, arm, size))


def marker(digest: Digest, arm: str, size: float) -> dict[str, Any]:
  """The arm's marker as arguments of `plot`; hollow ones are white inside."""
  look = digest.look(arm)
  return dict(
    color=look.colour,
    marker=look.marker,
    markersize=size,
    markerfacecolor=look.colour if look.filled else 'white',
    markeredgewidth=0.6 if look.filled else 1.0,
  )


def line(ax: Any, digest: Digest, arm: str, x: Any, y: Any) -> None:
  """An arm's curve; with markers only where it has so few points that they help."""
  look = digest.look(arm)
  style = marker(digest, arm, 3.5) if len(x) <= FEW_POINTS else dict(color=look.colour)
  ax.plot(x, y, linestyle=look.line, linewidth=1.6, **style)


def arm_legend(drawn: Figure, digest: Digest, labels: dict[str, str] | None = None) -> None:
  """Arms above the axes, so that they can't cover data, as many beside each other as fit.

  The figure grows by the legend's height. `labels` are by arm; without them arms are named.
  """
  labels = labels or {arm: arm for arm in digest.arms}
  handles = [
    Line2D(
      [],
      [],
      linestyle=digest.look(arm).line,
      linewidth=1.6,
      label=literal(label),
      **marker(digest, arm, 5),
    )
    for arm, label in labels.items()
  ]
  n_across = min(len(labels), max(1, 130 // (9 + max(map(len, labels.values())))))
  drawn.set_figheight(drawn.get_figheight() + 0.22 * math.ceil(len(labels) / n_across))
  legend(drawn, handles, n_across)


def legend(drawn: Figure, handles: list[Any], n_across: int) -> None:
  """A legend above the axes."""
  drawn.legend(
    handles=handles,
    loc='outside upper left',
    ncols=n_across,
    handlelength=2.8,
    frameon=False,
    fontsize=9,
    labelcolor=INK,
  )


def literal(text: str) -> str:
  """Text that is drawn as it stands: matplotlib reads what is between two dollar signs as TeX."""
  return text.replace('$', r'\$')


def broken(name: str) -> str:
  """Long names break at underscores, to stay within their group."""
  return name.replace('_', '_\n') if len(name) > 12 else name
