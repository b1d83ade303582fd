"""Finding 1: RL takes compound traces apart into modules and recombines them.

  launch/run.sh configs/finding1.py '--config.seeds=(0, 1, 2, 3, 4)'

Hardware: 2 CPU cores, about half an hour a replicate on one of them. Expected at L = 4, in accuracy
points (results/finding1, four replicates): RL on compounds minus SFT +25, minus RL on atoms +23,
minus rejection fine-tuning +17, minus SFT continued +21; RL on atoms minus SFT +2.

All arms start from one SFT parent, which saw 50 compositions of two and three steps. They see
equally many batches: RL on compounds of the `rl` pool, RL on atoms, rejection fine-tuning on the
prompts of the first, and SFT continued. Splits: `seen` (the 50, new inputs), `unseen` (two and
three steps, pool `test`), `deeper` (four to eight), and the last two once more behind given dry
steps (`_prefixed`).
"""

from ml_collections import ConfigDict

from configs import default, quickstart

UPDATES = 1500


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.experiment = 'finding1'
  config.supports.deeper.depths = (4, 5, 6, 7, 8)
  config.supports.unseen_prefixed = default.support(pool='test', prefix=3)
  config.supports.deeper_prefixed = default.support(pool='test', depths=(4, 5), prefix=3)
  config.eval.splits.unseen_prefixed = 'unseen_prefixed'
  config.eval.splits.deeper_prefixed = 'deeper_prefixed'
  config.eval.curve = ('atoms', 'seen', 'unseen', 'deeper')
  config.eval.every = 500
  for name in ('compound', 'atomic', 'sft_continued'):
    config.stages[name].steps = UPDATES
  config.stages.rft = default.stage('rft', 'sft', UPDATES, quickstart.RL_DATA, quickstart.RL_SHARES)
  config.contrasts = (
    ('f1.L4.sft', ((1, 'sft', 'deeper', 4),)),
    difference('f1.L4.atomic_minus_sft', 'atomic', 'sft', 'deeper', 4),
    difference('f1.L4.compound_minus_atomic', 'compound', 'atomic', 'deeper', 4),
    difference('f1.L4.compound_minus_sft_continued', 'compound', 'sft_continued', 'deeper', 4),
    difference('f1.L4.compound_minus_rft', 'compound', 'rft', 'deeper', 4),
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
  return config


def difference(name: str, arm: str, other: str, split: str, depth: int) -> tuple:
  """The contrast of two arms."""
  return name, ((1, arm, split, depth), (-1, other, split, depth))
