"""What the commands share: flags in, one line out for a user's mistake, exit status 0 only when all went well."""

import sys
from typing import Any, Callable

from absl import flags, logging


def require(**values: Any) -> None:
  """Exits with one line where a flag that is needed was not given."""
  for name, value in values.items():
    if not value:
      fail(f'--{name} is missing; legal is --config=configs/NAME.py --workdir=DIR')


def fail(message: str) -> None:
  """Ends the process with one line on stderr and exit status 2."""
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def launch(main: Callable[[], None]) -> None:
  """Parses the flags and runs `main`; mistakes of the user end in one line and exit status 2."""
  flags.FLAGS.set_default('logtostderr', True)
  try:
    rest = flags.FLAGS(sys.argv)[1:]
  except Exception as e:  # absl, ml_collections and the config file itself raise many types for one cause: a bad flag
    fail(str(e))
  if rest:
    fail(f'stray argument {rest[0]!r}; legal are --config=configs/NAME.py, --workdir=DIR and --config.FIELD=VALUE')
  logging.set_verbosity(logging.WARNING)  # orbax and jax tell a story at INFO that nobody asked for

  # After the flags are known to be right: an error message should not wait for jax.
  from compgen_jax.config import ConfigError
  from compgen_jax.experiment import platform
  from compgen_jax.experiment.checkpoint import CheckpointError
  from compgen_jax.experiment.evaluate import LeakError
  from compgen_jax.experiment.stages import DivergedError

  platform.prepare()
  try:
    main()
  except (ConfigError, CheckpointError, LeakError, DivergedError) as e:
    fail(str(e))
