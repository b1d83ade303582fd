"""Lists that a notebook shows as text: measurements as a table, problems and samples one by one."""

from typing import Any


class Rows(list):
  """Measurements, flat dicts as in results.jsonl: `pandas.DataFrame(rows)` takes them as they are.

  Printed, they are a table of what was measured last of each arm: a line per arm, seed, split and
  depth, with accuracy, its 95 % interval and n, and the other measures of whole traces.
  """

  def __repr__(self) -> str:
    places, metrics = _latest(self)
    if not places:
      return f'{len(self)} rows'
    others = [name for name in metrics if name != 'accuracy']
    header = ['arm', 'seed', 'split', 'depth', 'accuracy, %', '95 % interval', 'n', *others]
    lines = [header, *(_cells(place, measured, others) for place, measured in places.items())]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join(
      '  '.join(
        cell.ljust(width) if i in (0, 2) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(line, widths))
      ).rstrip()
      for line in lines
    )


class Texts(list):
  """Objects that are text when printed; together, one below the other."""

  def __repr__(self) -> str:
    return '\n\n'.join(map(repr, self))


def _latest(rows: list[dict[str, Any]]) -> tuple[dict[tuple, dict[str, dict]], list[str]]:
  """(arm, seed, split, depth) -> metric -> row of the last step, and the metrics in their order."""
  places: dict[tuple, dict[str, dict]] = {}
  whole = [row for row in rows if 'module' not in row]
  for row in whole:
    place = row['arm'], row['seed'], row['split'], row['depth']
    measured = places.setdefault(place, {})
    if row['step'] >= measured.get(row['metric'], row)['step']:
      measured[row['metric']] = row
  return places, list(dict.fromkeys(row['metric'] for row in whole))


def _cells(place: tuple, measured: dict[str, dict], others: list[str]) -> list[str]:
  accuracy = measured.get('accuracy')
  cells = ['', '', '']
  if accuracy:
    low, high = 100 * accuracy['low'], 100 * accuracy['high']
    cells = [f'{100 * accuracy["value"]:.1f}', f'[{low:.1f}, {high:.1f}]', str(accuracy['n'])]
  values = [f'{100 * measured[name]["value"]:.1f}' if name in measured else '' for name in others]
  return [*map(str, place), *cells, *values]
