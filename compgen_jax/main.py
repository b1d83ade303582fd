"""Runs an experiment.

python -m compgen_jax.main --config=configs/NAME.py --workdir=DIR [--config.seed=1 ...]
"""

from compgen_jax import command_line


def _main():
  command_line.require(config=command_line.CONFIG.value, workdir=command_line.WORKDIR.value)
  from compgen_jax.experiment import run

  run.run(command_line.CONFIG.value, command_line.WORKDIR.value)


if __name__ == '__main__':
  command_line.launch(_main)
