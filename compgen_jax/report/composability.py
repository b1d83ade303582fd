"""theory.json as tables for a terminal and a figure: accuracy by what SFT witnessed."""

import io
import math
import os
import pathlib
from typing import Any, NamedTuple

from compgen_jax.experiment import files
from compgen_jax.report.looks import Look, look

KIND_NAMES = {
  'modules': 'modules (routing and skill)',
  'pairs': '(routing, skill) pairs',
  'parents': '(parent, routing) pairs',
  'interfaces': 'interfaces (parent, routing, skill)',
}
LEAST = 20  # problems of a point that is drawn


def text(found: dict[str, Any]) -> str:
  """All tables."""
  return '\n'.join([_supports(found), _accuracy(found, 'pairs'), _predictions(found)])


def _table(title: str, first: str, rows: list[tuple[str, list[str]]], names: list[str]) -> str:
  """Rows of equal cells below their names, the first cell on the left."""
  width = max(len(first), *(len(name) for name, _ in rows)) + 2
  widths = [2 + max(map(len, cells)) for cells in zip(names, *(cells for _, cells in rows))]

  def line(name: str, cells: list[str]) -> str:
    return name.ljust(width) + ''.join(cell.rjust(w) for cell, w in zip(cells, widths))

  return '\n'.join(['', title, line(first, names), *(line(*row) for row in rows)])


def _supports(found: dict[str, Any]) -> str:
  """What each stage's data witness, one row per data and seed."""
  rows = []
  for support in found['supports']:
    witnessed = [f'{n}/{of}' for n, of in support['witnessed'].values()]
    depths = support['closure']['depths']
    closures = [
      f'{100 * support["closure"]["pairs"][depths.index(depth)]:.3g} %' for depth in (2, 3, 4, 8)
    ]
    together = [str(len(support['entangled'])), str(len(support['components']))]
    name = f'{" + ".join(support["data"])}, seed {support["seed"]}'
    rows.append((name, [*witnessed, *together, *closures]))
  names = [*KIND_NAMES, 'entangled', 'components', *(f'closure L={d}' for d in (2, 3, 4, 8))]
  title = 'witnessed by data; classes of entangled modules; connected components; closure by pairs'
  return _table(title, 'data', rows, names)


def _accuracy(found: dict[str, Any], kind: str) -> str:
  """One table per (split, depth): arms by number of witnessed steps."""
  rows = [row for row in found['accuracy'] if row['kind'] == kind]
  tables = []
  for (split, depth), of_cell in _groups(rows, 'split', 'depth'):
    places = dict(sorted(((place, rows) for (place,), rows in _groups(of_cell, 'witnessed'))))
    lines = []
    for (arm,), mine in _groups(of_cell, 'arm'):
      cells = {row['witnessed']: _percent(row) for row in mine}
      lines.append((arm, [cells.get(place, '') for place in places]))
    names = [f'{place} of {depth}' for place in places]
    lines.append(('problems', [str(max(row['n'] for row in rows)) for rows in places.values()]))
    title = f'accuracy, %, by witnessed {KIND_NAMES[kind]}: {split}, depth {depth}'
    tables.append(_table(title, 'arm', lines, names))
  return '\n'.join(tables)


def _percent(row: dict[str, Any]) -> str:
  value, low, high = (100 * row[name] for name in ('accuracy', 'low', 'high'))
  return f'{value:.1f} [{low:.0f}, {high:.0f}]'


def _groups(rows: list[dict[str, Any]], *names: str):
  """(values of the names, the rows that have them), in the order in which they first appear."""
  groups: dict[tuple, list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault(tuple(row[name] for name in names), []).append(row)
  return groups.items()


def _predictions(found: dict[str, Any]) -> str:
  """How well each regression predicts the other half of the problems."""
  tables = []
  for (split,), rows in _groups(found['predictions'], 'split'):
    lines = []
    for (arm, model), (row,) in _groups(rows, 'arm', 'model'):
      ranks = [row['rank_correlation'], *row['rank_correlation_by_depth'].values()]
      odds = row['log_odds_per_unwitnessed_step']
      cells = [f'{odds[kind]:+.2f}' if kind in odds else '' for kind in KIND_NAMES]
      lines.append((f'{arm}: {model}', [f'{row["log_loss"]:.4f}', *map(_rank, ranks), *cells]))
    title = f'predicted from halves, measured on the other: {split} (log odds per unwitnessed step)'
    depths = rows[0]['rank_correlation_by_depth']
    names = ['log loss, nats', 'rank corr.', *(f'L = {depth}' for depth in depths), *KIND_NAMES]
    tables.append(_table(title, 'arm: model', lines, names))
  return '\n'.join(tables)


def _rank(correlation: dict[str, float | None]) -> str:
  """A rank correlation with its interval; where one side does not vary, there is none."""
  values = [correlation[name] for name in ('value', 'low', 'high')]
  return '-' if None in values else '{:.2f} [{:.2f}, {:.2f}]'.format(*values)


# The figure ---------------------------------------------------------------------------------------


class Arms(NamedTuple):
  """What report/axes.py asks of a digest: the arms shown, and how they look in all figures."""

  arms: tuple[str, ...]
  stages: tuple[str, ...]

  def look(self, arm: str) -> Look:
    """The arm's look, by its place among all stages of the experiment."""
    return look(self.stages.index(arm))


def draw(workdir: str | os.PathLike, found: dict[str, Any]) -> None:
  """Writes figures/witnesses.png; nothing where matplotlib is missing or problems are few."""
  try:
    import matplotlib  # noqa: F401  an extra: setup.py, [plots]
  except ImportError:
    return
  panels = _panels(found, 'pairs')
  if panels:
    buffer = io.BytesIO()
    figure(found, panels, 'pairs').savefig(buffer, format='png')
    files.write_bytes(pathlib.Path(workdir) / 'figures' / 'witnesses.png', buffer.getvalue())


def _panels(found: dict[str, Any], kind: str) -> list[tuple[tuple, list[dict[str, Any]]]]:
  """(split, depth) and its rows, of splits that no arm was trained on.

  Points of fewer than LEAST problems are left out.
  """
  of_kind = [row for row in found['accuracy'] if row['kind'] == kind and row['n'] >= LEAST]
  rows = [row for row in of_kind if row['split'] not in found['trained']]
  return list(_groups(rows, 'split', 'depth'))


def figure(found: dict[str, Any], panels: list[tuple[tuple, list[dict[str, Any]]]], kind: str):
  """Accuracy by share of witnessed steps: a line per arm, with 95 % intervals."""
  from compgen_jax.report import axes as parts

  arms = Arms(tuple(found['arms']), tuple(found['stages']))
  n_across = min(4, len(panels))
  n_rows = math.ceil(len(panels) / n_across)
  drawn, all_axes = parts.grid(n_rows, n_across, 0.6 + 2.3 * n_rows, sharey=True)
  for ax in all_axes[len(panels) :]:
    ax.remove()
  for ax, ((split, depth), of_panel) in zip(all_axes, panels):
    for (arm,), mine in _groups(of_panel, 'arm'):
      x = [100 * row['witnessed'] / depth for row in mine]
      low, high = ([100 * row[name] for row in mine] for name in ('low', 'high'))
      ax.vlines(x, low, high, color=arms.look(arm).colour, linewidth=1.4, alpha=0.6)
      parts.line(ax, arms, arm, x, [100 * row['accuracy'] for row in mine])
    parts.title(ax, f'{split}, depth {depth}')
    parts.percent(ax.xaxis, 50)
    parts.percent(ax.yaxis)
  parts.arm_legend(drawn, arms)
  drawn.supxlabel(f'witnessed {KIND_NAMES[kind]}, % of steps', fontsize=9, color=parts.INK)
  drawn.supylabel('accuracy, %', fontsize=9, color=parts.INK)
  return drawn
