"""What the SFT data of a finished run witness, whether that predicts what its arms answer, and what
their models do with single modules.

python -m compgen_jax.theory --workdir=runs/quickstart [--arm=sft,compound]

Prints tables; writes theory.json and figures into the workdir, and its report.html anew. The models
of stages that have a checkpoint are asked; nothing is trained. With --config, the stages are those
of a config under which they would have been trained likewise (it may add splits).
"""

from absl import flags

from compgen_jax import command_line

_ARM = flags.DEFINE_list('arm', [], 'Stages, with commas between; all evaluated ones by default.')


def _main():
  command_line.require(workdir=command_line.WORKDIR.value)
  from compgen_jax import config as config_lib
  from compgen_jax.experiment import composability, finished, probe
  from compgen_jax.report import page

  given = command_line.CONFIG.value
  config = config_lib.from_config_dict(given) if given else None
  run = finished.open_run(command_line.WORKDIR.value, tuple(_ARM.value), config)
  found = composability.of_finished(run) | probe.of_run(run)
  composability.write(run.folder, found)
  print(page.theory_text(found), flush=True)
  page.write_theory(run.folder, run.config, found)


if __name__ == '__main__':
  command_line.launch(_main)
