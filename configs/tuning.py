"""Settings of finding 1's arms, tried on the validation pool: as many tries for controls as for RL.

  launch/run.sh configs/tuning.py

Hardware: one core of an AMD EPYC, an hour.

One SFT parent (that of finding 1) and, of each arm, a stage for each try (`TRIES`: what differs
from finding 1), of a quarter of finding 1's updates. All of `unseen` and `deeper` is drawn from the
validation pool.
"""

from ml_collections import ConfigDict

from configs import finding1, quickstart

UPDATES = 400
_SAMPLED = {  # of both arms that learn from samples of compounds
  'as_is': {},
  'half_rate': dict(lr=2e-4),
  'twice_rate': dict(lr=8e-4),
  'cooler': dict(temperature=1.0),
  'adamw': dict(optimizer='adamw', lr=1e-3),
}
TRIES = {
  'compound': _SAMPLED,
  'rft': _SAMPLED
  | {
    'current': dict(sampler='current'),
    'current_twice_rate': dict(sampler='current', lr=8e-4),
  },
  'sft_continued': {
    'as_is': {},
    'quarter_rate': dict(lr=1e-4),
    'twice_rate': dict(lr=8e-4),
    'peak_rate': dict(lr=4e-3),
  },
  'atomic': {
    'as_is': {},
    'half_rate': dict(lr=1e-4),
    'twice_rate': dict(lr=4e-4),
    'muon': dict(optimizer='muon', lr=4e-4),
  },
}


def get_config() -> ConfigDict:
  config = finding1.get_config()
  config.experiment = 'tuning'
  stages = {'sft': config.stages.sft}
  for arm, tries in TRIES.items():
    for name, changes in tries.items():
      stage = config.stages[arm].copy_and_resolve_references()
      stage.steps = UPDATES
      stage.settings.update(changes)
      stages[f'{arm}_{name}'] = stage
  config.stages = ConfigDict(stages, sort_keys=False)
  quickstart.on_validation(config)
  config.eval.update(every=0, problems=512, pass_k=())
  return config
