"""What the commands share: flags in, one line out for a user's mistake, exit status 0 only when all
went well."""

import glob
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

# Here, because a flag can be defined once in a process, and tests import several commands into one.
CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment: a file of configs/.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints and results of a run.')


def require(**values: Any) -> None:
  """Exits with one line where a flag that is needed was not given."""
  for name, value in values.items():
    if not value:
      fail(f'--{name} is missing; legal is --config=configs/NAME.py --workdir=DIR')


def fail(message: str) -> None:
  """Ends the process with one line on stderr and exit status 2."""
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def _bad_config_flag(argv: list[str]) -> str | None:
  """What is wrong with --config or with the first --config.FIELD that the config does not have."""
  files = [arg.removeprefix('--config=') for arg in argv if arg.startswith('--config=')]
  if not files:
    return None
  path = files[-1].split(':')[0]
  if not os.path.isfile(path):
    return (
      f'--config={path}: no such file; legal is {" | ".join(sorted(glob.glob("configs/*.py")))}'
    )
  spec = importlib.util.spec_from_file_location('config_file', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(*files[-1].split(':')[1:])
  for arg in argv[1:]:
    node, path = config, arg.removeprefix('--config.').split('=')[0]
    for name in path.split('.') if arg.startswith('--config.') else ():
      if not hasattr(node, 'keys') or name not in node:
        legal = ', '.join(node) if hasattr(node, 'keys') else 'none, it is a value'
        return f'config.{path}: no such field as {name!r}; legal there: {legal}'
      node = node[name]
  return None


def launch(main: Callable[..., None], takes_arguments: bool = False) -> None:
  """Parses the flags and runs `main`; mistakes of the user end in one line and exit status 2.

  `takes_arguments`: `main` gets the list of what stands behind the flags; else that is a mistake.
  """
  flags.FLAGS.set_default('logtostderr', True)
  try:
    rest = flags.FLAGS(sys.argv)[1:]
    if 'config' in flags.FLAGS:
      dict(flags.FLAGS['config'].value or {})  # the file is loaded when it is first asked for
  # absl, ml_collections and the config file itself raise many types for one cause: a bad flag
  except Exception as e:
    fail(_bad_config_flag(sys.argv) or str(e))
  if rest and not takes_arguments:
    legal = '--config=configs/NAME.py, --workdir=DIR and --config.FIELD=VALUE'
    fail(f'stray argument {rest[0]!r}; legal are {legal}')
  logging.set_verbosity(logging.WARNING)  # orbax and jax tell a story at INFO that nobody asked for

  # After the flags are known to be right: an error message should not wait for jax.
  from compgen_jax.errors import UserError
  from compgen_jax.experiment import platform

  platform.prepare()
  try:
    main(*([rest] if takes_arguments else []))
  except UserError as e:
    fail(str(e))
