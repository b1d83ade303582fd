"""Several variants of an experiment side by side: tables, figures and a page.

A sweep over one number is drawn over that number, over two as a grid of colours; variants that
differ otherwise stand beside each other by name.
"""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from compgen_jax.experiment import files
from compgen_jax.experiment.collected import Variant, overview, tidy
from compgen_jax.report import page, tables
from compgen_jax.report.tables import escape, note


class Axis(NamedTuple):
  """A field that tells variants apart, and its value in each of them."""

  field: str
  values: tuple[Any, ...]

  @property
  def is_numeric(self) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)


def axes_of(variants: Sequence[Variant]) -> list[Axis]:
  """The fields that vary independently: one for each way in which variants fall into groups.

  (Fields that always change together, such as the sizes of two supports, count once.)
  """
  found: dict[tuple[int, ...], Axis] = {}
  for field in variants[0].values:
    values = tuple(variant.values[field] for variant in variants)
    first = {repr(value): i for i, value in reversed(list(enumerate(values)))}
    groups = tuple(first[repr(value)] for value in values)
    axis = Axis(field, values)
    if groups not in found or (axis.is_numeric and not found[groups].is_numeric):
      found[groups] = axis
  return list(found.values())


def over(variants: Sequence[Variant]) -> Axis | None:
  """The number that the variants are drawn over; None where no one number tells all apart."""
  for axis in axes_of(variants):
    if axis.is_numeric and len(set(axis.values)) == len(variants):
      return axis
  return None


def grid_of(variants: Sequence[Variant]) -> tuple[Axis, Axis] | None:
  """The two numbers of a full grid, or None where the variants are none."""
  numeric = [axis for axis in axes_of(variants) if axis.is_numeric]
  for i, a in enumerate(numeric):
    for b in numeric[i + 1 :]:
      pairs = set(zip(a.values, b.values))
      if len(pairs) == len(variants) == len(set(a.values)) * len(set(b.values)):
        return a, b
  return None


def write(folder: pathlib.Path, variants: Sequence[Variant]) -> None:
  """Writes summary.json, table.csv, figures/*.png and report.html of several variants."""
  files.write_json(folder / 'summary.json', overview(variants))
  files.write_text(folder / 'table.csv', csv_text(variants))
  figures = _figures(folder, variants)
  text = html(variants, figures)
  files.write_bytes(folder / 'report.html', text.encode('ascii', 'xmlcharrefreplace'))


def csv_text(variants: Sequence[Variant]) -> str:
  """The tidy table as CSV, one line per row of `collected.tidy`."""
  rows = tidy(variants)
  names = list(dict.fromkeys(name for row in rows for name in row))
  out = io.StringIO()
  writer = csv.DictWriter(out, names, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return out.getvalue()


def text(variants: Sequence[Variant]) -> str:
  """Contrasts of all variants for a terminal: one line per contrast and variant."""
  lines = []
  width = max(len(variant.name) for variant in variants) + 2
  for name in contrast_names(variants):
    lines += ['', name]
    for variant in variants:
      c = contrasts(variant).get(name)
      if c is not None:
        between = f'[{c["low"]:+.1f}, {c["high"]:+.1f}] over {c["interval"]}'
        seeds = len(variant.summary['seeds'])
        lines.append(
          f'  {variant.name.ljust(width)}{c["value"]:+8.1f}   {between}, {seeds} replicates'
        )
  return '\n'.join(lines)


def html(variants: Sequence[Variant], figures: list[str]) -> str:
  """The page; `figures` are ready HTML."""
  title = escape(f'{variants[0].config.experiment}: {len(variants)} variants')
  fields = ', '.join(variants[0].values)
  parts = [
    f'<h1>{title}</h1>',
    f'<p class="lead">The variants differ in {tables.breakable(fields)}.</p>',
    note(_scope(variants)),
    '<h2>Contrasts</h2>',
    _contrast_table(variants),
    '<h2>Figures</h2>',
    *figures,
    '<h2>How it was made</h2>',
    _made(variants),
  ]
  return page.document(title, parts)


def _scope(variants: Sequence[Variant]) -> str:
  counts = sorted({len(variant.summary['seeds']) for variant in variants})
  kinds = sorted({c['interval'] for v in variants for c in v.summary['contrasts']})
  replicates = ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
  over_what = ' or '.join(kinds) or 'replicates'
  return (
    f'{replicates} replicates a variant; 95 % intervals over {over_what}, not adjusted for the '
    'number of variants.'
  )


def contrasts(variant: Variant) -> dict[str, dict[str, Any]]:
  """The contrasts of a variant, by name."""
  return {c['name']: c for c in variant.summary['contrasts']}


def contrast_names(variants: Sequence[Variant]) -> list[str]:
  """Of all variants, in the order in which they are first met."""
  return list(dict.fromkeys(name for variant in variants for name in contrasts(variant)))


def _contrast_table(variants: Sequence[Variant]) -> str:
  names = contrast_names(variants)
  header = ''.join(f'<th scope="col">{tables.breakable(name)}</th>' for name in names)
  body = ''
  for variant in variants:
    held = contrasts(variant)
    cells = [
      f'{held[name]["value"]:+.1f}<small>[{held[name]["low"]:+.1f}, '
      f'{held[name]["high"]:+.1f}]</small>'
      if name in held
      else ''
      for name in names
    ]
    body += tables.row(tables.breakable(variant.name), cells)
  return tables.table(
    'Accuracy points, with 95 % intervals', f'<tr><th class="first">variant</th>{header}</tr>', body
  )


def _made(variants: Sequence[Variant]) -> str:
  header = '<tr><th class="first">variant</th>' + ''.join(
    f'<th scope="col">{name}</th>' for name in ('seeds', 'commit', 'folders')
  )
  body = ''
  for variant in variants:
    made = variant.summary
    seeds = ', '.join(map(str, made['seeds']))
    cells = [escape(seeds), escape(made['commit']), escape(', '.join(made['folders']))]
    body += tables.row(tables.breakable(variant.name), cells)
  return tables.table('Where the numbers come from', header + '</tr>', body)


def _figures(folder: pathlib.Path, variants: Sequence[Variant]) -> list[str]:
  if not page.has_matplotlib():
    return [note(page.NO_FIGURES)]
  from compgen_jax.report import comparison_figures

  return list(page.embedded(folder, comparison_figures.draw(variants)).values())
