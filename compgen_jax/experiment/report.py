"""report.html: what an experiment found, in one file that needs nothing else. The figures also go to figures/*.png.

The wording is built from the intervals and is the same whichever way they point.
"""

import base64
import html
import io
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from compgen_jax.config import Config, to_dict
from compgen_jax.experiment import files
from compgen_jax.experiment.digest import Cell, Contrast, Digest, Estimate, digest, signed

NO_FIGURES = 'The figures need matplotlib: pip install matplotlib, then run the same command again.'
NAMED = 4  # contrasts that the first sentence names per side; the table has all
STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #63636a; --rule: #d9d9de; --paper: #fff; --shade: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a3a3ab; --rule: #3a3a40; --paper: #17171a; --shade: #202024; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .75rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
.lead { font-size: 1.1rem; margin: 0 0 .5rem; } .note, figcaption { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; } .note { margin: .5rem 0 0; }
tbody th { min-width: 12rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; } th[scope="row"], .first { text-align: left; } th[scope="colgroup"] { text-align: center; }
thead { border-bottom: 1.5px solid var(--soft); } thead th[rowspan] { vertical-align: bottom; }
tbody tr:hover { background: var(--shade); }
small { display: block; color: var(--soft); font-weight: 400; font-size: .78rem; }
td, th[scope="col"] { white-space: nowrap; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
figure { margin: 1.25rem 0 2rem; }
img { display: block; width: 100%; background: #fff; border: 1px solid var(--rule); border-radius: 6px; padding: 8px; }
figcaption { margin-top: .4rem; }
details { margin: .75rem 0; } summary { cursor: pointer; }
pre { background: var(--shade); padding: .75rem; overflow-x: auto; font-size: .8rem; border-radius: 6px; }
code { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
@media print {
  :root { --ink: #000; --soft: #444; --rule: #bbb; --paper: #fff; --shade: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; }
}
"""


def write(
  folder: pathlib.Path, config: Config, rows: list[dict[str, Any]], result: dict[str, Any]
) -> None:
  """Writes report.html and figures/*.png into `folder`.

  Args:
    folder: the run's workdir.
    config: the experiment.
    rows: the rows of results.jsonl.
    result: what summary.json holds.
  """
  d = digest(folder, config, rows, result)
  # Plain ASCII, so that it reads the same whatever encoding the file system or a server claims.
  text = page(d, config, result, _figures(folder, d)).encode('ascii', 'xmlcharrefreplace').decode()
  files.write_text(folder / 'report.html', text)


def page(d: Digest, config: Config, result: dict[str, Any], figures: list[str]) -> str:
  """The whole report; `figures` are ready HTML."""
  others = (_cells_table(d, config, _caption(metric), cells) for metric, cells in d.others.items())
  title = f'{result["experiment"]}: results'
  parts = [
    f'<h1>{_e(title)}</h1>',
    f'<p class="lead">{_e(headline(d.contrasts))}</p>',
    f'<p class="note">{_e(scope(result))}</p>',
    '<h2>Accuracy</h2>',
    _cells_table(d, config, 'Accuracy: answers right, % (greedy)', d.accuracy),
    _details('Strict accuracy, structure, pass@k', ''.join(others)),
    *(['<h2>Contrasts</h2>', _contrasts_table(d.contrasts)] if d.contrasts else []),
    '<h2>Figures</h2>',
    *figures,
    *(
      []
      if not d.modules
      else ['<h2>Modules</h2>', *(_modules_table(d, metric) for metric in d.modules)]
    ),
    '<h2>How it was made</h2>',
    _provenance(result),
    _details(
      'The resolved config',
      f'<pre>{_e(json.dumps(to_dict(config), indent=2, ensure_ascii=False))}</pre>',
    ),
  ]
  head = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{_e(title)}</title><style>{STYLE}</style></head>\n<body>\n'
  )
  return head + '\n'.join(parts) + '\n</body></html>\n'


# Words --------------------------------------------------------------------------------------------------------


def headline(contrasts: Sequence[Contrast]) -> str:
  """One sentence: whose intervals exclude zero, and on which side."""
  differences = [c for c in contrasts if c.is_difference]
  if not differences:
    return 'This experiment compares no arms by itself; the table of accuracies is its result.'
  clauses = []
  for side, words in (
    ('above zero', 'a 95 % interval above zero'),
    ('below zero', 'a 95 % interval below zero'),
    ('includes zero', 'a 95 % interval that includes zero'),
    ('no width', 'an interval without width, from which nothing follows'),
  ):
    mine = [c for c in differences if c.side == side]
    if mine or side != 'no width':
      clauses.append(
        f'{len(mine) or "none"} {"has" if len(mine) < 2 else "have"} {words}{_named(mine)}'
      )
  subject = f'Of {len(differences)} differences' if len(differences) > 1 else 'Of 1 difference'
  return f'{subject} in accuracy, {", ".join(clauses[:-1])}, and {clauses[-1]}.'


def scope(result: dict[str, Any]) -> str:
  """What the intervals are over, and what they therefore do not say."""
  seeds = result['seeds']
  if len(seeds) == 1:
    text = (
      f'One seed ({seeds[0]}): intervals are over problems and say how well this run is measured, '
    )
    text += 'not how another seed would turn out.'
  else:
    text = (
      f'{len(seeds)} seeds ({", ".join(map(str, seeds))}): intervals are over seeds (Student’s t).'
    )
  if len(result['contrasts']) > 1:
    text += f' They are not adjusted for the number of contrasts, {len(result["contrasts"])}.'
  return text


def _named(contrasts: list[Contrast]) -> str:
  names = [f'{c.name} {signed(c.value)}' for c in contrasts[:NAMED]]
  more = [f'{len(contrasts) - NAMED} more'] if len(contrasts) > NAMED else []
  return f' ({", ".join(names + more)})' if names else ''


# Parts --------------------------------------------------------------------------------------------------------


def _figures(folder: pathlib.Path, d: Digest) -> list[str]:
  """Draws, saves and embeds the figures; one line instead where matplotlib is not installed."""
  try:
    import matplotlib  # noqa: F401  an extra: setup.py, [plots]
  except ImportError:
    return [f'<p class="note">{_e(NO_FIGURES)}</p>']
  from compgen_jax.experiment import figures

  parts = []
  (folder / 'figures').mkdir(exist_ok=True)
  for drawing in figures.draw(d):
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format='png')
    (folder / 'figures' / f'{drawing.name}.png').write_bytes(buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    parts.append(
      f'<figure id="{drawing.name}"><img alt="{_e(drawing.caption)}" src="data:image/png;base64,{data}">'
      f'<figcaption>{_e(drawing.caption)}</figcaption></figure>'
    )
  return parts


def _caption(metric: str) -> str:
  if metric.startswith('pass@'):
    return f'{metric}: problems with a right answer among k = {metric[5:]} sampled traces, %'
  known = {
    'strict_accuracy': 'Strict accuracy: answer, structure, every operand and every result right, % (greedy)',
    'structure_accuracy': 'Structure: the right modules in the right order, % (greedy)',
  }
  return known.get(metric, f'{metric}, %')


def _cells_table(d: Digest, config: Config, caption: str, cells: dict[Cell, Estimate]) -> str:
  """Arms by (split, depth). n stands in the head where all arms have the same."""
  columns = [c for c in d.columns if any((arm, *c) in cells for arm in d.arms)]
  arms = [arm for arm in d.arms if any((arm, *c) in cells for c in columns)]
  n = {c: {cells[arm, *c].n for arm in arms if (arm, *c) in cells} for c in columns}
  splits = list(dict.fromkeys(split for split, _ in columns))
  width = {split: sum(s == split for s, _ in columns) for split in splits}
  top = ''.join(
    f'<th scope="colgroup" colspan="{width[split]}">{_e(split)}</th>' for split in splits
  )
  depths = ''.join(
    f'<th scope="col">depth {c[1]}{_small("n = " + _joined(n[c]))}</th>' for c in columns
  )
  body = ''
  for arm in arms:
    values = ''.join(f'<td>{_estimate(cells.get((arm, *c)), len(n[c]) > 1)}</td>' for c in columns)
    body += f'<tr><th scope="row">{_key(d, arm)}{_e(arm)}{_small(_origin(config, arm))}</th>{values}</tr>\n'
  head = f'<tr><th rowspan="2" class="first">arm</th>{top}</tr><tr>{depths}</tr>'
  return _table(f'{caption}, with 95 % intervals over {_over(cells.values())}', head, body)


def _contrasts_table(contrasts: Sequence[Contrast]) -> str:
  names = ('value', '95 % interval', 'reading', 'over', 'problems')
  head = (
    '<tr><th class="first">contrast</th>'
    + ''.join(f'<th scope="col">{name}</th>' for name in names)
    + '</tr>'
  )
  body = ''
  for c in contrasts:
    cells = (*c.written, c.side if c.is_difference else 'a level', c.over, c.n)
    values = ''.join(f'<td>{_e(x)}</td>' for x in cells)
    body += f'<tr><th scope="row">{_e(c.name)}{_small(c.formula)}</th>{values}</tr>\n'
  return _table('Accuracy points; problems are per seed, split and depth', head, body)


def _modules_table(d: Digest, metric: str) -> str:
  modules = d.modules[metric]
  arms = ''.join(f'<th scope="col">{_key(d, arm)}{_e(arm)}</th>' for arm in d.arms)
  head = f'<tr><th class="first">module</th>{arms}</tr>'
  body = ''
  for module in sorted(modules):
    values = ''.join(f'<td>{_estimate(modules[module].get(arm), True)}</td>' for arm in d.arms)
    body += f'<tr><th scope="row">{_e(module)}</th>{values}</tr>\n'
  name = metric.removesuffix('_accuracy')
  over = _over(e for row in modules.values() for e in row.values())
  caption = (
    f'Steps right given what the trace says before them, %, over well-structured traces of {", ".join(d.unseen)}; '
    f'n counts steps per seed; 95 % intervals over {over}'
  )
  return _details(f'{name.capitalize()} modules', _table(caption, head, body))


def _provenance(result: dict[str, Any]) -> str:
  entries = {
    'command': f'<code>{_e(result["command"])}</code>',
    'commit': _e(result['commit'] or 'not run from a git checkout'),
    'hardware': _e(result['hardware']),
    'versions': _e(', '.join(f'{name} {version}' for name, version in result['versions'].items())),
    'seeds': _e(', '.join(map(str, result['seeds']))),
    'wall time': f'{result["wall_time_s"] / 60:.1f} min',
  }
  return (
    '<dl>'
    + ''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in entries.items())
    + '</dl>'
  )


def _table(caption: str, head: str, body: str) -> str:
  table = f'<table><thead>{head}</thead><tbody>\n{body}</tbody></table>'
  return f'<p class="note">{_e(caption)}.</p><div class="wide">{table}</div>'


def _details(name: str, content: str) -> str:
  return f'<details><summary>{_e(name)}</summary>{content}</details>'


def _key(d: Digest, arm: str) -> str:
  return f'<span class="key" style="background:{d.colour(arm)}"></span>'


def _origin(config: Config, arm: str) -> str:
  stage = config.stages[arm]
  return (
    f'{stage.kind}{" from " + stage.init_from if stage.init_from else ""}, {stage.steps:,} updates'
  )


def _estimate(e: Estimate | None, with_n: bool) -> str:
  if e is None:
    return '<span class="note">none</span>'
  n = f', n = {e.n}' if with_n else ''
  return f'{100 * e.value:.1f}{_small(f"[{100 * e.low:.1f}, {100 * e.high:.1f}]{n}")}'


def _small(text: str) -> str:
  return f'<small>{_e(text)}</small>' if text else ''


def _over(estimates: Iterable[Estimate]) -> str:
  kinds = {e.over for e in estimates}
  others = ', '.join(sorted(kinds - {'seeds'}))
  return (
    others
    if 'seeds' not in kinds
    else f'seeds (over {others} where all seeds agree)'
    if others
    else 'seeds'
  )


def _joined(values: Iterable[Any]) -> str:
  return ' / '.join(map(str, sorted(values)))


def _e(text: Any) -> str:
  return html.escape(str(text))
