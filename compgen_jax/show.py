"""Shows problems, golden traces and a model's own traces, the first wrong step marked.

Problems and golden traces; a model's traces of the newest checkpoint of a run; those that RL fixed;
eight samples of each problem, with their rewards; one problem given by hand:

python -m compgen_jax.show --config=configs/quickstart.py
python -m compgen_jax.show --workdir=runs/quickstart --arm=compound
python -m compgen_jax.show --workdir=runs/quickstart --arm=compound --split=deeper --only=fixed
python -m compgen_jax.show --workdir=runs/quickstart --arm=compound --depth=3 --n=1 --samples=8
python -m compgen_jax.show --workdir=runs/quickstart --problem='bca dd: earlier reverse, merge fold'
"""

import os
import sys

from absl import flags

from compgen_jax import command_line

_ARM = flags.DEFINE_string('arm', None, 'The stage whose model writes; needs --workdir.')
_SPLIT = flags.DEFINE_string('split', None, 'A split of config.eval.splits; all by default.')
_DEPTH = flags.DEFINE_integer('depth', None, 'One depth of the splits; all by default.')
_SEED = flags.DEFINE_integer('seed', None, 'One of the run: its problems and its model.')
_PROBLEM = flags.DEFINE_string(
  'problem',
  None,
  'Shows this problem: inputs and steps, such as "bca dd: earlier reverse, merge fold".',
)
_ONLY = flags.DEFINE_string(
  'only',
  None,
  'Problems that the arm gets wrong | right | fixed | broken (against the stage it started from).',
)
_N = flags.DEFINE_integer('n', 3, 'Problems per split and depth.', lower_bound=1)
_SAMPLES = flags.DEFINE_integer('samples', 1, 'Traces of the model per problem.', lower_bound=1)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', None, 'Of sampling; 0 is greedy. By default 0, with --samples 1.', lower_bound=0.0
)


def _main():
  workdir = command_line.WORKDIR.value
  command_line.require(config=command_line.CONFIG.value or workdir)
  from compgen_jax import config as config_lib
  from compgen_jax.experiment import shown

  given = command_line.CONFIG.value
  asked = shown.Asked(
    arm=_ARM.value,
    split=_SPLIT.value,
    depth=_DEPTH.value,
    seed=_SEED.value,
    problem=_PROBLEM.value,
    only=_ONLY.value,
    n=_N.value,
    samples=_SAMPLES.value,
    temperature=_TEMPERATURE.value,
  )
  config = config_lib.from_config_dict(given) if given else None
  try:
    for text in shown.show(config, workdir, asked):
      print(text, flush=True)
  except BrokenPipeError:
    # The reader, `head` say, has seen enough. Nor may Python complain when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == '__main__':
  command_line.launch(_main)
