"""One seed on 1, 2, 4 and 8 devices and in 2 and 4 processes: with `mesh.parts`, the same bits.

python -m tests.reliability.invariance [--n 200]

Compared are the parameters after SFT and after n updates of RL, the metrics of every update, and
what was measured at the end. Printed as well: what the exact mode costs in time on one device, and
how far runs on 1 and 2 devices drift apart without it.
"""

import pathlib
import tempfile

import numpy as np

from tests.reliability import peers, trial
from tests.reliability.same_bits import PARTS

CONFIG = 'tests/reliability/same_bits.py'
DEVICES = (1, 2, 4, 8)
PROCESSES = (2, 4)  # of one device each


def rates(workdir: pathlib.Path) -> tuple[list[float], float]:
  """The loss of RL by row of metrics, and updates a second after the first row."""
  rows = trial.rows(workdir / 'stages/rl/seed-0/metrics.jsonl')
  first, last = rows[0], rows[-1]
  rate = (last['step'] - first['step']) / (last['seconds'] - first['seconds'])
  return [row['loss'] for row in rows], rate


def main():
  n, faults = trial.number('invariance', 200, 'updates of RL').n, []
  flags = (f'stages.rl.steps={n}',)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for devices in DEVICES:
      workdir = folder / f'devices-{devices}'
      trial.finish(workdir, *flags, config=CONFIG, env=trial.on_devices(devices))
    for processes in PROCESSES:
      workdir = folder / f'processes-{processes}'
      peers.finish(workdir, *flags, count=processes, config=CONFIG)
    for devices in (1, 2):  # without: as fast as it can
      workdir = folder / f'fast-{devices}'
      fast = (*flags, 'mesh.parts=0')
      trial.finish(workdir, *fast, config=CONFIG, env=trial.on_devices(devices))
    want = trial.of_stages(folder / 'devices-1')
    meshes = [f'devices-{d}' for d in DEVICES[1:]] + [f'processes-{p}' for p in PROCESSES]
    for mesh in meshes:
      found = trial.difference(trial.of_stages(folder / mesh), want)
      faults += [f'{mesh}: {what}' for what in found[:3]]
    (losses, fast), (other, _) = (rates(folder / f'fast-{d}') for d in (1, 2))
    drift = float(np.max(np.abs(np.subtract(losses, other))))
    cost = fast / rates(folder / 'devices-1')[1]
  on = f'{DEVICES} devices and {PROCESSES} processes'
  figures = (
    f'{n} updates of RL in {PARTS} parts: {len(want)} files and checkpoints the same on {on}; '
    f'{cost:.2f} times the time of one part a device, which drifts apart by {drift:.2g} in loss'
  )
  trial.report('invariance', not faults, figures, faults)


if __name__ == '__main__':
  main()
