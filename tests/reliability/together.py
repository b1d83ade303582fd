"""A config file for several processes: one stage that compiles little, and RL on request."""

from tests.experiments import tiny


def get_config(stages: str = 'sft'):
  config = tiny(eval__every=6, eval__pass_k=(), contrasts=(), mesh__data=-1)
  for stage in {'rl', 'rft'} - set(stages.split(',')):
    del config.stages[stage]
  config.eval.splits = {'seen': 'sft', 'unseen': 'unseen'}
  config.eval.curve = ('seen', 'unseen')
  config.eval.trained = ('seen',)
  config.run.update(join_s=60.0)
  return config
