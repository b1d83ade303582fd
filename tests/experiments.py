"""The smallest experiment that goes through every kind of stage, for the tests of the experiment layer."""

from configs import default


def tiny(**overrides):
  """A ConfigDict of three stages that trains in seconds; `overrides` are flattened names with '.' written '__'."""
  config = default.get_config()
  config.experiment = 'tiny'
  config.task.max_depth = 3
  config.task.skills = ('reverse', 'successor', 'drop_last', 'climb')
  config.task.routings = ('previous', 'earlier', 'merge')
  config.task.n_labels = 6
  config.model.update(d_model=16, n_layers=1, n_heads=2, d_ff=32)
  config.supports.sft = default.support(compositions=8, depths=(1, 2))
  config.supports.rl = default.support(pool='rl', depths=(2,))
  config.supports.unseen = default.support(pool='test', depths=(2,))
  config.supports.deeper = default.support(pool='test', depths=(3,))
  config.sft.update(batch=8, warmup=2)
  config.rl.update(prompts=4, group=2, warmup=2)
  config.rft.update(prompts=2, group=4, warmup=2)
  config.stages.sft = default.stage('sft', '', 12, ('sft',))
  config.stages.rl = default.stage('rl', 'sft', 4, ('rl', 'atoms'), (0.5, 0.5))
  config.stages.rft = default.stage('rft', 'sft', 2, ('rl',))
  config.eval.update(problems=16, every=5, pass_samples=4, pass_k=(1, 4))
  config.run.update(steps_per_call=3, checkpoint_every=6, data_parallel=1)
  config.contrasts = (
    ('tiny.unseen.rl_minus_sft', ((1, 'rl', 'unseen', 0), (-1, 'sft', 'unseen', 0))),
  )
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in overrides.items()}
  )
  return config
