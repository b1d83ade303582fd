"""Finding 3: routing mechanisms are learned like skills, fastest in shallow compositions.

  launch/run.sh configs/finding3.py '--config.seeds=(0, 1, 2, 3, 4)'
  launch/run.sh configs/finding3.py:merge+earlier+bind_first '--config.seeds=(0, 1, 2, 3, 4)'
  launch/run.sh configs/finding3.py:small '--config.seeds=(0, 1, 2, 3, 4)'

Hardware: one core of an AMD EPYC, twenty minutes a replicate; or one H100, about as long for five
replicates of two mechanisms side by side (reckoned from its rates). To expect, mean of the four
mechanisms at L = 2: SFT 38 %, as nothing 59, as atoms 70, in three steps 71, in two 74
(results/finding3_balanced). The small task, that of the quickstart: a replicate a quarter of an
hour on a core and compiling as long again, once; 32 %, 36, 40, 42 and 49 (results/finding3). Three
times the updates from another SFT parent: results/finding3_h100 and results/finding3_greater, by
their config.json.

Each of four routing mechanisms in turn (two in the small task), one of each family, leaves the RL
data, with every composition that holds it. It is put back as nothing (`none_NAME`) or at one depth:
as atoms (`depth1_NAME`), in compositions of two steps (`depth2_NAME`) or of three (`depth3_NAME`).
Names of mechanisms with `+` between them, in place of a size: all modules, these held out in turn.
All arms start from one SFT parent, which has seen all mechanisms, and see equally many prompts;
what is put back is a quarter of them. Controls: rejection fine-tuning on the prompts of
`depth2_NAME`, and SFT continued. Splits: `with_NAME` (compositions that hold the mechanism, pool
`test`, two to five steps), and the first four of finding 1. Contrasts are means over them.
(Learning curves of skills to lay beside these: finding 2, splits `held` and `kept`.)
"""

from ml_collections import ConfigDict

from compgen_jax.task import modules, routing
from configs import default, finding1, quickstart

UPDATES = {'all': 200, 'small': 100}  # of every arm; shallow and deep are level later
# Families: choosing, building, choosing by content, partial application.
HELD = {
  'all': ('earlier', 'merge', 'greater', 'bind_first'),
  'small': ('earlier', 'merge'),  # the first two of these, for time
}
PUT_BACK = 0.25  # share of the prompts
DEPTHS = (2, 3, 4, 5)  # of the splits that hold a mechanism


def get_config(held: str = 'all') -> ConfigDict:
  """`held`: all | small, or names of mechanisms with + between them."""
  if held in HELD:
    size, names = held, HELD[held]
  else:
    known = modules.names(routing.ROUTINGS)
    size, names = 'all', finding1.named('mechanism', held, known, HELD)
  config = finding1.common('finding3', UPDATES, size)
  for name in names:
    _hold_out(config, name)
  config.eval.curve = ('unseen', *(f'with_{name}' for name in names))

  def contrast(name, *arms, depth):
    """A weighted sum of arms, each on the split of its mechanism; the mean over mechanisms."""
    terms = ((w / len(names), f'{arm}_{h}', f'with_{h}', depth) for h in names for arm, w in arms)
    return name, tuple(terms)

  composed = (('depth2', 0.5), ('depth3', 0.5))
  shallow_minus_deep = (('depth2', 1.0), ('depth3', -1.0))
  config.contrasts = (
    *(
      contrast(f'f3.L{depth}.composed_minus_{arm}', *composed, (arm, -1.0), depth=depth)
      for depth in DEPTHS
      for arm in ('none', 'depth1', 'rft')
    ),
    *(
      contrast(f'f3.{finding1.at(depth)}shallow_minus_deep', *shallow_minus_deep, depth=depth)
      for depth in (0, *DEPTHS)
    ),
  )
  return config


def _hold_out(config: ConfigDict, name: str) -> None:
  """The arms in which a routing mechanism leaves the RL data, their supports and their split."""
  held = dict(with_routings=(name,))
  without = f'without_{name}'
  quickstart.add_support(config, without, pool='rl', without_routings=(name,))
  config.supports[f'atoms_{name}'] = default.support(depths=(1,), **held)
  for depth in (2, 3):
    quickstart.add_support(config, f'depth{depth}_{name}', pool='rl', depths=(depth,), **held)
  config.supports[f'with_{name}'] = default.support(pool='test', depths=DEPTHS, **held)
  config.eval.splits[f'with_{name}'] = f'with_{name}'

  kept = quickstart.half_prefixed(without, 1 - PUT_BACK)
  put_back = {d: quickstart.half_prefixed(f'depth{d}_{name}', PUT_BACK) for d in (2, 3)}
  finding1.add_arm(config, f'none_{name}', 'rl', quickstart.half_prefixed(without))
  finding1.add_arm(config, f'depth1_{name}', 'rl', kept | {f'atoms_{name}': PUT_BACK})
  finding1.add_arm(config, f'depth2_{name}', 'rl', kept | put_back[2])
  finding1.add_arm(config, f'depth3_{name}', 'rl', kept | put_back[3])
  finding1.add_arm(config, f'rft_{name}', 'rft', kept | put_back[2])
