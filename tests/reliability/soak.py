"""Many tiny updates in one process: memory and open files do not grow, nothing is compiled again,
and the log has no gap.

python -m tests.reliability.soak [--n 100000]
"""

import dataclasses
import os
import pathlib
import tempfile
from unittest import mock

import jax

import compgen_jax
from compgen_jax.experiment import pace
from tests.experiments import history, tiny
from tests.reliability import trial

COMPILED = '/jax/core/compile/backend_compile_duration'
MOST_MB = 32.0  # that memory may grow by after the first third: rows of metrics, fragments


@dataclasses.dataclass
class Soaked:
  """What was seen of a run.

  `mb` of memory, `files` (open) and `compiled` (programs so far) at the start of each dispatch.
  `steps` of the rows of metrics. `newest`: the update of the newest checkpoint.
  """

  mb: list[float] = dataclasses.field(default_factory=list)
  files: list[int] = dataclasses.field(default_factory=list)
  compiled: list[int] = dataclasses.field(default_factory=list)
  steps: list[int] = dataclasses.field(default_factory=list)
  newest: int = 0

  def faults(self, n: int, row: int) -> list[str]:
    """What was promised of n updates, a row of metrics each `row`, and not kept."""
    found, settled = [], len(self.mb) // 3
    if self.steps != [*range(row, n, row), n]:
      found.append(f'rows of metrics at {self.steps[:5]}…')
    if self.newest != n:
      found.append(f'newest checkpoint {self.newest}, not {n}')
    if self.compiled[-1] != self.compiled[settled]:
      found.append(f'{self.compiled[-1] - self.compiled[settled]} programs compiled again')
    if self.grown_mb > MOST_MB:
      found.append(f'{self.grown_mb:.1f} MB more memory')
    if self.files[-1] > self.files[settled]:
      found.append(f'{self.files[-1] - self.files[settled]} more open files')
    return found

  @property
  def grown_mb(self) -> float:
    """Memory at the end beyond that after the first third of the dispatches."""
    return self.mb[-1] - self.mb[len(self.mb) // 3]


def soaked(n: int, workdir: pathlib.Path, row: int = 20) -> Soaked:
  """One SFT stage of n updates."""
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=())
  config.stages.sft.steps = n
  config.run.update(steps_per_call=row, checkpoint_every=5 * row)
  for name in ('rl', 'rft'):
    del config.stages[name]
  seen, compiled = Soaked(), []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if event == COMPILED else None
  )
  dispatch = pace.Pace.dispatch

  def watched(self, most):
    resident = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
    seen.mb.append(resident * os.sysconf('SC_PAGE_SIZE') / 2**20)
    seen.files.append(len(os.listdir('/proc/self/fd')))
    seen.compiled.append(len(compiled))
    return dispatch(self, most)

  with mock.patch.object(pace.Pace, 'dispatch', watched):
    compgen_jax.run(config, workdir)
  seen.steps = [row['step'] for row in history(workdir, 'sft')]
  seen.newest = trial.newest(workdir, 'sft')
  return seen


def main():
  n = trial.number('soak', 100_000, 'updates').n
  with tempfile.TemporaryDirectory() as name:
    seen = soaked(n, pathlib.Path(name))
  figures = (
    f'{n} updates in {len(seen.mb)} dispatches: {seen.grown_mb:+.1f} MB, '
    f'{seen.compiled[-1]} programs compiled, {seen.files[-1]} open files, {len(seen.steps)} rows'
  )
  faults = seen.faults(n, 20)
  trial.report('soak', not faults, figures, faults)


if __name__ == '__main__':
  main()
