"""The report's first sentences, built from contrasts and their intervals.

The wording is the same whichever way intervals point.
"""

from typing import Any

from compgen_jax.config import Config
from compgen_jax.report import words
from compgen_jax.report.digest import Contrast, Digest, Side, signed

NOTHING = 'This experiment compares no arms by itself; the table of accuracies is its result.'
SIDES = {  # in the order of the sentence
  Side.ABOVE: 'a 95 % interval above zero',
  Side.BELOW: 'a 95 % interval below zero',
  Side.AROUND: 'a 95 % interval that includes zero',
  Side.NO_WIDTH: 'an interval without width, from which nothing follows',
}


def lead(d: Digest, config: Config) -> str:
  """What the arm of the most contrasts answers, and how that compares; '' where no two arms are
  compared in one place.

  (Of the places where it is compared with equally many arms, the first in the config.)
  """
  compared: dict[tuple, list[Contrast]] = {}
  for c in d.contrasts:
    if c.pair:
      arm, _, split, depth = c.pair
      compared.setdefault((arm, split, depth), []).append(c)
  if not compared:
    return ''
  (arm, split, depth), contrasts = max(compared.items(), key=lambda entry: len(entry[1]))
  depths = [depth] if depth else list(config.supports[config.eval.splits[split]].depths)
  levels = {name: _percent(d, name, split, depths) for name in d.arms}
  mean = ', mean over depths' if len(depths) > 1 else ''
  where = f'{words.split(config, split)} ({words.steps(depths)}{mean})'
  clauses = [_clause(c, config, levels[c.pair[1]]) for c in contrasts]
  start = f'{words.history(config, arm)} answers {levels[arm]:.1f} % right on {where}'
  return f'{start}: {"; ".join(clauses)}.'


def _percent(d: Digest, arm: str, split: str, depths: list[int]) -> float:
  return 100 * sum(d.accuracy[arm, split, depth].value for depth in depths) / len(depths)


def _clause(c: Contrast, config: Config, level: float) -> str:
  """How the arm compares with another, whose accuracy is `level`."""
  other = f'{words.arm(config, c.pair[1])} ({level:.1f} %)'
  between = f'95 % interval {signed(c.low)} to {signed(c.high)}'
  if c.side in (Side.ABOVE, Side.BELOW):
    more = 'more' if c.side == Side.ABOVE else 'less'
    return f'{abs(c.value):.1f} points {more} than {other}, {between}'
  if c.side == Side.NO_WIDTH:
    between = 'an interval without width, from which nothing follows'
  return f'not clearly more or less than {other}: {signed(c.value)} points, {between}'


def counts(d: Digest) -> str:
  """How many differences lie on each side of zero."""
  differences = [c for c in d.contrasts if c.is_difference]
  if not differences:
    return NOTHING
  clauses = []
  for side, text in SIDES.items():
    n = sum(c.side == side for c in differences)
    if n or side != Side.NO_WIDTH:
      clauses.append(f'{n or "none"} {"has" if n < 2 else "have"} {text}')
  subject = f'Of {len(differences)} differences' if len(differences) > 1 else 'Of 1 difference'
  return f'{subject} in accuracy, {", ".join(clauses[:-1])}, and {clauses[-1]}.'


def scope(summary: dict[str, Any]) -> str:
  """What the intervals are over, and what they therefore do not say."""
  seeds = summary['seeds']
  if len(seeds) == 1:
    text = (
      f'One seed ({seeds[0]}): intervals are over problems and say how well this run is measured, '
      'not how another seed would turn out.'
    )
  else:
    names = ', '.join(map(str, seeds))
    text = f'{len(seeds)} seeds ({names}): intervals are over seeds (Student’s t).'
  if len(summary['contrasts']) > 1:
    text += f' They are not adjusted for the number of contrasts, {len(summary["contrasts"])}.'
  return text
