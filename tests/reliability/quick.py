"""A config file: `tests.experiments.tiny`, whose programs the tests have compiled."""

from tests.experiments import tiny


def get_config():
  return tiny()
