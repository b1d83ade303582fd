"""Quickstart: SFT on a few compositions, then RL on compounds, RL on atoms, or more SFT.

  launch/run.sh

Hardware: 2 CPU cores, 5.3 minutes a seed. Expected, in accuracy points (results/quickstart, seed
0): RL on compounds minus SFT continued +8 on unseen compositions, +5 on deeper ones.

No composition of more than three steps is trained on. Two things make depth beyond that a question
of composing modules alone, and both are our instantiation: every token knows the last three markers
before it (model.address_markers), and half of the problems are preceded by up to three dry steps,
whose modules are not run (prefix). So "deeper" means more modules in a row than trained on, not a
longer text. A quarter of an SFT batch are dry traces of up to eight steps: they show the format of
every depth.
"""

from ml_collections import ConfigDict

from configs import default

# Of an SFT batch: compositions as they are, the same behind dry steps, and format alone.
SFT_DATA, SFT_SHARES = ('sft', 'sft_prefixed', 'dry'), (0.375, 0.375, 0.25)
RL_DATA, RL_SHARES = ('compounds', 'compounds_prefixed'), (0.5, 0.5)


def get_config() -> ConfigDict:
  config = default.get_config()
  config.experiment = 'quickstart'
  config.supports.sft.compositions = 50
  config.supports.sft_prefixed = default.support(compositions=50, prefix=3)
  config.supports.dry = default.support(depths=tuple(range(1, 9)), dry=True)
  config.supports.compounds = default.support(pool='rl')
  config.supports.compounds_prefixed = default.support(pool='rl', prefix=3)
  config.supports.deeper.depths = (4, 5, 6)
  config.stages.sft = default.stage('sft', '', 2000, SFT_DATA, SFT_SHARES)
  config.stages.compound = default.stage('rl', 'sft', 800, RL_DATA, RL_SHARES)
  # Muon takes steps of one size, however little there is to learn: atoms get AdamW, at a small
  # rate.
  config.stages.atomic = default.stage('rl', 'sft', 400, ('atoms',), optimizer='adamw', lr=2e-4)
  # At the learning rate at which SFT ended: the peak would first undo what it is compared with.
  config.stages.sft_continued = default.stage('sft', 'sft', 800, SFT_DATA, SFT_SHARES, lr=4e-4)
  config.contrasts = contrasts('quickstart', ('unseen', 'deeper'))
  return config


def contrasts(name: str, splits: tuple[str, ...]) -> tuple:
  """RL on compounds minus each other arm, on each split, mean over its depths."""
  return tuple(
    (f'{name}.{split}.compound_minus_{arm}', ((1, 'compound', split, 0), (-1, arm, split, 0)))
    for split in splits
    for arm in ('sft', 'sft_continued', 'atomic')
  )
