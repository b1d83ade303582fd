"""theory.json's tables of answers, for a terminal: accuracy by what SFT witnessed, predictions."""

from typing import Any

KIND_NAMES = {
  'modules': 'modules (routing and skill)',
  'pairs': '(routing, skill) pairs',
  'parents': '(parent, routing) pairs',
  'interfaces': 'interfaces (parent, routing, skill)',
}
KIND_TITLES = {'routing': 'routing mechanism', 'skill': 'skill'}


def text(found: dict[str, Any]) -> str:
  """All tables."""
  return '\n'.join(
    [_supports(found), _exposure(found), _accuracy(found, 'pairs'), _predictions(found)]
  )


def table(title: str, first: str, rows: list[tuple[str, list[str]]], names: list[str]) -> str:
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
  return table(title, 'data', rows, names)


def _exposure(found: dict[str, Any]) -> str:
  """One table per kind of module: arms by the number of SFT's compositions that hold a module."""
  tables = []
  for (kind,), rows in groups(found.get('exposure', []), 'kind'):
    title = f"a {KIND_TITLES[kind]}'s steps that are right, %, by SFT's compositions that hold it"
    names = {row['least']: _between(row['least'], row['most']) for row in rows}
    tables.append(_arms_by(title, rows, 'least', names, 'modules', 'modules'))
  return '\n'.join(tables)


def _between(least: int, most: int | None) -> str:
  if most is None:
    return f'{least} or more'
  return str(least) if least == most else f'{least} to {most}'


def _accuracy(found: dict[str, Any], kind: str) -> str:
  """One table per (split, depth): arms by number of witnessed steps."""
  rows = [row for row in found['accuracy'] if row['kind'] == kind]
  tables = []
  for (split, depth), of_cell in groups(rows, 'split', 'depth'):
    title = f'accuracy, %, by witnessed {KIND_NAMES[kind]}: {split}, depth {depth}'
    names = {row['witnessed']: f'{row["witnessed"]} of {depth}' for row in of_cell}
    tables.append(_arms_by(title, of_cell, 'witnessed', names, 'problems', 'n'))
  return '\n'.join(tables)


def _arms_by(
  title: str, rows: list[dict], field: str, names: dict[int, str], counted: str, count: str
) -> str:
  """Accuracy of arms by a field of their rows, whose values have `names`; a last line, `counted`,
  has the most that any arm's row says of `count`."""
  places = dict(sorted(((place, rows) for (place,), rows in groups(rows, field))))
  lines = []
  for (arm,), mine in groups(rows, 'arm'):
    cells = {row[field]: _percent(row) for row in mine}
    lines.append((arm, [cells.get(place, '') for place in places]))
  lines.append((counted, [str(max(row[count] for row in rows)) for rows in places.values()]))
  return table(title, 'arm', lines, [names[place] for place in places])


def _percent(row: dict[str, Any]) -> str:
  value, low, high = (100 * row[name] for name in ('accuracy', 'low', 'high'))
  return f'{value:.1f} [{low:.0f}, {high:.0f}]'


def groups(rows: list[dict[str, Any]], *names: str):
  """(values of the names, the rows that have them), in the order in which they first appear."""
  groups: dict[tuple, list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault(tuple(row[name] for name in names), []).append(row)
  return groups.items()


def _predictions(found: dict[str, Any]) -> str:
  """How well each regression predicts problems that it was not fitted on."""
  tables = []
  for (split,), rows in groups(found['predictions'], 'split'):
    lines = []
    for (arm, model), (row,) in groups(rows, 'arm', 'model'):
      ranks = [row['rank_correlation'], *row['rank_correlation_by_depth'].values()]
      odds = row['log_odds_per_unwitnessed_step']
      cells = [f'{odds[kind]:+.2f}' if kind in odds else '' for kind in KIND_NAMES]
      lines.append((f'{arm}: {model}', [f'{row["log_loss"]:.4f}', *map(rank, ranks), *cells]))
    on = rows[0]['fitted_on'] or 'one half, measured on the other'
    title = f'{split}: predicted, fitted on {on} (log odds per unwitnessed step)'
    depths = rows[0]['rank_correlation_by_depth']
    names = ['log loss, nats', 'rank corr.', *(f'L = {depth}' for depth in depths), *KIND_NAMES]
    tables.append(table(title, 'arm: model', lines, names))
  return '\n'.join(tables)


def rank(correlation: dict[str, float | None]) -> str:
  """A rank correlation with its interval; where one side does not vary, there is none."""
  values = [correlation[name] for name in ('value', 'low', 'high')]
  return '-' if None in values else '{:.2f} [{:.2f}, {:.2f}]'.format(*values)
