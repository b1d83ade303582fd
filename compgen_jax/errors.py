"""What goes wrong in a way that a user can mend: each is one line, and ends a command with the exit
status of its class."""

from typing import ClassVar


class UserError(Exception):
  """One line that names what is wrong and what is legal, or what to do."""

  exit_status: ClassVar[int] = 2


class ConfigError(UserError, ValueError):
  """A config, a flag or a workdir that can't work; nothing was overwritten."""


class CheckpointError(UserError):
  """A checkpoint that can't be written or read."""


class DamageError(UserError):
  """A file that does not hold what was once written to it."""


class StorageError(UserError):
  """A file that can't be written."""


class LeakError(UserError):
  """An evaluated composition is in training data."""


class DivergedError(UserError):
  """Training produced NaN or infinity, or sampler and learner parted."""

  exit_status = 3


class PeerError(UserError):
  """Another process of the run is gone, or has not come."""

  exit_status = 4


class Interrupted(UserError):
  """SIGTERM or Ctrl-C; what there was to save is saved."""

  exit_status = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again
