"""Settings of finding 1's arms, tried on the validation pool: as many tries for controls as for RL.

  launch/run.sh configs/tuning.py

Hardware: one core of an AMD EPYC, an hour.

The SFT parent of finding 1 (of two and three steps) and, of each of its arms, a stage for each try
(`TRIES`), of 400 updates. All of `unseen` and `deeper` is drawn from the validation pool. What came
out, and what was chosen: results/NOTES.md, *Settings of every arm*.
"""

from ml_collections import ConfigDict

from configs import finding1, quickstart

UPDATES = 400
_SAMPLED = {  # of both arms that learn from samples of compounds; lr_4 is 4e-4
  'lr_2': dict(lr=2e-4),
  'lr_4': dict(lr=4e-4),
  'lr_8': dict(lr=8e-4),
  'lr_16': dict(lr=1.6e-3),
  'cooler': dict(lr=4e-4, temperature=1.0),
  'adamw': dict(optimizer='adamw', lr=1e-3),
}
TRIES = {
  'compound': _SAMPLED,
  'rft': _SAMPLED,
  'rft_current': {
    'lr_4': dict(lr=4e-4),
    'lr_8': dict(lr=8e-4),
    'hotter_4': dict(lr=4e-4, temperature=1.2),
    'hotter_8': dict(lr=8e-4, temperature=1.2),
  },
  'sft_continued': {
    'lr_1': dict(lr=1e-4),
    'lr_4': dict(lr=4e-4),
    'lr_8': dict(lr=8e-4),
    'lr_40': dict(lr=4e-3),
  },
  'atomic': {
    'lr_1': dict(lr=1e-4),
    'lr_2': dict(lr=2e-4),
    'lr_4': dict(lr=4e-4),
    'lr_8': dict(lr=8e-4),
    'muon': dict(optimizer='muon', lr=4e-4),
  },
}


def get_config() -> ConfigDict:
  config = finding1.get_config('2+3')
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
