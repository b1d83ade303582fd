"""Does it matter how the gradient is estimated, or what is rewarded? Finding 1 on the small task.

  launch/run.sh configs/estimators.py '--config.seeds=(0, 1, 2)'

Hardware: one CPU core, about 20 minutes a replicate. To expect: all arms of RL within two points of
each other, 23 above SFT at unseen L = 2 (results/estimators).

All arms start from one SFT parent and explore the same prompts, with as many samples. Four
estimators of the policy gradient, rewarded for a right answer (`reinforce`, `rloo`, `grpo`,
`dr_grpo`), and the default one, `rloo`, rewarded for an answer with a right trace (`strict`) or for
each right step (`steps`). All have the learning rate of `rl.lr`: none was tuned by itself.
"""

from ml_collections import ConfigDict

from compgen_jax.learning.losses import ESTIMATORS
from configs import finding1, quickstart

UPDATES = 200
REWARDS = ('strict', 'steps')  # beside `answer`, which all estimators have


def get_config() -> ConfigDict:
  config = finding1.common('estimators', {'small': UPDATES}, 'small')
  compounds = quickstart.half_prefixed('compounds')
  for estimator in ESTIMATORS:
    finding1.add_arm(config, estimator, 'rl', compounds, estimator=estimator)
  for reward in REWARDS:
    finding1.add_arm(config, reward, 'rl', compounds, reward=reward)
  config.eval.update(problems=512, curve_problems=128, curve=('unseen', 'deeper'))
  others = [name for name in (*ESTIMATORS, *REWARDS) if name != 'rloo']
  config.contrasts = tuple(
    finding1.difference(f'estimators.L{depth}.{arm}_minus_{other}', arm, other, split, depth)
    for split, depth in (('unseen', 2), ('deeper', 4))
    for arm, other in (('rloo', 'sft'), *((name, 'rloo') for name in others))
  )
  return config
