"""Quickstart: SFT, then RL on atoms, RL on compounds, or more SFT.

  launch/run.sh
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
  config = default.get_config()
  config.experiment = 'quickstart'
  return config
