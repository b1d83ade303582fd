"""A small run as a process, as a person starts it, and what it leaves behind."""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG = 'tests/reliability/small.py'
# A run that trains until it is ended, and saves and evaluates nothing before.
ENDLESS = ('eval.every=0', 'stages.sft.steps=100000', 'run.checkpoint_every_s=1e6')


def command(workdir: pathlib.Path, *flags: str, config: str = CONFIG) -> list[str]:
  """What one would type."""
  here = ['-m', 'compgen_jax.main', f'--config={config}', f'--workdir={workdir}']
  return [sys.executable, *here, *(f'--config.{flag}' for flag in flags)]


def start(workdir: pathlib.Path, *flags: str, **kwargs: Any) -> subprocess.Popen:
  """A run that goes on while this process does something else."""
  kwargs = dict(stderr=subprocess.PIPE, text=True) | kwargs
  env, config = os.environ | kwargs.pop('env', {}), kwargs.pop('config', CONFIG)
  return subprocess.Popen(
    command(workdir, *flags, config=config), cwd=REPOSITORY, env=env, **kwargs
  )


def until(process: subprocess.Popen, is_so: Callable[[], bool]) -> None:
  """Waits for something to be so while a run goes on.

  Raises:
    AssertionError: the run ended before.
  """
  while not is_so():
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)


def watches(process: subprocess.Popen) -> bool:
  """Whether the process handles SIGTERM: before that, it is Python that starts."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  caught = next(line for line in status.splitlines() if line.startswith('SigCgt'))
  return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def finish(workdir: pathlib.Path, *flags: str, **kwargs: Any) -> str:
  """Runs to the end; returns what was written to stderr.

  Raises:
    AssertionError: it did not end well.
  """
  process = start(workdir, *flags, **kwargs)
  _, stderr = process.communicate(timeout=600)
  assert process.returncode == 0, stderr
  return stderr


def newest(workdir: pathlib.Path, stage: str, seed: int = 0) -> int:
  """The update of a stage's newest whole checkpoint; 0 where there is none."""
  folder = workdir / 'stages' / stage / f'seed-{seed}' / 'checkpoints'
  return max((int(p.name) for p in folder.glob('*') if p.name.isdigit()), default=0)


def on_devices(n: int) -> dict[str, str]:
  """The environment in which a process has n virtual devices."""
  return {'XLA_FLAGS': f'--xla_force_host_platform_device_count={n}'}


def rows(path: pathlib.Path) -> list[dict]:
  """The lines of a .jsonl file."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def _metrics(stage: pathlib.Path) -> list[dict]:
  """A replicate's rows of metrics, without times."""
  return [
    {k: v for k, v in row.items() if k not in ('seconds', 'crc')}
    for row in rows(stage / 'metrics.jsonl')
  ]


def outcome(workdir: pathlib.Path) -> dict[str, str]:
  """All that a run must end with bit by bit: file or checkpoint -> a digest of it.

  (Without times, which differ from run to run.)
  """
  found = {'results.jsonl': _digest((workdir / 'results.jsonl').read_bytes())}
  for folder in sorted((workdir / 'stages').glob('*/*')):
    name = str(folder.relative_to(workdir))
    found[f'{name}/metrics'] = _digest(json.dumps(_metrics(folder)).encode())
    for file in ('curve.jsonl', 'evaluation.json', 'origin.json'):
      path = folder / file
      found[f'{name}/{file}'] = _digest(path.read_bytes()) if path.exists() else 'none'  # no curve
    with ocp.training.Checkpointer(folder.absolute() / 'checkpoints') as checkpoints:
      with warnings.catch_warnings(action='ignore'):  # orbax warns where no sharding is given
        leaves = jax.tree.leaves_with_path(checkpoints.load())
      found[f'{name}/step'] = str(checkpoints.latest.step)
    for path, leaf in leaves:
      found[f'{name}{jax.tree_util.keystr(path)}'] = _digest(np.asarray(leaf).tobytes())
  return found


def of_stage(workdir: pathlib.Path, of: str = 'sft/seed-0') -> dict[str, object]:
  """The same of a replicate of a stage, with the digests of checkpoints in place of their arrays.

  (Which can't be read where several processes have written them.)
  """
  stage = workdir / 'stages' / of
  files = [stage / 'curve.jsonl', stage / 'evaluation.json']
  found = {path.name: path.read_text() for path in files if path.exists()}  # no points, no curve
  found['results'] = (workdir / 'results.jsonl').read_text()
  found['metrics'] = _metrics(stage)
  for path in sorted(stage.glob('checkpoints/*/_CHECKPOINT_METADATA')):
    found[path.parent.name] = json.loads(path.read_text())['custom_metadata']['digest']
  return found


def of_stages(workdir: pathlib.Path) -> dict[str, object]:
  """The same of SFT and of RL."""
  found = {stage: of_stage(workdir, f'{stage}/seed-0') for stage in ('sft', 'rl')}
  return {f'{stage} {k}': v for stage, held in found.items() for k, v in held.items()}


def leftovers(workdir: pathlib.Path) -> list[str]:
  """Files and folders that are not finished."""
  return [str(path) for path in workdir.rglob('*') if 'tmp' in path.name]


def difference(got: dict[str, str], want: dict[str, str]) -> list[str]:
  """What is not the same in two outcomes."""
  return [f'other {name}' for name in got | want if got.get(name) != want.get(name)]


# What a run says on stderr when all goes well.
EXPECTED = (
  'memory on',
  ' updates',
  ': continues at update ',
  ' compiling ...',
  'updates/s',
  '  loss ',
  '  right, %: ',
  'warning: ',
  'error: ',
)


def unexpected(stderr: str) -> list[str]:
  """Lines on stderr of a run that did not reach its end that it has no reason to write."""
  return [line for line in stderr.splitlines() if not any(part in line for part in EXPECTED)]


def _digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


@contextmanager
def reference(*flags: str, **kwargs: Any) -> Iterator[tuple[pathlib.Path, dict[str, str], float]]:
  """`(folder for workdirs, outcome of a run without interruption, its seconds with compiled
  programs at hand)`."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    finish(folder / 'first', *flags, **kwargs)  # fills the compile cache
    started = time.monotonic()
    finish(folder / 'reference', *flags, **kwargs)
    seconds = time.monotonic() - started
    want = outcome(folder / 'reference')
    assert outcome(folder / 'first') == want, 'two runs without interruption differ'
    yield folder, want, seconds


def report(name: str, ok: bool, figures: str, faults: list[str] | tuple = ()) -> None:
  """One line of figures, and the exit status."""
  fell_short = f'; {"; ".join(faults)}' if faults else ''
  print(f'{name}: {"ok" if ok else "FALLS SHORT"}: {figures}{fell_short}')
  sys.exit(0 if ok else 1)


def number(name: str, default: int, what: str, *more: Callable) -> argparse.Namespace:
  """The command line of a reliability command: `--n`, and what `more` adds to its parser."""
  parser = argparse.ArgumentParser(f'python -m tests.reliability.{name}')
  parser.add_argument('--n', type=int, default=default, help=what)
  for add in more:
    add(parser)
  return parser.parse_args()
