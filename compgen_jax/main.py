"""Runs an experiment.

python -m compgen_jax.main --config=configs/NAME.py --workdir=DIR [--config.seed=1 ...]

Exit status: 0 all went well, 2 a mistake, 3 training diverged, 75 interrupted by SIGTERM or Ctrl-C
(what was trained is saved; the same command continues).
"""

from compgen_jax.experiment import interruption


def _main():
  from compgen_jax import command_line

  command_line.require(config=command_line.CONFIG.value, workdir=command_line.WORKDIR.value)
  from compgen_jax.experiment import run

  run.run(command_line.CONFIG.value, command_line.WORKDIR.value)


def _launch():
  # After `watch`: importing this takes a while too.
  from compgen_jax import command_line

  command_line.launch(_main)


if __name__ == '__main__':
  interruption.watch()
  _launch()
