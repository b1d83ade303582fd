#!/usr/bin/env python3
"""launch/gke_jobset.py CONFIG --image=IMAGE --claim=CLAIM [flags] [--dry-run] [-- FLAG…]

One run on a TPU slice of GKE: fills in launch/gke_jobset.yaml and hands it to kubectl.

  launch/gke_jobset.py configs/finding1.py --image=IMAGE --claim=shared --topology=4x4 --machines=4

The image holds the code, installed with the extra `tpu`, in its working folder; the claim is of a
volume that many pods can write. The workdir is a folder of that volume. A flag's default is the
variable of the environment that --help names. What stands behind `--` goes to the run. The same
command again, once the JobSet is deleted, continues. --dry-run prints the command and the JobSet.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import string
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# Flag -> its default ('' is none), what it is, and the pattern of legal values.
NAME, LINE, NUMBER = r'[a-z0-9]([-a-z0-9]*[a-z0-9])?', r'[\w./:@-]+', r'[1-9]\d*'
FLAGS = {
  'image': ('', 'container image', LINE),
  'claim': ('', 'name of the volume claim', NAME),
  'name': ('compgen', 'of the JobSet', NAME),
  'namespace': ('default', 'of the JobSet', NAME),
  'accelerator': ('tpu-v5-lite-podslice', 'kind of TPU nodes', LINE),
  'topology': ('2x4', 'of the slice', r'\d+(x\d+)+'),
  'machines': ('2', 'of the slice; a process each', NUMBER),
  'chips': ('4', 'of a machine', NUMBER),
  'restarts': ('10', 'after which the JobSet fails', r'\d+'),
  'mount': ('/shared', 'where the volume is mounted', r'/[\w./-]+'),
  'workdir': ('', 'of the run; default: MOUNT/runs/NAME of the config', r'/[\w./-]+'),
}


def fail(message: str) -> None:
  """Ends the process with one line on stderr and exit status 2."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked."""
  at = argv.index('--') if '--' in argv else len(argv)
  parser = argparse.ArgumentParser(
    prog='launch/gke_jobset.py',
    description=__doc__,
    formatter_class=argparse.RawTextHelpFormatter,
  )
  parser.add_argument('config', help='a file of configs/')
  for name, (default, what, _) in FLAGS.items():
    variable = f'GKE_{name.upper()}'
    said = f'{what} ({variable}{", else " + default if default else ""})'
    parser.add_argument(f'--{name}', default=os.environ.get(variable, default), help=said)
  parser.add_argument('--dry-run', action='store_true', help='prints all, and does nothing')
  args = parser.parse_args(argv[:at])
  args.rest = argv[at + 1 :]
  args.workdir = args.workdir or f'{args.mount}/runs/{pathlib.Path(args.config).stem}'
  for name, (_, what, legal) in FLAGS.items():
    value = getattr(args, name)
    if not re.fullmatch(legal, value):
      fail(f'--{name}={value!r}: legal is what matches {legal} ({what})')
  return args


def jobset(args: argparse.Namespace) -> str:
  """launch/gke_jobset.yaml with all filled in."""
  command = ['python', '-u', '-m', 'compgen_jax.main', f'--config={args.config}']
  command += [f'--workdir={args.workdir}', '--config.run.distributed=on', *args.rest]
  values = {name: getattr(args, name) for name in FLAGS} | {'command': json.dumps(command)}
  lines = (HERE / 'gke_jobset.yaml').read_text().splitlines(keepends=True)
  return string.Template(''.join(line for line in lines if line[0] != '#')).substitute(values)


def main(argv: list[str]) -> int:
  args = parse(argv)
  apply = ['kubectl', 'create', '-f', '-']
  if args.dry_run:
    print(f'{shlex.join(apply)} <<END\n{jobset(args)}END')
    return 0
  try:
    return subprocess.run(apply, input=jobset(args), text=True).returncode
  except FileNotFoundError:
    fail('kubectl is not there; legal is to install it, or --dry-run')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
