"""report.html: what an experiment found, in one file that needs nothing else.

The figures also go to figures/*.png.
"""

import base64
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from compgen_jax.config import Config, to_dict
from compgen_jax.experiment import files, workdirs
from compgen_jax.report import composability, examples, lead, probed, tables, words
from compgen_jax.report.digest import Digest, digest
from compgen_jax.report.tables import details, escape, note

NO_FIGURES = 'The figures need matplotlib: pip install matplotlib, then run the same command again.'
LAST = 'How it was made'  # the section after all results
STYLE = """
:root { color-scheme: light dark;
  --ink: #1d1d1f; --soft: #63636a; --rule: #d9d9de; --paper: #fff; --shade: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a3a3ab; --rule: #3a3a40; --paper: #17171a; --shade: #202024; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; overflow-wrap: anywhere;
  background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .75rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
.lead { font-size: 1.1rem; margin: 0 0 .5rem; }
.note, figcaption { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; } .note { margin: .5rem 0 0; }
tbody th { min-width: 12rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  margin: .5rem 0; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { font-weight: 600; } th[scope="row"], .first { text-align: left; }
th[scope="colgroup"] { text-align: center; }
thead { border-bottom: 1.5px solid var(--soft); } thead th[rowspan] { vertical-align: bottom; }
tbody tr:hover { background: var(--shade); }
small { display: block; color: var(--soft); font-weight: 400; font-size: .78rem; }
td, th[scope="col"] { white-space: nowrap; }
td.text { white-space: normal; text-align: left; min-width: 8rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: 0 1rem; }
mark { background: #ffd9c7; color: #1d1d1f; }
.key { display: inline-block; width: .75em; height: .75em; border: .15em solid; border-radius: 50%;
  margin-right: .45em; }
figure { margin: 1.25rem 0 2rem; }
img { display: block; width: 100%; min-width: 44rem; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; padding: 8px; }
figcaption { margin-top: .4rem; }
details { margin: .75rem 0; } summary { cursor: pointer; }
pre { background: var(--shade); padding: .75rem; overflow-x: auto; overflow-wrap: normal;
  font-size: .8rem; border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem;
  margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 40rem) {
  body { padding: 1rem 1rem 3rem; } th, td { padding: .35rem .4rem; } tbody th { min-width: 9rem; }
}
@media print {
  :root { --ink: #000; --soft: #444; --rule: #bbb; --paper: #fff; --shade: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; } img { min-width: 0; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; }
}
"""


def write(
  folder: pathlib.Path,
  config: Config,
  rows: list[dict[str, Any]],
  summary: dict[str, Any],
  traces: dict[str, list[dict[str, Any]]] | None = None,
) -> None:
  """Writes report.html and figures/*.png into `folder`, each file in one step.

  Args:
    folder: the run's workdir.
    config: the experiment.
    rows: the rows of results.jsonl.
    summary: what summary.json holds. (One made before it had `supports` will do.)
    traces: of the first seed, by arm: see `evaluate.Evaluation`. None where there are none.
  """
  d = digest(folder, config, rows, summary)
  text = page(d, config, summary, traces or {}, _figures(folder, d), _theory(folder))
  # Plain ASCII, so that it reads the same whatever encoding the file system or a server claims.
  files.write_bytes(folder / 'report.html', text.encode('ascii', 'xmlcharrefreplace'))


def write_theory(folder: pathlib.Path, config: Config, found: dict[str, Any]) -> None:
  """Writes the figures of theory.json; where the run has a summary, its whole report anew."""
  summary = folder / 'summary.json'
  if summary.exists():
    rows = files.read_jsonl(workdirs.results_in(folder))
    held = json.loads(summary.read_text(encoding='utf-8'))
    write(folder, config, rows, held, _kept_traces(folder, config))
  elif has_matplotlib():
    _theory_figures(folder, found)


def theory_text(found: dict[str, Any]) -> str:
  """All tables of theory.json, for a terminal."""
  return f'{composability.text(found)}\n{probed.text(found)}'


def _kept_traces(folder: pathlib.Path, config: Config) -> dict[str, list[dict[str, Any]]]:
  """What the first seed's stages have kept, by arm."""
  found = {}
  for arm in config.stages:
    path = workdirs.stage_folder(folder, arm, config.all_seeds[0]) / 'evaluation.json'
    found[arm] = (files.read_sealed(path) or {}).get('traces', [])
  return found


def page(
  d: Digest,
  config: Config,
  summary: dict[str, Any],
  traces: dict[str, list[dict[str, Any]]],
  figures: dict[str, str],
  theory: list[str],
) -> str:
  """The whole report; `figures` (by name) and `theory` (what theory.json says) are ready HTML."""
  title = escape(f'{summary["experiment"]}: results')
  first, counted = lead.lead(d, config), lead.counts(d)
  parts = [f'<h1>{title}</h1>', f'<p class="lead">{escape(first or counted)}</p>']
  parts += [note(counted)] if first else []
  parts += [note(lead.scope(summary)), *([] if figures else [note(NO_FIGURES)])]
  for heading, content in _sections(d, config, summary, traces, figures).items():
    parts += theory if heading == LAST else []
    if any(content):
      parts += [f'<h2>{heading}</h2>', *content]
  return document(title, parts)


def _sections(d, config, summary, traces, figures) -> dict[str, list[str]]:
  """Heading -> its parts, in the order in which questions come up."""
  greedy = tables.cells_table(d, config, 'Accuracy: answers right, % (greedy)', d.accuracy)
  others = {
    metric: tables.cells_table(d, config, _caption(metric), d.others[metric]) for metric in d.others
  }
  passes = ''.join(html for metric, html in others.items() if metric.startswith('pass@'))
  stricter = ''.join(html for metric, html in others.items() if not metric.startswith('pass@'))
  resolved = json.dumps(to_dict(config), indent=2, ensure_ascii=False)

  def figure_of(name: str) -> str:
    return figures.get(name, '')

  return {
    'What was trained, and on what': [
      note(words.TASK),
      tables.arms_table(d, config),
      tables.splits_table(config, d),
      tables.supports_table(config, summary['supports']) if 'supports' in summary else '',
    ],
    'Accuracy by depth': [
      figure_of('accuracy'),
      greedy,
      details('Strict accuracy, structure', stricter),
    ],
    'Contrasts': [
      figure_of('contrasts'),
      tables.contrasts_table(d.contrasts) if d.contrasts else '',
    ],
    'During training': [figure_of('curves')],
    'Before and after, by number of samples': [
      figure_of('passes'),
      details('pass@k', passes) if passes else '',
    ],
    'Why traces fail': [figure_of('why')],
    'Modules': [figure_of('modules'), *(tables.modules_table(d, metric) for metric in d.modules)],
    'One problem, before and after': examples.section(config, traces) if traces else [],
    'What training reports': [figure_of('learning')],
    LAST: [
      _provenance(summary),
      details('The resolved config', f'<pre>{escape(resolved)}</pre>'),
    ],
  }


def document(title: str, parts: Sequence[str], head: str = '') -> str:
  """A page that needs nothing else; `title`, `parts` and `head` (more of its head) are HTML."""
  top = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'{head}<title>{title}</title><style>{STYLE}</style></head>\n<body>\n'
  )
  return top + '\n'.join(parts) + '\n</body></html>\n'


def _figures(folder: pathlib.Path, d: Digest) -> dict[str, str]:
  """Draws, saves and embeds the figures, by name; none where matplotlib is not installed."""
  if not has_matplotlib():
    return {}
  from compgen_jax.report import figures

  return embedded(folder, figures.draw(d))


def has_matplotlib() -> bool:
  """Whether figures can be drawn."""
  try:
    import matplotlib  # noqa: F401  an extra: setup.py, [plots]
  except ImportError:
    return False
  return True


def _theory(folder: pathlib.Path) -> list[str]:
  """What theory.json says, if it is there; one line where another version of the code made it."""
  path = folder / 'theory.json'
  if not path.exists():
    return []
  found = json.loads(path.read_text(encoding='utf-8'))
  title = '<h2>What SFT witnessed, and what models do with single modules</h2>'
  if 'asked' not in found:
    return [title, note('theory.json is of an older version: python -m compgen_jax.theory again.')]
  of = '; '.join(
    f'{arm}: seeds {", ".join(map(str, seeds))}' for arm, seeds in found['seeds'].items()
  )
  parts = _theory_figures(folder, found) if has_matplotlib() else []
  text = details('All tables', f'<pre>{escape(theory_text(found))}</pre>')
  return [title, note(f'As of python -m compgen_jax.theory ({of}).'), *parts, text]


def _theory_figures(folder: pathlib.Path, found: dict[str, Any]) -> list[str]:
  from compgen_jax.report import theory_figures

  return list(embedded(folder, theory_figures.draw(found)).values())


def embedded(folder: pathlib.Path | None, drawings: list[Any]) -> dict[str, str]:
  """Figures as HTML, by name; with a folder, they are saved to its figures/*.png as well."""
  drawn = {}
  for drawing in drawings:
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format='png')
    if folder is not None:
      files.write_bytes(folder / 'figures' / f'{drawing.name}.png', buffer.getvalue())
    drawn[drawing.name] = _figure(drawing.name, buffer.getvalue(), drawing.caption)
  return drawn


def _figure(name: str, png: bytes, caption: str) -> str:
  """A picture as HTML, held in the page itself."""
  data, text = base64.b64encode(png).decode(), escape(caption)
  image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
  return (
    f'<figure id="{name}"><div class="wide">{image}</div><figcaption>{text}</figcaption></figure>'
  )


def _caption(metric: str) -> str:
  if metric.startswith('pass@'):
    k = metric.removeprefix('pass@')
    return f'{metric}: problems with a right answer among k = {k} sampled traces, %'
  known = {
    'strict_accuracy': (
      'Strict accuracy: answer, structure, every operand and every result right, % (greedy)'
    ),
    'structure_accuracy': 'Structure: the right modules in the right order, % (greedy)',
  }
  return known.get(metric, f'{metric}, %')


def _provenance(summary: dict[str, Any]) -> str:
  versions = ', '.join(f'{name} {version}' for name, version in summary['versions'].items())
  entries = {
    'command': f'<code>{escape(summary["command"])}</code>',
    'commit': escape(summary['commit'] or 'not run from a git checkout'),
    'hardware': escape(summary['hardware']),
    'versions': escape(versions),
    'seeds': escape(', '.join(map(str, summary['seeds']))),
    'wall time': f'{summary["wall_time_s"] / 60:.1f} min',
  }
  for arm, parent in summary.get('starts_from', {}).items():
    commit = parent['commit'] or 'an unknown commit'
    entries[f'{escape(arm)} starts from'] = escape(
      f'{parent["stage"]} of {parent["workdir"]}, made by {parent["command"]} at {commit}'
    )
  rows = ''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in entries.items())
  return f'<dl>{rows}</dl>'
