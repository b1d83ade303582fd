"""Finding 1: RL takes compound traces apart into modules and recombines them.

  launch/run.sh configs/finding1.py '--config.seeds=(0, 1, 2, 3, 4)'
  launch/run.sh configs/finding1.py:2+3 '--config.seeds=(0, 1, 2, 3, 4)'

Hardware: one core of an AMD EPYC, about 40 minutes a replicate (of an older CPU three times as
long); or one H100, some twelve minutes for the five replicates side by side (reckoned from its
rates; compiling is a third of it). To expect, at L = 4: SFT 12 %, RL on compounds 62 %, on atoms 20
(anchored 22), rejection fine-tuning 25, SFT continued 13 (results/finding1_balanced; of 28
compositions drawn at random 16, 58, 22, 27, 29 and 18, and of samples of the current policy 58:
results/finding1_three); of `2+3`, after 1,500 updates at half the rate, RL on compounds 57 %, on
both 53 (results/finding1_entangled).

The argument is the depths of compositions that SFT and RL see: `3`, as in the paper, or `2+3`.

All arms start from one SFT parent, which saw 24 compositions that use all modules about equally
often (of `2+3`, 32 drawn at random) and learned them to the end: it executes what it has seen and
does not compose (results/NOTES.md, *Fewer compositions, learned
longer* and *How often SFT shows a module*). The arms see equally many batches: RL on compounds of
the `rl` pool, RL on atoms, the same with an anchor (a tenth of SFT's loss, on 30 of SFT's problems,
in every update: what single steps do not exercise is else unlearned), RL on atoms and compounds
half and half, rejection fine-tuning on the prompts of the first, of the parent's samples (`rft`)
and of those of the policy as it is then (`rft_current`), and SFT continued. Settings were chosen on
the validation pool (results/NOTES.md, *Settings of every arm*). Splits: `seen` (SFT's compositions,
new inputs), `unseen` (two and three steps, pool `test`), `deeper` (four to eight), and the last two
once more behind given dry steps (`_prefixed`).
"""

from collections.abc import Collection

from ml_collections import ConfigDict

from configs import default, quickstart

UPDATES = 1000
SFT_UPDATES = 4000
LR, LR_RFT = 8e-4, 1.6e-3  # of RL on compounds; of rejection fine-tuning (configs/tuning.py)
GROUP = 8  # samples of a prompt
# What SFT sees of its pool; RL sees compositions of the same depths. (In 24 balanced ones of three
# steps each skill comes three times.)
TRAINED = {
  '3': dict(depths=(3,), compositions=24, balanced=True),
  '2+3': dict(depths=(2, 3), compositions=32),
}
# As many problems with prefix as without, or RL on atoms costs what SFT has of depth.
SFT_SHARES = (0.375, 0.375, 0.25)


def get_config(trained: str = '3') -> ConfigDict:
  """`trained`: depths of the compositions in SFT and RL, 3 | 2+3."""
  if trained not in TRAINED:
    raise ValueError(f'depths {trained!r}; legal is {" | ".join(TRAINED)}')
  config = common('finding1', {'all': UPDATES}, trained=trained)
  config.rl.group = config.rft.group = GROUP
  config.supports.deeper.depths = (4, 5, 6, 7, 8)
  prefix = quickstart.PREFIX
  config.supports.unseen_prefixed = default.support(pool='test', prefix=prefix)
  config.supports.deeper_prefixed = default.support(pool='test', depths=(4, 5), prefix=prefix)
  config.eval.splits.unseen_prefixed = 'unseen_prefixed'
  config.eval.splits.deeper_prefixed = 'deeper_prefixed'
  compounds = quickstart.half_prefixed('compounds')
  add_arm(config, 'compound', 'rl', compounds)
  add_arm(config, 'atomic', 'rl', {'atoms': 1.0}, **quickstart.ATOMIC)
  anchor = dict(anchor=quickstart.SFT_DATA, anchor_batch=30)
  add_arm(config, 'atomic_anchored', 'rl', {'atoms': 1.0}, **quickstart.ATOMIC, **anchor)
  half = {name: share / 2 for name, share in compounds.items()}
  add_arm(config, 'both', 'rl', half | {'atoms': 0.5})
  add_arm(config, 'rft', 'rft', compounds)
  # Of samples at another temperature than the loss's: each update would flatten the policy.
  add_arm(config, 'rft_current', 'rft', compounds, sampler='current', temperature=1.0, lr=LR)
  config.contrasts = _contrasts()
  return config


def _contrasts() -> tuple[tuple, ...]:
  """RL on compounds and on atoms against each other, their parent and the controls."""
  pairs = (
    ('atomic', 'sft'),
    ('compound', 'atomic'),
    ('atomic_anchored', 'sft'),
    ('atomic_anchored', 'sft_continued'),
    ('compound', 'atomic_anchored'),
    ('compound', 'sft_continued'),
    ('compound', 'rft'),
    ('compound', 'rft_current'),
    ('compound', 'both'),
  )
  return (
    ('f1.L4.sft', ((1, 'sft', 'deeper', 4),)),
    *(difference(f'f1.L4.{arm}_minus_{other}', arm, other, 'deeper', 4) for arm, other in pairs),
    (
      'f1.L3.unseen_gain_minus_seen_gain',
      (
        (1, 'compound', 'unseen', 3),
        (-1, 'sft', 'unseen', 3),
        (-1, 'compound', 'seen', 3),
        (1, 'sft', 'seen', 3),
      ),
    ),
    difference('f1.atoms.compound_minus_sft', 'compound', 'sft', 'atoms', 1),
    *(
      difference(f'f1.L{depth}.compound_minus_sft', 'compound', 'sft', 'deeper', depth)
      for depth in (4, 5, 6, 7, 8)
    ),
  )


def common(
  experiment: str, updates: dict[str, int], size: str = 'all', trained: str = '3'
) -> ConfigDict:
  """What all findings share: the SFT parent, SFT continued, the pools and the first splits.

  `updates`: of every arm, by size. `size`: all | small, the task with all modules or that of the
  quickstart. `trained`: with all modules, depths of the compositions in SFT and RL, 3 | 2+3.
  """
  if size not in updates:
    raise ValueError(f'size {size!r}; legal is {" | ".join(updates)}')
  config = quickstart.recipe()
  config.experiment = experiment
  if size == 'small':
    quickstart.make_small(config)
  else:
    quickstart.update_support(config, 'sft', **TRAINED[trained])
    quickstart.update_support(config, 'compounds', depths=TRAINED[trained]['depths'])
    config.stages.sft.update(steps=SFT_UPDATES, shares=SFT_SHARES)
    config.rl.lr, config.rft.lr = LR, LR_RFT
  quickstart.continue_sft(config, updates[size])
  config.supports.deeper.depths = (4, 5)
  config.eval.every = updates[size] // 4 if size == 'all' else 50
  config.contrasts = ()
  return config


def named(
  what: str, argument: str, known: Collection[str], else_: Collection[str] = ()
) -> tuple[str, ...]:
  """The names, all of `known`, that a config's argument puts a + between, each once.

  `what`: what they name, and `else_`: what is legal in their place, for the message.
  """
  names = tuple(dict.fromkeys(argument.split('+')))
  for name in names:
    if name not in known:
      legal = ' | '.join((*else_, f'some of these, with + between them: {" | ".join(known)}'))
      raise ValueError(f'{what} {name!r}; legal is {legal}')
  return names


def add_arm(
  config: ConfigDict, name: str, kind: str, mixture: dict[str, float], **settings
) -> None:
  """A stage from the SFT parent. `mixture`: support -> its share of the prompts."""
  updates = config.stages.sft_continued.steps
  data, shares = tuple(mixture), tuple(mixture.values())
  config.stages[name] = default.stage(kind, 'sft', updates, data, shares, **settings)


def difference(name: str, arm: str, other: str, split: str, depth: int) -> tuple:
  """The contrast of two arms."""
  return name, ((1, arm, split, depth), (-1, other, split, depth))


def at(depth: int) -> str:
  """The part of a contrast's name that says where; depth 0 is the mean over all."""
  return f'L{depth}.' if depth else ''
