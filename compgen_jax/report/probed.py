"""theory.json's tables of models' own traces, for a terminal."""

from typing import Any

from compgen_jax.report.composability import groups, rank, table


def text(found: dict[str, Any]) -> str:
  """All tables that have rows."""
  shown = (
    _golden(found),
    _traces(found),
    _modules(found),
    _entanglement(found),
    _swaps(found),
    _reach(found),
    _enrichment(found),
    _gains(found),
  )
  left_out = [arm for arm in found['arms'] if arm not in found['asked']]
  note = [f'\nnot asked, because there is no checkpoint: {", ".join(left_out)}'] if left_out else []
  return '\n'.join([*filter(None, shown), *note])


def _golden(found: dict[str, Any]) -> str:
  """Modules that golden traces often do not identify."""
  lines = []
  named = [row | dict(data=' + '.join(row['data'])) for row in found['golden']]
  for (data,), rows in groups(named, 'data'):
    often = sorted((r for r in rows if r['ambiguous']), key=lambda r: -r['ambiguous'])[:8]
    names = ', '.join(f'{r["module"]} {100 * r["ambiguous"]:.0f}' for r in often)
    lines.append(f'{data}: {names or "none"}')
  title = 'golden steps that another module of the same sort explains too, % (the most ambiguous)'
  return '\n'.join(['', title, *lines])


def _traces(found: dict[str, Any]) -> str:
  """Sampled traces: what is right, where they first go wrong, what reward finds."""
  lines = []
  for row in found['traces']:
    wrong = [f'{100 * share:.1f}' for share in row['first_wrong'].values()]
    counts = [row['rewarded'], row['distinct_traces'], row['distinct_selections']]
    cells = [percent(row[name]) for name in ('answer', 'strict', 'answer_only')]
    cells += [*wrong, percent(row['other_selection'])]
    cells += [f'{row["prompts_rewarded"]}/{row["prompts"]}']
    cells += ['-' if x is None else f'{x:.2f}' for x in counts]
    lines.append((f'{row["arm"]}: {row["split"]}', cells))
  names = ['answer right', 'strictly', 'of right: answer only', 'wrong at structure', 'operand']
  names += ['result', 'end', 'by another selection', 'prompts rewarded']
  names += ['rewarded', 'traces', 'selections']
  samples = ', '.join(sorted({str(row['samples']) for row in found['traces']}))
  title = (
    f'sampled traces ({samples} a prompt), %; rewarded samples, different traces and selections '
    'among them per rewarded prompt'
  )
  return _or_nothing(title, 'arm: split', lines, names)


def _modules(found: dict[str, Any]) -> str:
  """A row per module: executed right in witnessed and unwitnessed pairs, by arm."""
  arms = list(dict.fromkeys(row['arm'] for row in found['modules']))
  lines = []
  for (module,), rows in groups(found['modules'], 'module'):
    by_arm = {row['arm']: row['pairs'] for row in rows}
    cells = []
    for arm in arms:
      sides = [by_arm[arm][side]['value'] for side in ('witnessed', 'unwitnessed')]
      cells += ['-' if x is None else f'{100 * x:.0f}' for x in sides]
      cells.append(_points(by_arm[arm]['entanglement']))
    lines.append((module, cells))
  names = [name for arm in arms for name in (arm, 'not', 'difference')]
  title = (
    'executed right, %, in witnessed (routing, skill) pairs, and not; the difference in points, '
    'intervals over compositions'
  )
  return _or_nothing(title, 'module', lines, names)


def _entanglement(found: dict[str, Any]) -> str:
  """The mean difference of all modules, and of groups that are practised alike, by arm."""
  lines = []
  names = list(dict.fromkeys(f'{row["sort"]}: {row["kind"]}' for row in found['entanglement']))
  named = [row | dict(of=', '.join(row.get('modules', ()))) for row in found['entanglement']]
  for (of, arm), rows in groups(named, 'of', 'arm'):
    cells = {f'{row["sort"]}: {row["kind"]}': _points(row) for row in rows}
    lines.append((f'{arm} ({of})' if of else arm, [cells.get(name, '') for name in names]))
  over = ', '.join(sorted({row['over'] for row in found['entanglement']}))
  title = f'entanglement: mean difference within modules, points, intervals over {over}'
  return _or_nothing(title, 'arm', lines, names)


def _swaps(found: dict[str, Any]) -> str:
  """One module of a prompt swapped."""
  names = ('before', 'there', 'after', 'exact', 'there_before')
  lines = []
  for row in found['swaps']:
    what = f'{row["sort"]}, {"witnessed" if row["witnessed"] else "unwitnessed"} pair'
    cells = [percent(row[name]) for name in names]
    lines.append((f'{row["arm"]}: {row["split"]}: {what}', [*cells, str(row['exact']['n'])]))
  title = (
    'one module swapped, %: as it was before it; executed right; as right or wrong behind it; all '
    'three; the old module executed right'
  )
  return _or_nothing(title, 'arm: split: swapped', lines, [*names, 'swaps'])


def _reach(found: dict[str, Any]) -> str:
  """pass@k before exploring, and how many groups have signal."""
  lines, passes = [], []
  for row in found['reach']:
    passes = [name for name in row if name.startswith('pass@')]
    where = f'depth {row["depth"]}' if row['depth'] else 'all'
    cells = []
    for name in (*passes, 'never', 'always', 'informative'):
      low, high = row['intervals'][name]
      cells.append(f'{100 * row[name]:.1f} [{100 * low:.0f}, {100 * high:.0f}]')
    what = f'{row["arm"]} from {row["parent"]}, groups of {row["group"]}: {where}'
    lines.append((what, [*cells, str(row['prompts'])]))
  names = [*passes, 'never right', 'always', 'groups with signal', 'prompts']
  title = 'what exploring starts from, %: its parent on its own prompts'
  return _or_nothing(title, 'arm', lines, names)


def _enrichment(found: dict[str, Any]) -> str:
  """Modules under reward, before exploring."""
  lines = []
  for row in found['enrichment']:
    cells = [_share(row[name]) for name in ('p0', 'reward_if', 'reward_if_not')]
    cells += [_share(row[name], '+.2f') for name in ('value', 'within')]
    lines.append((f'{row["arm"]}: {row["module"]}', [*cells, str(row['n'])]))
  names = ['P(E), %', 'P(R | E)', 'P(R | not E)', 'enrichment, points', 'within prompts', 'steps']
  title = 'E: a module is executed right, and how much more often where the answer is (parent)'
  return _or_nothing(title, 'arm: module', lines, names)


def _gains(found: dict[str, Any]) -> str:
  """Does what was enriched before predict what is gained?"""
  lines = [
    (
      f'{row["arm"]}: {row["kind"]}',
      [*(rank(row[name]) for name in ('enrichment', 'within', 'headroom')), str(row['items'])],
    )
    for row in found['gains']
  ]
  title = 'rank correlation with the gain that exploring then brings (1 - P(E) is the control)'
  return _or_nothing(
    title, 'arm: items', lines, ['enrichment', 'within prompts', '1 - P(E)', 'items']
  )


def _or_nothing(title: str, first: str, lines: list, names: list[str]) -> str:
  return table(title, first, lines, names) if lines else ''


def percent(share: dict[str, Any]) -> str:
  """A share with its interval, in %."""
  if share['value'] is None:
    return '-'
  value, low, high = (100 * share[name] for name in ('value', 'low', 'high'))
  return f'{value:.1f} [{low:.0f}, {high:.0f}]'


def _points(difference: dict[str, Any]) -> str:
  if difference['value'] is None:
    return '-'
  value, low, high = (100 * difference[name] for name in ('value', 'low', 'high'))
  return f'{value:+.1f} [{low:+.0f}, {high:+.0f}]'


def _share(x: float | None, form: str = '.1f') -> str:
  return '-' if x is None else format(100 * x, form)
