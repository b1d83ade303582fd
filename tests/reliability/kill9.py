"""kill -9 at random moments, several in a run: the run ends with the bits of one that was left
alone.

python -m tests.reliability.kill9 [--n 25] [--resize]

With --resize the number of devices that share a batch changes at every restart. Then bits differ:
sums over a batch are rounded in another order, and in RL a token that falls the other way is
another trace. What has to hold is what is stated in `same_but_rounded`.
"""

import pathlib
import random
import time

from tests.reliability import trial

# A checkpoint every few updates: many kills meet one that is being written.
OFTEN = ('run.checkpoint_every=10',)
KILLS = 3  # of each run, at most
DEVICES = (1, 2)


def killed(workdir: pathlib.Path, within_s: float, draw: random.Random, flags, env) -> bool:
  """Starts a run and kills it at a random moment; whether it had not ended before."""
  process = trial.start(workdir, *flags, env=env)
  time.sleep(draw.uniform(0.2, within_s))
  over = process.poll() is not None
  process.kill()
  process.communicate()
  return not over


def same_but_rounded(workdir: pathlib.Path, reference: pathlib.Path) -> list[str]:
  """What differs that does not depend on the number of devices.

  The same: what a stage depends on (origin.json), which updates the rows of metrics stand for,
  which problems are evaluated and how many, and the loss of the first updates of SFT up to
  rounding, as they see the same problems.
  """
  found = []
  for folder in (reference / 'stages').glob('*/*'):
    name = folder.relative_to(reference)
    if (workdir / name / 'origin.json').read_bytes() != (folder / 'origin.json').read_bytes():
      found.append(f'{name}: another origin')
    got, want = (trial.rows(root / name / 'metrics.jsonl') for root in (workdir, reference))
    if [row['step'] for row in got] != [row['step'] for row in want]:
      found.append(f'{name}: other updates')
    if 'sft' in str(name) and abs(got[0]['loss'] - want[0]['loss']) > 1e-3:
      found.append(f'{name}: loss {got[0]["loss"]}, not {want[0]["loss"]}')
  got, want = (trial.rows(root / 'results.jsonl') for root in (workdir, reference))
  measured = ('low', 'high', 'value')
  labels = [[{k: v for k, v in row.items() if k not in measured} for row in x] for x in (got, want)]
  if labels[0] != labels[1]:
    found.append('other measurements')
  return found


def tried(n: int, resize: bool, seed: int = 0) -> tuple[int, int, list[str]]:
  """`(kills, runs that ended as they should, faults)` of n runs."""
  draw, kills, good, faults = random.Random(seed), 0, 0, []
  env = trial.on_devices(2) if resize else {}
  with trial.reference(*OFTEN, *_on(1, resize), env=env) as (folder, want, seconds):
    for devices in DEVICES[1:] if resize else ():  # so that kills do not all meet the compiler
      trial.finish(folder / f'on {devices}', *OFTEN, *_on(devices, resize), env=env)
    for i in range(n):
      workdir, alive = folder / str(i), True
      for restart in range(KILLS):
        flags = (*OFTEN, *_on(DEVICES[(i + restart) % len(DEVICES)], resize))
        alive = alive and killed(workdir, seconds, draw, flags, env)
        kills += alive
      trial.finish(workdir, *OFTEN, *_on(DEVICES[(i + KILLS) % len(DEVICES)], resize), env=env)
      if resize:
        found = same_but_rounded(workdir, folder / 'reference')
      else:
        found = trial.difference(trial.outcome(workdir), want)
      found += [f'left over: {path}' for path in trial.leftovers(workdir)]
      good += not found
      faults += [f'run {i}: {fault}' for fault in found]
  return kills, good, faults


def _on(devices: int, resize: bool) -> tuple[str, ...]:
  return (f'mesh.data={devices}',) if resize else ()


def _add_resize(parser) -> None:
  parser.add_argument('--resize', action='store_true', help='other devices at every restart')


def main():
  asked = trial.number('kill9', 25, 'runs', _add_resize)
  kills, good, faults = tried(asked.n, asked.resize)
  what = 'alike up to rounding' if asked.resize else 'bit-identical'
  figures = f'{good} of {asked.n} runs {what} after {kills} kills'
  trial.report('kill9', good == asked.n, figures, faults)


if __name__ == '__main__':
  main()
