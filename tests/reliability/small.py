"""A config file: `tests.experiments.tiny` with more updates, a few seconds of them."""

from tests.experiments import tiny


def get_config():
  config = tiny(eval__every=200)
  config.experiment = 'small'
  config.stages.sft.steps = 500
  config.stages.rl.steps = 150
  del config.stages.rft  # to compile is what takes most time
  config.run.update(steps_per_call=10, checkpoint_every=100)
  return config
