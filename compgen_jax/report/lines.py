"""Figures in which an arm is a line: over depth, over updates, over the number of samples."""

import math
from typing import Any

from matplotlib.figure import Figure

from compgen_jax.report import axes as parts
from compgen_jax.report.axes import INK
from compgen_jax.report.curves import Line, Panel
from compgen_jax.report.digest import Digest, Profile

MOST_ACROSS = 4
MOST_BANDS = 8  # arms of a figure of lines
DODGE = 0.1  # of the distance between two depths: over so much of it arms stand side by side


def accuracy(digest: Digest) -> Figure:
  """Accuracy over depth, seen beside unseen, and below it as a rate per step."""
  n_across = min(MOST_ACROSS, len(digest.profiles))
  n_blocks = math.ceil(len(digest.profiles) / n_across)
  figure, axes = parts.grid(2 * n_blocks, n_across, 0.5 + 4.6 * n_blocks)
  for i, profile in enumerate(digest.profiles):
    block, column = divmod(i, n_across)
    for row, is_rate in enumerate((False, True)):
      ax = axes[(2 * block + row) * n_across + column]
      _over_depth(ax, digest, profile, is_rate)
      if column == 0:
        name = 'accuracy, %' if not is_rate else 'per-step rate, %'
        ax.set_ylabel(name, fontsize=9, color=INK)
      if is_rate:
        ax.set_xlabel('steps', fontsize=9, color=INK)
      else:
        parts.title(ax, profile.title)
  for i in range(len(digest.profiles), n_blocks * n_across):
    for row in range(2):
      axes[(2 * (n_blocks - 1) + row) * n_across + i % n_across].remove()
  parts.arm_legend(figure, digest)
  return figure


def _over_depth(ax: Any, digest: Digest, profile: Profile, is_rate: bool) -> None:
  """Each arm's line with intervals, at the depths of the profile's places."""
  n_arms = len(digest.arms)
  for i, arm in enumerate(digest.arms):
    shift = DODGE * (2 * i / (n_arms - 1) - 1) if n_arms > 1 else 0.0
    shown = [(depth, digest.accuracy.get((arm, split, depth))) for split, depth in profile.places]
    shown = [(depth, e) for depth, e in shown if e is not None]
    x = [depth + shift for depth, _ in shown]
    value, low, high = (
      [100 * getattr(e, name) ** (1 / depth if is_rate else 1) for depth, e in shown]
      for name in ('value', 'low', 'high')
    )
    ax.vlines(x, low, high, color=digest.look(arm).colour, linewidth=1.2, alpha=0.6)
    parts.line(ax, digest, arm, x, value)
  depths = [depth for _, depth in profile.places]
  ax.set_xticks(sorted(set(depths)))
  ax.set_xlim(min(depths) - 0.4, max(depths) + 0.4)
  parts.percent(ax.yaxis)


def passes(digest: Digest) -> Figure:
  """pass@k over k, a panel per (split, depth) that was never trained on."""
  ks = sorted(_ks(digest))
  places = [
    place for profile in digest.profiles if not profile.is_trained for place in profile.places
  ]
  figure, axes = _panels(len(places))
  for ax, (split, depth) in zip(axes, places):
    for arm in digest.arms:
      cells = [(k, digest.others[f'pass@{k}'].get((arm, split, depth))) for k in ks]
      cells = [(k, e) for k, e in cells if e is not None]
      low, high = ([100 * getattr(e, name) for _, e in cells] for name in ('low', 'high'))
      x = [k for k, _ in cells]
      ax.vlines(x, low, high, color=digest.look(arm).colour, linewidth=1.2, alpha=0.4)
      parts.line(ax, digest, arm, x, [100 * e.value for _, e in cells])
    parts.title(ax, f'{split}, depth {depth}')
    parts.percent(ax.yaxis)
    ax.set_xscale('log', base=2)
    ax.set_xticks(ks, list(map(str, ks)))
    ax.minorticks_off()
  figure.supxlabel('k, samples', fontsize=9, color=INK)
  figure.supylabel('pass@k, %', fontsize=9, color=INK)
  parts.arm_legend(figure, digest)
  return figure


def _ks(digest: Digest) -> list[int]:
  return [int(name.removeprefix('pass@')) for name in digest.others if name.startswith('pass@')]


def has_passes(digest: Digest) -> bool:
  """Whether there is a line of pass@k to draw."""
  return len(_ks(digest)) > 1 and not all(profile.is_trained for profile in digest.profiles)


def curves(digest: Digest) -> Figure:
  """Accuracy during training: one panel per evaluated (split, depth), one line per arm."""
  figure, axes = _panels(len(digest.accuracy_curves))
  for ax, ((split, depth), lines) in zip(axes, digest.accuracy_curves.items()):
    _over_updates(ax, digest, lines, 100)
    parts.title(ax, f'{split}, depth {depth}')
    parts.percent(ax.yaxis)
  figure.supylabel('accuracy, %', fontsize=9, color=INK)
  _finish(figure, digest)
  return figure


def learning(digest: Digest) -> Figure:
  """Training metrics: one panel per metric, one line per arm."""
  figure, axes = _panels(len(digest.curves), most_across=3)
  for ax, (panel, lines) in zip(axes, digest.curves.items()):
    _over_updates(ax, digest, lines, 1)
    parts.title(ax, panel.title)
    _scale(ax, panel, list(lines.values()))
  _finish(figure, digest)
  return figure


def _panels(n: int, most_across: int = MOST_ACROSS) -> tuple[Figure, list[Any]]:
  """A figure and n axes."""
  n_across = min(most_across, n)
  n_rows = math.ceil(n / n_across)
  figure, axes = parts.grid(n_rows, n_across, 0.6 + 2.2 * n_rows)
  for ax in axes[n:]:
    ax.remove()
  return figure, axes[:n]


def _finish(figure: Figure, digest: Digest) -> None:
  for ax in figure.axes:
    parts.percent(ax.xaxis)
  figure.supxlabel("share of the stage's updates, %", fontsize=9, color=INK)
  labels = {arm: f'{arm} ({digest.updates[arm]:,} updates)' for arm in digest.arms}
  parts.arm_legend(figure, digest, labels)


def has_bands(digest: Digest) -> bool:
  """Whether lines have bands from the lowest to the highest seed: of many, they hide each other."""
  return len(digest.arms) <= MOST_BANDS


def _over_updates(ax: Any, digest: Digest, lines: dict[str, Line], factor: int) -> None:
  for arm, line in lines.items():
    parts.line(ax, digest, arm, line.x, factor * line.mean)
    if not has_bands(digest):
      continue
    colour = digest.look(arm).colour
    ax.fill_between(
      line.x, factor * line.low, factor * line.high, color=colour, alpha=0.18, linewidth=0
    )


def _scale(ax: Any, panel: Panel, lines: list[Line]) -> None:
  """From zero to the panel's top or the highest value, or logarithmic."""
  low, high = min(line.low.min() for line in lines), max(line.high.max() for line in lines)
  if panel.log_if_wide and low > 0 and high / low > 20:
    ax.set_yscale('log')
    ax.yaxis.set_major_formatter('{x:g}')
  else:
    top = panel.top or high or 1.0
    ax.set_ylim(-0.025 * top, 1.05 * top)
