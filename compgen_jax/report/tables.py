"""The report's tables and small parts, as HTML. All text from outside is escaped here."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from compgen_jax.config import Config
from compgen_jax.report import words
from compgen_jax.report.digest import Cell, Contrast, Digest, Estimate


def arms_table(d: Digest, config: Config) -> str:
  """What each arm is, what it is trained on, and for how long."""
  body = ''
  for arm in d.arms:
    stage = config.stages[arm]
    data = ', '.join(
      name if share == 1 else f'{name} ({100 * share:g} %)'
      for name, share in zip(stage.data, stage.shares)
    )
    start = stage.init_from or 'scratch'
    cells = (words.arm(config, arm), start, data, f'{stage.steps:,}')
    body += row(_key(d, arm) + breakable(arm), [breakable(cell) for cell in cells], 'text')
  header = _header('arm', ('what', 'starts from', 'trained on', 'updates'))
  return table('Arms, in the order of the config', header, body)


def supports_table(config: Config, held: dict[str, dict[str, Any]]) -> str:
  """What each support holds; `held` is that of summary.json."""
  body = ''
  for name, about in held.items():
    support = config.supports[name]
    counts = ', '.join(
      f'{n:,} of {words.steps([int(steps)])}' for steps, n in about['compositions'].items()
    )
    cells = (
      f'pool {support.pool}, {words.steps(support.depths)}{_limits(support)}',
      f'{"" if about["is_exact"] else "about "}{counts}',
      ', '.join(f'{other} {100 * share:.0f} %' for other, share in about['shown'].items()) or '-',
      about['example'],
    )
    body += row(breakable(name), [breakable(cell) for cell in cells], 'text')
  titles = ('what fits', 'compositions', 'of these, training can show', 'example')
  caption = (
    'Supports: sets of compositions, of the first seed. Pools are disjoint (but a single step is '
    'in all of them)'
  )
  return table(caption, _header('support', titles), body)


def _limits(support: Any) -> str:
  """What a support leaves out or asks for beyond pool and depths."""
  limits = ''
  for words_, names in (
    ('without', (*support.without_routings, *support.without_skills, *support.without_pairs)),
    ('with', (*support.with_routings, *support.with_skills, *support.with_pairs)),
  ):
    limits += f', {words_} {", ".join(names)}' if names else ''
  if support.overlap:
    other, share = support.overlap
    limits += f', {100 * share:g} % taken from {other}'
  limits += ', all modules about equally often' if support.balanced else ''
  limits += f', behind up to {support.prefix} dry steps' if support.prefix else ''
  return limits + (', dry: format only, modules are not run' if support.dry else '')


def splits_table(config: Config, d: Digest) -> str:
  """What each evaluation split is."""
  body = ''
  for split in dict.fromkeys(split for split, _ in d.places):
    name = config.eval.splits[split]
    cells = (words.split(config, split), name, words.steps(config.supports[name].depths))
    body += row(breakable(split), [breakable(cell) for cell in cells], 'text')
  header = _header('split', ('what', 'compositions of', 'depths'))
  return table('Splits: what is evaluated, on inputs of its own', header, body)


def _header(first: str, names: Sequence[str]) -> str:
  cells = ''.join(f'<th scope="col" class="first">{name}</th>' for name in names)
  return f'<tr><th class="first">{first}</th>{cells}</tr>'


def cells_table(d: Digest, config: Config, caption: str, cells: dict[Cell, Estimate]) -> str:
  """Arms by (split, depth). n stands above the numbers where all arms have the same."""
  places = [p for p in d.places if any((arm, *p) in cells for arm in d.arms)]
  arms = [arm for arm in d.arms if any((arm, *p) in cells for p in places)]
  n = {p: {cells[arm, *p].n for arm in arms if (arm, *p) in cells} for p in places}
  splits = list(dict.fromkeys(split for split, _ in places))
  width = {split: sum(s == split for s, _ in places) for split in splits}
  top = ''.join(
    f'<th scope="colgroup" colspan="{width[split]}">{escape(split)}</th>' for split in splits
  )
  depths = ''.join(
    f'<th scope="col">depth {p[1]}{_small("n = " + _joined(n[p]))}</th>' for p in places
  )
  header = f'<tr><th rowspan="2" class="first">arm</th>{top}</tr><tr>{depths}</tr>'
  body = ''
  for arm in arms:
    name = _key(d, arm) + breakable(arm) + _small(_origin(config, arm))
    body += row(name, [_estimate(cells.get((arm, *p)), len(n[p]) > 1) for p in places])
  return table(f'{caption}, with 95 % intervals over {_over(cells.values())}', header, body)


def contrasts_table(contrasts: Sequence[Contrast]) -> str:
  """A row per contrast, with what it is made of."""
  names = ('value', '95 % interval', 'reading', 'over', 'problems')
  titles = ''.join(f'<th scope="col">{name}</th>' for name in names)
  body = ''
  for c in contrasts:
    reading = c.side.value if c.is_difference else 'a level'
    cells = (*c.written, reading, c.over, c.n)
    name = breakable(c.what) + _small(c.where) + _small(c.name)
    body += row(name, [escape(cell) for cell in cells])
  header = f'<tr><th class="first">contrast</th>{titles}</tr>'
  return table('Accuracy points; problems are per seed, split and depth', header, body)


def modules_table(d: Digest, metric: str) -> str:
  """Modules by arm, folded away."""
  modules = d.modules[metric]
  arms = ''.join(f'<th scope="col">{_key(d, arm)}{escape(arm)}</th>' for arm in d.arms)
  header = f'<tr><th class="first">module</th>{arms}</tr>'
  body = ''
  for module in sorted(modules):
    cells = [_estimate(modules[module].get(arm), with_n=True) for arm in d.arms]
    body += row(escape(module), cells)
  over = _over(e for row in modules.values() for e in row.values())
  caption = (
    'Steps right given what the trace says before them, %, over well-structured traces of '
    f'{", ".join(d.unseen)}; n counts steps per seed; 95 % intervals over {over}'
  )
  kind = metric.removesuffix('_accuracy')
  return details(f'{kind.capitalize()} modules', table(caption, header, body))


def details(name: str, content: str) -> str:
  """Content (HTML) that unfolds at a click on its name (text)."""
  return f'<details><summary>{escape(name)}</summary>{content}</details>'


def note(text: str) -> str:
  """A paragraph in small print."""
  return f'<p class="note">{escape(text)}</p>'


def escape(text: Any) -> str:
  """Text as HTML, fit for attributes too."""
  return html.escape(str(text))


def breakable(text: str) -> str:
  """Text as HTML that may break behind dots and underscores: names are long, phones narrow."""
  return escape(text).replace('_', '_<wbr>').replace('.', '.<wbr>')


def table(caption: str, header: str, body: str) -> str:
  """A table with its caption; header and body are HTML rows."""
  rows = f'<table><thead>{header}</thead><tbody>\n{body}</tbody></table>'
  return f'{note(caption + ".")}<div class="wide">{rows}</div>'


def row(name: str, cells: Iterable[str], kind: str = '') -> str:
  """A row of a table; name and cells are HTML. `kind` 'text' is of cells that are no numbers."""
  opened = f'<td class="{kind}">' if kind else '<td>'
  values = ''.join(f'{opened}{cell}</td>' for cell in cells)
  return f'<tr><th scope="row">{name}</th>{values}</tr>\n'


def _key(d: Digest, arm: str) -> str:
  """A disc in the arm's colour, or a ring where its markers are hollow."""
  look = d.look(arm)
  fill = look.colour if look.filled else 'transparent'
  return f'<span class="key" style="background:{fill};border-color:{look.colour}"></span>'


def _origin(config: Config, arm: str) -> str:
  stage = config.stages[arm]
  parent = f' from {stage.init_from}' if stage.init_from else ''
  return f'{stage.kind}{parent}, {stage.steps:,} updates'


def _estimate(e: Estimate | None, with_n: bool) -> str:
  if e is None:
    return '<span class="note">none</span>'
  n = f', n = {e.n}' if with_n else ''
  return f'{100 * e.value:.1f}{_small(f"[{100 * e.low:.1f}, {100 * e.high:.1f}]{n}")}'


def _small(text: str) -> str:
  return f'<small>{escape(text)}</small>' if text else ''


def _over(estimates: Iterable[Estimate]) -> str:
  kinds = {e.over for e in estimates}
  others = ', '.join(sorted(kinds - {'seeds'}))
  if 'seeds' not in kinds:
    return others
  return f'seeds (over {others} where all seeds agree)' if others else 'seeds'


def _joined(values: Iterable[Any]) -> str:
  return ' / '.join(map(str, sorted(values)))
