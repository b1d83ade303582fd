"""Shows how far a run has come: writes WORKDIR/progress.html anew until the run has its report.

python -m compgen_jax.watch --workdir=runs/quickstart [--every=60]

The page loads itself again; it has the updates done by each arm and replicate, and the curves so
far. The run is not slowed down: this is a process of its own that reads what the run has written.
"""

import pathlib
import time

from absl import flags

from compgen_jax import command_line

_EVERY = flags.DEFINE_integer('every', 60, 'Seconds from one page to the next.', lower_bound=1)


def _main():
  command_line.require(workdir=command_line.WORKDIR.value)
  from compgen_jax.experiment import workdirs
  from compgen_jax.report import progress

  folder = pathlib.Path(command_line.WORKDIR.value)
  workdirs.read_config(folder)  # a mistake is found before anything is said
  print(f'page: {folder / progress.NAME}', flush=True)
  while not progress.write(folder, workdirs.read_config(folder), _EVERY.value):
    time.sleep(_EVERY.value)
  print(f'finished; report: {folder / "report.html"}')


if __name__ == '__main__':
  command_line.launch(_main)
