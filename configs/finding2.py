"""Finding 2: a skill becomes composable where RL shows it inside compositions.

  launch/run.sh configs/finding2.py '--config.seeds=(0, 1, 2, 3, 4)'
  launch/run.sh configs/finding2.py:small '--config.seeds=(0, 1, 2, 3, 4)'

Hardware: one core of an AMD EPYC, twenty minutes a replicate, or one H100, some ten minutes for
five replicates (reckoned from its rates). To expect, at L = 2 on `held`: SFT 34 %, `none` 55,
`alone` 68, `atoms` 82, `composed` 85 (results/finding2_balanced). Of the small task, that of the
quickstart, a replicate takes about twelve minutes: SFT 46 %, `none` 55, `atoms` and `composed` 65
(results/finding2). From other SFT parents: results/finding2_h100 and results/finding2_entangled, by
their config.json.

Eight skills (four in the small task) leave the RL data, with every composition that holds one of
them. They are put back as nothing (`none`), by themselves (`alone`: single steps on the last
value), as atoms (`atoms`: single steps, with every routing mechanism) or inside compositions
(`composed`). All arms start from one SFT parent, which has seen all skills, and see equally many
prompts; half of them (a quarter in the small task) are what is put back. Controls: rejection
fine-tuning on the prompts of `composed`, and SFT continued. Splits: `held` (compositions that hold
one of them, pool `test`, two to five steps), `kept` (those that hold none), `held_atoms`, and the
first four of finding 1.
"""

from ml_collections import ConfigDict

from configs import default, finding1, quickstart

UPDATES = {'all': 1000, 'small': 200}  # of every arm
HELD = {  # every third skill
  'all': (
    'reverse',
    'swap_ends',
    'sort_up',
    'predecessor',
    'climb',
    'bump_last',
    'fold',
    'drop_last',
  ),
  'small': ('reverse', 'successor', 'climb', 'drop_first'),
}
PLAIN = 'previous'  # the routing mechanism of a skill by itself
PUT_BACK = {'all': 0.5, 'small': 0.25}  # share of the prompts
DEPTHS = (2, 3, 4, 5)  # of the splits that tell held from kept


def get_config(size: str = 'all') -> ConfigDict:
  config = finding1.common('finding2', UPDATES, size)
  held = HELD[size]
  quickstart.add_support(config, 'without', pool='rl', without_skills=held)
  quickstart.add_support(config, 'composed', pool='rl', with_skills=held)
  plain = tuple(f'{PLAIN} {skill}' for skill in held)
  config.supports.held_alone = default.support(depths=(1,), with_pairs=plain)
  config.supports.held_atoms = default.support(depths=(1,), with_skills=held)
  config.supports.held = default.support(pool='test', depths=DEPTHS, with_skills=held)
  config.supports.kept = default.support(pool='test', depths=DEPTHS, without_skills=held)

  share = PUT_BACK[size]
  kept = quickstart.half_prefixed('without', 1 - share)
  composed = kept | quickstart.half_prefixed('composed', share)
  finding1.add_arm(config, 'none', 'rl', quickstart.half_prefixed('without'))
  finding1.add_arm(config, 'alone', 'rl', kept | {'held_alone': share})
  finding1.add_arm(config, 'atoms', 'rl', kept | {'held_atoms': share})
  finding1.add_arm(config, 'composed', 'rl', composed)
  finding1.add_arm(config, 'rft', 'rft', composed)

  for split in ('held', 'kept', 'held_atoms'):
    config.eval.splits[split] = split
  config.eval.trained = (*config.eval.trained, 'held_atoms')
  config.eval.curve = ('held', 'kept', 'held_atoms')
  pairs = (
    *(('composed', arm) for arm in ('alone', 'atoms', 'none', 'rft', 'sft_continued')),
    ('atoms', 'alone'),
  )
  difference, at, depths = finding1.difference, finding1.at, (0, *DEPTHS)
  config.contrasts = (
    *(
      difference(f'f2.{at(depth)}{arm}_minus_{other}', arm, other, 'held', depth)
      for depth in depths
      for arm, other in pairs
    ),
    # Who practises single steps practises fewer compositions: that costs both splits alike.
    *(difference(f'f2.kept.{arm}_minus_{other}', arm, other, 'kept', 0) for arm, other in pairs),
    *(_beyond_kept(depth, 'composed', arm) for depth in depths for arm in ('alone', 'atoms')),
    difference('f2.held_atoms.atoms_minus_none', 'atoms', 'none', 'held_atoms', 1),
  )
  return config


def _beyond_kept(depth: int, arm: str, other: str) -> tuple:
  """The difference of two arms on `held`, less that on `kept`."""
  name = f'f2.beyond_kept.{finding1.at(depth)}{arm}_minus_{other}'
  signs = ((1, arm, 'held'), (-1, other, 'held'), (-1, arm, 'kept'), (1, other, 'kept'))
  return name, tuple((*term, depth) for term in signs)
