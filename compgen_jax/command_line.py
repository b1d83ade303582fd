"""What the commands share: flags in, one line out for a user's mistake, exit status 0 only when all
went well."""

import functools
import glob
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from compgen_jax import usage
from compgen_jax.errors import Interrupted, UserError
from compgen_jax.experiment import interruption, lifeline

LEGAL = '--config=configs/NAME.py, --workdir=DIR and --config.FIELD=VALUE'
FILE = 'a Python file whose get_config() returns a ConfigDict, as those of configs/ do'


class _ConfigFile(flags.ArgumentParser):
  """Loads the file that --config names, once.

  Whatever is wrong with the file is a UserError of one line.
  """

  loaded: ConfigDict | None = None

  def parse(self, path: str) -> ConfigDict:
    self.loaded = load_config(path)
    self.loaded.lock()
    return self.loaded


def _define_config() -> flags.FlagHolder:
  holder = config_flags.DEFINE_config_file(
    'config', None, 'Experiment: a configs/NAME.py, or the config.json of a run.', lock_config=True
  )
  flags.FLAGS['config'].parser = _ConfigFile()
  return holder


# Here, because a flag can be defined once in a process, and tests import several commands into one.
CONFIG = _define_config()
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints and results of a run.')


def require(**values: Any) -> None:
  """Exits with one line where a flag that is needed was not given."""
  for name, value in values.items():
    if not value:
      fail(f'--{name} is missing; legal is --config=configs/NAME.py --workdir=DIR')


def fail(message: str, status: int = 2) -> None:
  """Ends the run with one line on stderr and an exit status."""
  line = f'error: {" ".join(message.split())}'
  if here := lifeline.current():
    here.end(status, line if here.is_lead else f'{line} (process {here.index})')
  print(line, file=sys.stderr)
  sys.exit(status)


def load_config(given: str) -> ConfigDict:
  """The config that --config=FILE or --config=FILE:ARGUMENT asks for.

  Raises:
    UserError: there is no such file, or it does not work.
  """
  path, *argument = given.split(':', 1)
  if path.endswith('.json') and os.path.isfile(path):
    path, argument = os.path.join(os.path.dirname(__file__), 'from_json.py'), [given]
  if not os.path.isfile(path):
    legal = ' | '.join(sorted(glob.glob('configs/*.py')))
    raise UserError(f'--config={path}: no such file; legal is {legal}')
  # A stranger's code: it may end in any way, by `exit()` too.
  try:
    spec = importlib.util.spec_from_loader(
      'config_file', importlib.machinery.SourceFileLoader('config_file', path)
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*argument)
  except (Exception, SystemExit) as e:
    raise UserError(f'--config={given}: {_what_failed(e, path)}; legal is {FILE}') from e
  if not isinstance(config, ConfigDict):
    what = f'get_config() returned {config!r:.80}'
    raise UserError(f'--config={given}: {what}; legal is {FILE}')
  return config


def _what_failed(e: BaseException, path: str) -> str:
  """An error in a config file, with its line."""
  lines = [
    line for frame, line in traceback.walk_tb(e.__traceback__) if frame.f_code.co_filename == path
  ]
  if isinstance(e, SyntaxError) and e.filename == path:
    lines = [e.lineno]
  where = f'line {lines[-1]}: ' if lines and lines[-1] else ''
  if isinstance(e, SystemExit):
    return f'{where}it ends the program (exit status {e.code})'
  text = e.msg if isinstance(e, SyntaxError) else str(e)
  return f'{where}{type(e).__name__}: {text:.200}'


def _bad_flag(argv: list[str], e: Exception) -> str:
  """What is wrong with the flags: the first field that the config does not have, or else what the
  parser says."""
  config = flags.FLAGS['config'].parser.loaded if 'config' in flags.FLAGS else None
  for arg in argv[1:] if config is not None else ():
    node, path = config, re.sub('^--?config[.]', '', arg).split('=')[0]
    for name in path.split('.') if re.match('--?config[.]', arg) else ():
      if not hasattr(node, 'keys') or name not in node:
        legal = ', '.join(node) if hasattr(node, 'keys') else 'none, it is a value'
        return f'config.{path}: no such field as {name!r}; legal there: {legal}'
      node = node[name]
  bad_value = re.match(r'flag --config[.]([\w.]+)=(.*?): ', str(e), re.DOTALL)
  if bad_value and config is not None:
    *sections, field = bad_value[1].split('.')
    node = functools.reduce(lambda node, name: node[name], sections, config)
    kind = node.get_type(field)
    wanted = (
      'a section is wanted; set its fields' if kind is ConfigDict else f'{kind.__name__} is wanted'
    )
    return f'config.{bad_value[1]}={bad_value[2]}: {wanted}'
  if config is None and any(re.match('--?config[.]', arg) for arg in argv[1:]):
    return '--config is missing before --config.FIELD; legal is --config=configs/NAME.py first'
  return f'{e}; legal are {LEGAL}'


def launch(main: Callable[..., None], takes_arguments: bool = False) -> None:
  """Parses the flags and runs `main`.

  Mistakes of the user, and signals, end in one line and the exit status that `errors.py` names.

  `takes_arguments`: `main` gets the list of what stands behind the flags; else that is a mistake.
  """
  interruption.watch()
  flags.FLAGS.set_default('logtostderr', True)
  if {'--help', '-h'} & set(sys.argv[1:]):
    print(usage.text(sys.argv[0]), end='')
    sys.exit(0)
  try:
    rest = flags.FLAGS(sys.argv)[1:]
  except UserError as e:
    fail(str(e))
  except Exception as e:  # absl and ml_collections raise many types for one cause: a bad flag
    fail(_bad_flag(sys.argv, e))
  if rest and not takes_arguments:
    fail(f'stray argument {rest[0]!r}; legal are {LEGAL}')
  logging.set_verbosity(logging.WARNING)  # orbax and jax tell a story at INFO that nobody asked for

  # After the flags are known to be right: an error message should not wait for jax.
  from compgen_jax.experiment import platform

  platform.prepare()
  try:
    main(*([rest] if takes_arguments else []))
  except Interrupted as e:
    interruption.end(str(e))
  except UserError as e:
    fail(str(e), e.exit_status)
  except Exception:
    if here := lifeline.current():
      here.crash()
    if platform.has_device():
      raise
    wanted = os.environ.get('JAX_PLATFORMS')
    fail(
      f'JAX_PLATFORMS={wanted!r}: jax finds no such device here; legal is cpu, or to leave it out'
    )
