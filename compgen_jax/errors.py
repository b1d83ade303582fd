"""What goes wrong in a way that a user can mend: each is one line, and ends a command with status
2."""


class UserError(Exception):
  """One line that names what is wrong and what is legal, or what to do."""


class ConfigError(UserError, ValueError):
  """A config, a flag or a workdir that can't work; nothing was overwritten."""


class CheckpointError(UserError):
  """A checkpoint that can't be written or read."""


class DamageError(UserError):
  """A file that does not hold what was once written to it."""


class LeakError(UserError):
  """An evaluated composition is in training data."""


class DivergedError(UserError):
  """Training produced NaN or infinity."""
