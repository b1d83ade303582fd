"""What the SFT data of a finished run witness, and whether that predicts what its arms answer.

python -m compgen_jax.theory --workdir=runs/quickstart [--arm=sft,compound]

Prints tables; writes theory.json and figures/witnesses.png into the workdir. No model is run.
"""

from absl import flags

from compgen_jax import command_line

_ARM = flags.DEFINE_list('arm', [], 'Stages, with commas between; all evaluated ones by default.')


def _main():
  command_line.require(workdir=command_line.WORKDIR.value)
  from compgen_jax.experiment import composability as measured
  from compgen_jax.report import composability as shown

  workdir = command_line.WORKDIR.value
  found = measured.of_run(workdir, tuple(_ARM.value))
  measured.write(workdir, found)
  shown.draw(workdir, found)
  print(shown.text(found), flush=True)


if __name__ == '__main__':
  command_line.launch(_main)
