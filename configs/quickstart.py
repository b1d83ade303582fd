"""Quickstart: SFT on a few compositions, then RL on atoms, RL on compounds, or more SFT.

  launch/run.sh

Hardware: 2 CPU cores, about 4 minutes a seed. Expected, in accuracy points (results/quickstart,
three seeds, 1,024 problems per cell and seed): RL on compounds minus SFT continued +20 on unseen
compositions, +7 on deeper ones.

All 24 skills and 10 routing mechanisms. No composition of more than three steps is trained on; dry
traces show the format of up to six (their letters are noise and carry no loss).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  config = default.get_config()
  config.experiment = 'quickstart'
  config.supports.sft.compositions = 100
  config.supports.dry = default.support(depths=(1, 2, 3, 4, 5, 6), dry=True)
  config.supports.compounds = default.support(pool='rl')
  config.stages.sft = default.stage('sft', '', 2000, ('sft', 'dry'), (0.75, 0.25))
  config.stages.compound = default.stage('rl', 'sft', 500, ('compounds',))
  config.stages.atomic = default.stage('rl', 'sft', 500, ('atoms',))
  # At the learning rate at which SFT ended: the peak would first undo what it is compared with.
  config.stages.sft_continued = default.stage(
    'sft', 'sft', 500, ('sft', 'dry'), (0.75, 0.25), lr=4e-4
  )
  config.contrasts = tuple(
    (f'quickstart.{split}.compound_minus_{arm}', ((1, 'compound', split, 0), (-1, arm, split, 0)))
    for split in ('unseen', 'deeper')
    for arm in ('sft', 'sft_continued', 'atomic')
  )
  return config
