"""Quickstart: finding 1 in small. SFT, then RL on compounds, RL on atoms, or more SFT.

  launch/run.sh

Hardware: 2 CPU cores, two to six minutes, nearly half of it compiling and evaluating. To expect, at
L = 4: SFT 23 %, RL on compounds 57 %, RL on atoms 29 % (results/quickstart).

The task is small: 12 of the 24 skills and 5 of the 10 routing mechanisms. The findings have all of
them (configs/finding1.py).

No composition of more than three steps is trained on. Two things make depth beyond that a question
of composing modules alone, and both are our instantiation: every token knows the last three markers
before it (model.address_markers), and some problems (a quarter of SFT's, half of RL's) are preceded
by up to three dry steps, whose modules are not run (prefix). So "deeper" means more modules in a
row than trained on, not a longer text. A quarter of an SFT batch are dry traces of up to eight
steps: they show the format of every depth. The few compositions that SFT sees use all modules about
equally often.
"""

from ml_collections import ConfigDict

from configs import default

# Of an SFT batch: compositions as they are, the same behind dry steps, and format alone.
SFT_DATA, SFT_SHARES = ('sft', 'sft_prefixed', 'dry'), (0.5625, 0.1875, 0.25)
SFT_TABLE = dict(compositions=48, covers=2)  # what SFT sees of its pool
PREFIX = 3  # dry steps at most
# The small task: modules of each family, without those that are slow to learn (sorting, copying).
SKILLS = (
  'reverse',
  'rotate_right',
  'swap_ends',
  'successor',
  'predecessor',
  'opposite',
  'climb',
  'bump_last',
  'fold',
  'drop_first',
  'drop_last',
  'double_first',
)
ROUTINGS = ('previous', 'earlier', 'merge', 'by_first_letter', 'bind_first')
TABLE = dict(compositions=24, covers=3)  # what SFT then sees
# Muon takes steps of one size, however little there is to learn: atoms get AdamW, at a small rate.
ATOMIC = dict(optimizer='adamw', lr=2e-4)


def get_config() -> ConfigDict:
  config = recipe()
  config.experiment = 'quickstart'
  make_small(config)
  # Or chance leaves some seeds a module too rare to learn.
  update_support(config, 'sft', balanced=True)
  compounds = half_prefixed('compounds')
  config.stages.compound = default.stage('rl', 'sft', 250, (*compounds,), (*compounds.values(),))
  config.stages.atomic = default.stage('rl', 'sft', 125, ('atoms',), **ATOMIC)
  continue_sft(config, 250)
  config.eval.update(problems=512, every=125, curve_problems=128)
  config.contrasts = (
    *contrasts('quickstart', ('unseen', 'deeper')),
    ('quickstart.L4.compound_minus_sft', ((1, 'compound', 'deeper', 4), (-1, 'sft', 'deeper', 4))),
  )
  return config


def recipe() -> ConfigDict:
  """Supports and the SFT stage, with all modules: what the quickstart and the findings build on."""
  config = default.get_config()
  add_support(config, 'sft', **SFT_TABLE)
  config.supports.dry = default.support(depths=tuple(range(1, 9)), dry=True)
  add_support(config, 'compounds', pool='rl')
  config.supports.deeper.depths = (4, 5, 6)
  config.stages.sft = default.stage('sft', '', 2000, SFT_DATA, SFT_SHARES)
  return config


def continue_sft(config: ConfigDict, updates: int) -> None:
  """The control that trains on as SFT did."""
  sft = config.stages.sft
  # At the learning rate at which SFT ended: the peak would first undo what it is compared with.
  config.stages.sft_continued = default.stage('sft', 'sft', updates, sft.data, sft.shares, lr=4e-4)


def make_small(config: ConfigDict) -> None:
  """Leaves half of the modules, which are learned in minutes."""
  config.task.skills, config.task.routings = SKILLS, ROUTINGS
  update_support(config, 'sft', **TABLE)
  config.stages.sft.steps = 1000


def add_support(config: ConfigDict, name: str, **fields) -> None:
  """A support and, as NAME_prefixed, the same compositions behind dry steps."""
  config.supports[name] = default.support(**fields)
  config.supports[f'{name}_prefixed'] = default.support(**fields, prefix=PREFIX)


def update_support(config: ConfigDict, name: str, **fields) -> None:
  """Changes fields of a support of `add_support` and of its twin behind dry steps."""
  for twin in (name, f'{name}_prefixed'):
    config.supports[twin].update(fields)


def half_prefixed(name: str, share: float = 1.0) -> dict[str, float]:
  """Support -> its share of the prompts: half of `share` for each of a pair of `add_support`."""
  return {name: share / 2, f'{name}_prefixed': share / 2}


def on_validation(config: ConfigDict) -> None:
  """Measures on the validation pool what is else reported, where settings are chosen."""
  for split in set(config.eval.splits) - set(config.eval.trained):
    config.supports[config.eval.splits[split]].pool = 'validation'
  config.contrasts = ()


def contrasts(name: str, splits: tuple[str, ...]) -> tuple:
  """RL on compounds minus each other arm, on each split, mean over its depths."""
  return tuple(
    (f'{name}.{split}.compound_minus_{arm}', ((1, 'compound', split, 0), (-1, arm, split, 0)))
    for split in splits
    for arm in ('sft', 'sft_continued', 'atomic')
  )
