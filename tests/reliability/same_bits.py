"""A config file: small SFT and RL whose batches can be cut into 16 parts."""

from tests.experiments import tiny

PARTS = 16


def get_config():
  config = tiny(eval__every=100, eval__pass_k=(), contrasts=(), mesh__data=-1, mesh__parts=PARTS)
  config.sft.batch, config.rl.prompts = 32, 32
  config.run.update(steps_per_call=20, join_s=60.0)
  del config.stages['rft']
  config.stages.sft.steps, config.stages.rl.steps = 100, 200
  # A model that small earns next to nothing: reward for steps and KL make every sample matter.
  config.stages.rl.settings.update(reward='steps', kl=0.01, entropy=0.001, estimator='reinforce')
  return config
