"""The figures of several variants side by side; through Figure objects, as in figures.py."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from compgen_jax.experiment.collected import Variant
from compgen_jax.report import axes, comparison, looks
from compgen_jax.report.comparison import contrast_names, contrasts
from compgen_jax.report.figures import Drawing


def draw(variants: Sequence[Variant]) -> list[Drawing]:
  """The figures of several variants."""
  drawings = []
  names = contrast_names(variants)
  grid = comparison.grid_of(variants)
  if names and grid:
    caption = f'Contrasts, in accuracy points, over {grid[0].field} and {grid[1].field}.'
    drawings.append(Drawing('contrasts', _grids(variants, names, *grid), caption))
  elif names:
    caption = 'Contrasts, in accuracy points, with 95 % intervals.'
    drawings.append(Drawing('contrasts', _contrast_panels(variants, names), caption))
  caption = 'Answers right (greedy), with 95 % intervals; one line per arm.'
  drawings.append(Drawing('accuracy', _accuracy_panels(variants), caption))
  return drawings


def _panels(n: int, variants: Sequence[Variant], named: bool) -> tuple[Any, list[Any]]:
  n_across = min(3, n)
  n_rows = math.ceil(n / n_across)
  lines = [line for v in variants if named for line in v.name.split(', ')]
  names_height = 0.07 * max(map(len, lines), default=0)
  figure, panels = axes.grid(n_rows, n_across, 0.5 + (2.3 + names_height) * n_rows)
  for ax in panels[n:]:
    ax.set_axis_off()
  return figure, panels[:n]


def _places(ax: Any, variants: Sequence[Variant]) -> list[float]:
  """Where on the x axis each variant stands; names the axis."""
  axis = comparison.over(variants)
  if axis is None:  # by name, a line per field
    places = list(range(len(variants)))
    names = [axes.literal(v.name.replace(', ', '\n')) for v in variants]
    ax.set_xticks(places, names, fontsize=7, rotation=90)
    return places
  low, high = min(axis.values), max(axis.values)
  if low > 0 and high / low >= 8:
    ax.set_xscale('log')
    ax.minorticks_off()
  ax.set_xticks(sorted(axis.values), [f'{value:g}' for value in sorted(axis.values)])
  ax.set_xlabel(axes.literal(axis.field), fontsize=8, color=axes.INK)
  return list(axis.values)


def _line(ax: Any, places: list[float], cells: list[tuple | None], look: Any, joined: bool) -> None:
  """Points `(value, low, high)` with their intervals, in the order of their places."""
  shown = sorted((x, *cell) for x, cell in zip(places, cells) if cell is not None)
  if not shown:
    return
  x, value, low, high = zip(*shown)
  ax.vlines(x, low, high, color=look.colour, linewidth=1.4, alpha=0.7)
  ax.plot(
    x,
    value,
    color=look.colour,
    marker=look.marker,
    markersize=4.5,
    markerfacecolor=look.colour if look.filled else 'white',
    linestyle=look.line if joined else '',
    linewidth=1.4,
  )


def _contrast_panels(variants: Sequence[Variant], names: list[str]) -> Any:
  figure, panels = _panels(len(names), variants, comparison.over(variants) is None)
  for ax, name in zip(panels, names):
    ax.axhline(0, color=axes.INK, linewidth=1)
    held = [contrasts(variant).get(name) for variant in variants]
    cells = [c and (c['value'], c['low'], c['high']) for c in held]
    _line(ax, _places(ax, variants), cells, looks.look(1), comparison.over(variants) is not None)
    axes.title(ax, name)
  return figure


def _accuracy_panels(variants: Sequence[Variant]) -> Any:
  cells = [
    {
      (e['arm'], e['split'], e['depth']): (100 * e['accuracy'], 100 * e['low'], 100 * e['high'])
      for e in variant.summary['table']
    }
    for variant in variants
  ]
  known = list(dict.fromkeys(cell for of_variant in cells for cell in of_variant))
  arms = list(dict.fromkeys(arm for arm, _, _ in known))
  places = list(dict.fromkeys((split, depth) for _, split, depth in known))
  figure, panels = _panels(len(places), variants, comparison.over(variants) is None)
  for ax, (split, depth) in zip(panels, places):
    at = _places(ax, variants)
    for i, arm in enumerate(arms):
      of_arm = [of_variant.get((arm, split, depth)) for of_variant in cells]
      _line(ax, at, of_arm, looks.look(i), comparison.over(variants) is not None)
    axes.percent(ax.yaxis)
    axes.title(ax, f'{split}, depth {depth}: accuracy, %')
  handles = []
  for i, arm in enumerate(arms):
    look = looks.look(i)
    face = look.colour if look.filled else 'white'
    style = dict(color=look.colour, marker=look.marker, linestyle=look.line, markerfacecolor=face)
    handles.append(Line2D([], [], label=axes.literal(arm), **style))
  axes.legend(figure, handles, min(len(arms), 6))
  return figure


def _grids(
  variants: Sequence[Variant], names: list[str], across: comparison.Axis, up: comparison.Axis
) -> Any:
  """A panel of colours per contrast: one field across, the other up."""
  figure, panels = _panels(len(names), variants, named=False)
  xs, ys = sorted(set(across.values)), sorted(set(up.values))
  for ax, name in zip(panels, names):
    values = np.full((len(ys), len(xs)), np.nan)
    for variant, x, y in zip(variants, across.values, up.values):
      if name in contrasts(variant):
        values[ys.index(y), xs.index(x)] = contrasts(variant)[name]['value']
    top = float(np.nanmax(np.abs(values))) or 1.0
    ax.imshow(values, origin='lower', aspect='auto', cmap='RdBu', vmin=-top, vmax=top)
    for (row, column), value in np.ndenumerate(values):
      if np.isfinite(value):
        ink = 'white' if abs(value) > 0.6 * top else axes.INK
        text = f'{value:+.0f}'
        ax.text(column, row, text, ha='center', va='center', fontsize=8, color=ink)
    ax.grid(False)
    ax.set_xticks(range(len(xs)), [f'{x:g}' for x in xs])
    ax.set_yticks(range(len(ys)), [f'{y:g}' for y in ys])
    ax.set_xlabel(axes.literal(across.field), fontsize=8, color=axes.INK)
    ax.set_ylabel(axes.literal(up.field), fontsize=8, color=axes.INK)
    axes.title(ax, name)
  return figure
