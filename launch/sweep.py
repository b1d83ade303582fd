#!/usr/bin/env python3
"""launch/sweep.py CONFIG --out=DIR [--set FIELD=V1,V2,…]… [--seeds=0,1,2] [--jobs=N] [-- FLAG…]

Runs a config for every combination of values and every seed, N runs at a time, each pinned to its
share of the cores; then puts all of them together (compgen_jax.collect) into DIR/collected.

  launch/sweep.py configs/quickstart.py --out=runs/k --seeds=0,1,2 \\
    --set supports.sft.compositions,supports.sft_prefixed.compositions=50,100,200

A run goes to DIR/VARIANT/seed-S. The same command again continues what was interrupted and skips
what is finished. Fields joined by commas change together. A value may hold commas within brackets,
parentheses or quotes. What stands behind `--` goes to every run.

On a cluster: --dry-run prints a command per run; `--task=I` runs the I-th only, as an array job
does (launch/slurm.sbatch). --status says what is finished.
"""

import argparse
import itertools
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
OPENING, CLOSING = '([{', ')]}'


class Run(NamedTuple):
  """One run of the sweep: its folder and its command."""

  folder: pathlib.Path
  command: list[str]

  @property
  def finished(self) -> bool:
    return (self.folder / 'summary.json').is_file()


def fail(message: str) -> None:
  """Ends the process with one line on stderr and exit status 2."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def split(text: str) -> list[str]:
  """Splits at commas that stand outside of brackets, parentheses and quotes."""
  parts, depth, quote = [''], 0, ''
  for c in text:
    if quote:
      quote = '' if c == quote else quote
    elif c in '\'"':
      quote = c
    elif c in OPENING:
      depth += 1
    elif c in CLOSING:
      depth -= 1
    if c == ',' and depth == 0 and not quote:
      parts.append('')
    else:
      parts[-1] += c
  return parts


def variants(settings: list[str]) -> list[tuple[str, list[str]]]:
  """(name of the folder, flags) of each combination of values."""
  choices = []
  for setting in settings:
    fields, equals, values = setting.partition('=')
    if not equals or not fields or not all(split(values)):
      fail(f'--set={setting!r}: legal is FIELD=V1,V2,… such as rl.lr=1e-4,2e-4')
    names = fields.split(',')
    choices.append(
      [
        (f'{names[0]}={value}', [f'--config.{name}={value}' for name in names])
        for value in split(values)
      ]
    )
  combined = []
  for choice in itertools.product(*choices):
    name = ','.join(part for part, _ in choice).replace('/', '_').replace(' ', '')
    combined.append((name or 'base', [flag for _, flags in choice for flag in flags]))
  twice = {name for name, _ in combined if [n for n, _ in combined].count(name) > 1}
  if twice:
    fail(f'--set: {sorted(twice)[0]!r} comes twice; legal is each value once')
  return combined


def plan(args: argparse.Namespace) -> list[Run]:
  """Every run of the sweep, in the order of variants and seeds."""
  python = os.environ.get('PYTHON') or str(pathlib.Path('.venv/bin/python'))
  runs = []
  for name, flags in variants(args.set):
    for seed in args.seeds:
      folder = args.out / name / f'seed-{seed}'
      command = [python, '-m', 'compgen_jax.main', f'--config={args.config}']
      command += [f'--workdir={folder}', f'--config.seed={seed}', *flags, *args.rest]
      runs.append(Run(folder, command))
  return runs


def require_same(args: argparse.Namespace) -> None:
  """Ends where DIR holds another sweep: its finished runs would be taken for this one's."""
  path, mine = args.out / 'sweep.json', {'config': args.config, 'flags': args.rest}
  if path.is_file():
    held = json.loads(path.read_text())
    if held != mine:
      fail(f'--out={str(args.out)!r} holds a sweep of {held}, not {mine}; legal is another folder')
  else:
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mine) + '\n')


def shares(n_jobs: int) -> list[list[int]]:
  """The cores of each job: as equal shares as can be, none twice."""
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
  return [cores[i::n_jobs] for i in range(n_jobs)]


def pinned(command: list[str], cores: list[int]) -> list[str]:
  """The command on these cores, where the system can pin it."""
  if cores and shutil.which('taskset'):
    return ['taskset', '-c', ','.join(map(str, cores)), *command]
  return command


def hours(seconds: float) -> str:
  """A time left, in words."""
  return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'


def run_all(runs: list[Run], n_jobs: int) -> int:
  """Runs what is not finished, `n_jobs` at a time; returns how many runs failed."""
  todo = [run for run in runs if not run.finished]
  print(f'{len(runs)} runs, {len(runs) - len(todo)} finished, {n_jobs} at a time', flush=True)
  free, active, failed, took = shares(n_jobs), {}, 0, []
  try:
    while todo or active:
      while todo and free:
        run, cores = todo.pop(0), free.pop(0)
        run.folder.mkdir(parents=True, exist_ok=True)
        log = open(run.folder / 'log.txt', 'a')
        process = subprocess.Popen(pinned(run.command, cores), stdout=log, stderr=log, cwd=ROOT)
        active[process] = run, cores, time.monotonic()
      time.sleep(0.2)
      for process in [p for p in active if p.poll() is not None]:
        run, cores, started = active.pop(process)
        free.append(cores)
        if process.returncode:
          failed += 1
          last = (run.folder / 'log.txt').read_text(errors='replace').strip().splitlines()[-1:]
          print(f'failed ({process.returncode}): {run.folder}: {" ".join(last)}', flush=True)
          continue
        took.append(time.monotonic() - started)
        left = len(todo) + len(active)
        ends = f', about {hours(statistics.mean(took) * left / n_jobs)} left' if left else ''
        print(f'finished: {run.folder} ({hours(took[-1])}); {left} to go{ends}', flush=True)
  except BaseException:
    for process in active:
      process.terminate()  # a run saves what it has, and goes on from there
    for process in active:
      process.wait()
    raise
  return failed


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked."""
  own, _, rest = (argv, '', []) if '--' not in argv else _cut(argv)
  parser = argparse.ArgumentParser(
    prog='launch/sweep.py', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('config', help='a file of configs/, with :ARGUMENT behind it if need be')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='folder of the sweep')
  parser.add_argument('--set', action='append', default=[], help='FIELD=V1,V2,… (repeatable)')
  parser.add_argument('--seeds', default='0', help='seeds of the replicates (default: 0)')
  parser.add_argument('--jobs', type=int, default=1, help='runs at a time (default: 1)')
  parser.add_argument('--task', type=int, help='runs only this one of the list, from 0')
  parser.add_argument('--dry-run', action='store_true', help='prints the command of every run')
  parser.add_argument('--status', action='store_true', help='says what is finished')
  args = parser.parse_args(own)
  args.rest = rest
  if not (ROOT / args.config.partition(':')[0]).is_file():
    legal = ' | '.join(sorted(f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')))
    fail(f'config {args.config!r} does not exist; legal is {legal}')
  if args.jobs < 1:
    fail(f'--jobs={args.jobs}: legal is 1 or more')
  if not all(seed.strip().isdigit() for seed in args.seeds.split(',')):
    fail(f'--seeds={args.seeds!r}: legal are whole numbers from 0, such as 0,1,2')
  args.seeds = [int(seed) for seed in args.seeds.split(',')]
  if len(set(args.seeds)) < len(args.seeds):
    fail(f'--seeds={args.seeds}: legal is each seed once')
  return args


def _cut(argv: list[str]) -> tuple[list[str], str, list[str]]:
  at = argv.index('--')
  return argv[:at], '--', argv[at + 1 :]


def main(argv: list[str]) -> int:
  args = parse(argv)
  os.chdir(ROOT)
  runs = plan(args)
  if args.task is not None and not 0 <= args.task < len(runs):
    fail(f'--task={args.task}: legal is 0 to {len(runs) - 1}')
  if args.dry_run:
    print('\n'.join(shlex.join(run.command) for run in runs))
    return 0
  if args.status:
    for run in runs:
      print(f'{"finished" if run.finished else "to run  "}  {run.folder}')
    print(f'{sum(run.finished for run in runs)} of {len(runs)} finished')
    return 0
  require_same(args)
  if args.task is not None:
    os.execv(runs[args.task].command[0], runs[args.task].command)  # signals reach the run itself
  failed = run_all(runs, min(args.jobs, len(runs)))
  if failed:
    print(f'{failed} runs failed; the same command tries them again', file=sys.stderr)
    return 1
  collect = [runs[0].command[0], '-m', 'compgen_jax.collect', *(str(run.folder) for run in runs)]
  return subprocess.run([*collect, f'--out={args.out / "collected"}']).returncode


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
