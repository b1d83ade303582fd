"""One problem before and after an arm that explores: three, chosen by a fixed rule, as HTML."""

from typing import Any

from compgen_jax import verifier
from compgen_jax.config import Config
from compgen_jax.report import words
from compgen_jax.report.tables import escape, note

# What became of a problem: (in words, right before, right after).
FATES = (('fixed', False, True), ('broken', True, False), ('never right', False, False))

Kept = dict[str, Any]  # see evaluate.Evaluation


def section(config: Config, traces: dict[str, list[Kept]]) -> list[str]:
  """The three problems; one line where there is no arm that explores, or nothing was kept."""
  arm = next((name for name in config.stages if config.kind(name).explores), None)
  if arm is None:
    return [note('No arm of this experiment explores.')]
  parent = config.stages[arm].parent
  if not parent:
    return [note(f'{arm} starts from another run, whose traces are not kept here.')]
  pairs = _pairs(config, traces.get(parent, []), traces.get(arm, []))
  rule = (
    f'The first problem of each fate, by split, depth and number, among the first of each split '
    f'that was never trained on; before ({words.arm(config, parent)}) and after '
    f'({words.arm(config, arm)}), greedy, first seed. The first wrong step is marked.'
  )
  parts = [note(rule)]
  for fate, was_right, is_right in FATES:
    found = [pair for pair in pairs if tuple(map(_is_right, pair)) == (was_right, is_right)]
    what = f'{fate} by {words.arm(config, arm)}' if was_right != is_right else fate
    if not found:
      parts.append(note(f'None of {len(pairs)} was {what}.'))
      continue
    parts.append(_problem(f'{what}: {len(found)} of {len(pairs)}, of which the first', *found[0]))
  return parts


def _pairs(config: Config, before: list[Kept], after: list[Kept]) -> list[tuple[Kept, Kept]]:
  """The same problems of both, of splits that were never trained on."""

  def place(kept: Kept) -> tuple:
    return kept['split'], kept['depth'], kept['problem']

  by_place = {place(kept): kept for kept in before}
  unseen = [kept for kept in after if kept['split'] not in config.eval.trained]
  return [(by_place[place(kept)], kept) for kept in unseen if place(kept) in by_place]


def _is_right(kept: Kept) -> bool:
  return verifier.verify(kept, kept['written'])['answer']


def _problem(title: str, before: Kept, after: Kept) -> str:
  """The problem, and its two traces side by side."""
  name = f'problem {before["problem"]} of {before["split"]}, {words.steps([before["depth"]])}'
  sides = ''.join(
    f'<div><p class="note">{when}: {escape(verifier.where(kept, kept["written"]))}</p>'
    f'<pre>{_marked(kept)}</pre></div>'
    for when, kept in (('before', before), ('after', after))
  )
  heading = f'{title}: {name}'
  return (
    f'<h3>{escape(heading[0].upper() + heading[1:])}</h3>'
    f'<pre>{escape(before["prompt"])}</pre><div class="sides">{sides}</div>'
  )


def _marked(kept: Kept) -> str:
  """The trace step by step as HTML; wrong steps are marked."""
  lines = []
  for line in verifier.compare(kept, kept['written']).splitlines():
    is_wrong = line.startswith('  x ')
    lines.append(f'<mark>{escape(line)}</mark>' if is_wrong else escape(line))
  return '\n'.join(lines)
