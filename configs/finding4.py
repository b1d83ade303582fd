"""Finding 4: RL works best beyond what SFT has shown, and SFT should show all modules composed.

  launch/run.sh configs/finding4.py '--config.seeds=(0, 1, 2, 3, 4)'
  launch/run.sh configs/finding4.py:small '--config.seeds=(0, 1, 2, 3, 4)'

Hardware: one core of an AMD EPYC, half an hour a replicate; or one H100, a quarter of an hour for
five replicates side by side (reckoned from its rates). To expect, at L = 2 on `unseen`: SFT 34 %,
RL on SFT's 24 compositions 37, on 24 others 57 (results/finding4_balanced). From another SFT
parent, 48 compositions in place of 24 and 600 updates in place of 300: SFT 46, RL on SFT's 52, on
others 61, on the whole pool 69, 55 from a parent that lacks four skills and 22 from one that saw
single steps (results/finding4_h100, by its config.json). The small task, that of the quickstart: 25
minutes a replicate; 48 %, 50, 57, 64, 33 and 22 (results/finding4).

Two questions. Where should RL explore? From one SFT parent RL sees equally many compositions (three
sizes n), all of them SFT's (`inside_N`), half of them (`overlap_N`) or none (`disjoint_N`): finite
tables, whose overlap is exact. What should SFT show? Every module, in compositions (`sft`); the
same without four skills (`sft_missing`); single modules only (`sft_isolated`), with as many tokens
a batch. From each of the three, RL on the same compounds (`full`, `missing`, `isolated`). Controls:
rejection fine-tuning on the prompts of `full`, and SFT continued. Splits: `lacking` (compositions
that hold one of the four, pool `test`), and the first four of finding 1.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import default, finding1, quickstart

UPDATES = {'all': 300, 'small': 100}  # of every arm
SIZES = (6, 12, 24)  # compositions that RL sees; the last are as many as SFT sees
MISSING = {  # skills, of different sections
  'all': ('rotate_right', 'sort_down', 'half_turn', 'squeeze'),
  'small': ('swap_ends', 'opposite', 'bump_last', 'drop_last'),
}
ISOLATED_BATCH = {'all': 102, 'small': 96}  # single steps, of as many tokens as 64 problems of SFT
DEPTHS = (2, 3, 4, 5)


def get_config(size: str = 'all') -> ConfigDict:
  config = finding1.common('finding4', UPDATES, size)
  missing = MISSING[size]
  compounds = quickstart.half_prefixed('compounds')
  for n in SIZES:
    _explore(config, n)
  finding1.add_arm(config, 'rft', 'rft', compounds)

  quickstart.add_support(config, 'sft_missing', **_table(config), without_skills=missing)
  config.supports.dry_missing = config.supports.dry.copy_and_resolve_references()
  config.supports.dry_missing.without_skills = missing
  config.supports.atoms_prefixed = default.support(depths=(1,), prefix=quickstart.PREFIX)
  config.supports.lacking = default.support(pool='test', depths=DEPTHS, with_skills=missing)
  for name, data, settings in (
    ('sft_missing', ('sft_missing', 'sft_missing_prefixed', 'dry_missing'), {}),
    ('sft_isolated', ('atoms', 'atoms_prefixed', 'dry'), dict(batch=ISOLATED_BATCH[size])),
  ):
    steps, shares = config.stages.sft.steps, config.stages.sft.shares
    config.stages[name] = default.stage('sft', '', steps, data, shares, **settings)
  for name, parent in (('full', 'sft'), ('missing', 'sft_missing'), ('isolated', 'sft_isolated')):
    finding1.add_arm(config, name, 'rl', compounds)
    config.stages[name].init_from = parent

  config.eval.splits.lacking = 'lacking'
  config.eval.curve = ('unseen', 'deeper')
  config.contrasts = (
    *_contrasts('disjoint', 'overlap'),
    *_contrasts('overlap', 'inside'),
    *_contrasts('disjoint', 'inside'),
    *(
      finding1.difference(f'f4.L{depth}.{name}', arm, other, split, depth)
      for split, depths in (('unseen', (2, 3)), ('deeper', (4, 5)))
      for depth in depths
      for name, arm, other in (
        ('full_minus_missing', 'full', 'missing'),
        ('compound_minus_isolated', 'full', 'isolated'),
        ('sft.full_minus_missing', 'sft', 'sft_missing'),
        ('sft.compound_minus_isolated', 'sft', 'sft_isolated'),
        ('full_minus_rft', 'full', 'rft'),
        ('full_minus_sft_continued', 'full', 'sft_continued'),
      )
    ),
  )
  return config


def _table(config: ConfigDict) -> dict[str, Any]:
  """The fields that say what a table holds, as those of SFT's."""
  fields = ('depths', 'compositions', 'balanced', 'covers')
  return {field: config.supports.sft[field] for field in fields}


def _explore(config: ConfigDict, n: int) -> None:
  """RL on n compositions of SFT's, on half as many of them and as many others, and on n others."""
  for part in (n, n // 2):
    for name, pool in (('sft', 'sft'), ('new', 'rl')):
      fields = _table(config) | dict(pool=pool, subset=part)
      quickstart.add_support(config, f'{name}_{part}', **fields)
  for arm, parts in (
    ('inside', (f'sft_{n}',)),
    ('overlap', (f'sft_{n // 2}', f'new_{n // 2}')),
    ('disjoint', (f'new_{n}',)),
  ):
    mixture = {}
    for part in parts:
      mixture |= quickstart.half_prefixed(part, 1 / len(parts))
    finding1.add_arm(config, f'{arm}_{n}', 'rl', mixture)


def _contrasts(arm: str, other: str) -> list[tuple]:
  """The difference of two kinds of support, on unseen compositions, over all sizes and by size."""

  def mean(name, sizes, split):
    terms = ((1 / len(sizes), arm), (-1 / len(sizes), other))
    return name, tuple((weight, f'{a}_{n}', split, 0) for n in sizes for weight, a in terms)

  name = f'f4.{arm}_minus_{other}'
  return [
    mean(name, SIZES, 'unseen'),
    mean(f'{name}.deeper', SIZES, 'deeper'),
    *(mean(f'{name}.n{n}', (n,), 'unseen') for n in SIZES),
  ]
