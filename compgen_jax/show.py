"""Shows problems, golden traces and a model's own traces, the first wrong step marked.

Problems and golden traces; a finished run's model beside them; one problem given by hand:

python -m compgen_jax.show --config=configs/quickstart.py
python -m compgen_jax.show --workdir=runs/quickstart --arm=compound
python -m compgen_jax.show --workdir=runs/quickstart --problem='bca dd: earlier reverse, merge fold'
"""

import os
import sys

from absl import flags

from compgen_jax import command_line

_ARM = flags.DEFINE_string('arm', None, 'The stage whose model writes; needs --workdir.')
_SPLIT = flags.DEFINE_string('split', None, 'A split of config.eval.splits; all by default.')
_PROBLEM = flags.DEFINE_string(
  'problem',
  None,
  'Shows this problem: inputs and steps, such as "bca dd: earlier reverse, merge fold".',
)
_N = flags.DEFINE_integer(
  'n', 3, 'Problems per split and depth; with --problem, traces of the model.', lower_bound=1
)
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, 'Of sampling; 0 is greedy.', lower_bound=0.0)


def show(
  config,
  workdir=None,
  arm: str | None = None,
  split: str | None = None,
  n: int = 3,
  temperature: float = 0.0,
  problem: str | None = None,
) -> str:
  """The text.

  Args:
    config: typed; None is that of the workdir.
    workdir: the folder of a run, or None.
    arm: the stage of the run whose model writes; None shows golden traces.
    split: an evaluation split, None is all of them.
    n: problems of each depth of a split; with `problem`, traces that the model writes.
    temperature: of sampling.
    problem: shows this one instead, in a form that `problems.read` takes.

  Raises:
    ConfigError: one of them can't be; one line that says what is legal.
    CheckpointError: the stage has not finished.
  """
  from compgen_jax.errors import ConfigError
  from compgen_jax.experiment import files, problems, trained

  if config is None:
    config = files.read_config(workdir)
  if split is not None and split not in config.eval.splits:
    raise ConfigError(f'split={split!r}: legal is {" | ".join(config.eval.splits)}')
  if arm is not None and arm not in config.stages:
    raise ConfigError(f'arm={arm!r}: legal is {" | ".join(config.stages)}')
  if arm is not None and workdir is None:
    raise ConfigError(f'arm={arm!r}: --arm needs the --workdir of a run')
  model = None if arm is None else trained.restore(config, workdir, arm)
  if problem is not None:
    given = problems.read(problem, config.task)
    written = [given] if model is None else model.sample(given, n, temperature)
    return '\n'.join(map(repr, written))
  lines = []
  for name in config.ordered_splits if split is None else (split,):
    support = config.eval.splits[name]
    if split is None and config.supports[support].prefix:
      lines.append(f'--- {name} is not shown: its problems begin with dry steps')
      continue
    for depth in sorted(config.supports[support].depths):
      lines.append(f'--- {name}, depth {depth}')
      for drawn in problems.draw(config, support, n, depth):
        lines.append(repr(drawn if model is None else model.sample(drawn, 1, temperature)[0]))
  return '\n'.join(lines)


def _main():
  workdir = command_line.WORKDIR.value
  command_line.require(config=command_line.CONFIG.value or workdir)
  from compgen_jax import config as config_lib

  given = command_line.CONFIG.value
  config = config_lib.from_config_dict(given) if given else None
  shown = show(
    config, workdir, _ARM.value, _SPLIT.value, _N.value, _TEMPERATURE.value, _PROBLEM.value
  )
  try:
    print(shown, flush=True)
  except BrokenPipeError:
    # The reader, `head` say, has seen enough. Nor may Python complain when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == '__main__':
  command_line.launch(_main)
