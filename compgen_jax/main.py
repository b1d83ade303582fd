"""Command line: python -m compgen_jax.main --config=configs/quickstart.py --workdir=runs/quickstart [--config.seed=1 ...]"""

from absl import flags
from ml_collections import config_flags

from compgen_jax import command_line

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment: a file of configs/.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints and results; the same command continues there.')


def _main():
  command_line.require(config=_CONFIG.value, workdir=_WORKDIR.value)
  from compgen_jax.experiment import run

  run.run(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
  command_line.launch(_main)
