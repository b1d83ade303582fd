"""How many layers? Finding 1's SFT and RL on compounds with other stacks of blocks, at equal time.

  for what in 2 3 4 2x2; do
    WORKDIR=runs/layers/$what launch/run.sh configs/layers.py:$what '--config.seeds=(0, 1, 2)'
  done
  .venv/bin/python -m compgen_jax.collect runs/layers/* --out=runs/layers_compared

Hardware: one core of an AMD EPYC, some seven minutes a replicate of a line. To expect, at L = 4
after RL: 41 % with two blocks, 37 with three, 26 with four and 23 with shared weights (seed
0: results/NOTES.md, *How many layers?*).

The argument is the number of blocks; `2x2` is two blocks run twice, with shared weights
(model.repeats). Updates are those of two blocks divided by the blocks that a token passes, which
makes runs take about equally long; `NAME+` makes as many updates as two blocks do. Everything is
measured on the validation pool: a choice is made here.
"""

from ml_collections import ConfigDict

from configs import finding1, quickstart

STACKS = {'2': (2, 1), '3': (3, 1), '4': (4, 1), '2x2': (2, 2)}  # blocks, times that they are run
SFT, RL = finding1.SFT_UPDATES, 400  # updates of two blocks


def get_config(stack: str = '2') -> ConfigDict:
  name = stack.removesuffix('+')
  if name not in STACKS:
    raise ValueError(f'stack {stack!r}; legal is {" | ".join(STACKS)}, or one of them with a +')
  config = finding1.get_config()
  config.experiment = 'layers'
  config.model.n_layers, config.model.repeats = STACKS[name]
  config.stages = ConfigDict({name: config.stages[name] for name in ('sft', 'compound')})
  shorter = 2 / (config.model.n_layers * config.model.repeats) if name == stack else 1
  config.stages.sft.steps, config.stages.compound.steps = round(SFT * shorter), round(RL * shorter)
  quickstart.on_validation(config)
  config.eval.update(every=200, curve_problems=256, problems=512, pass_k=())
  return config
