"""Another config, measured on the validation pool as well: what the theory fits its regressions on.

  WORKDIR=DIR launch/run.sh configs/with_validation.py:finding2
  .venv/bin/python -m compgen_jax.theory --workdir=DIR

In the workdir of a finished run (with checkpoints) nothing is trained: each stage is evaluated on
the new split `validation`, which is not reported. Without it regressions are fitted on one half of
the reported problems and judged on the other. NAME:SIZE, such as `finding3:small`, works too.
"""

import importlib

from ml_collections import ConfigDict

from configs import default


def get_config(name: str = 'quickstart') -> ConfigDict:
  name, _, size = name.partition(':')
  made = importlib.import_module(f'configs.{name}').get_config
  config = made(size) if size else made()
  measured = (config.supports[s] for s in config.eval.splits.values())
  deepest = max(max(support.depths) for support in measured if support.pool == 'test')
  config.supports.validation = default.support(
    pool='validation', depths=tuple(range(2, deepest + 1))
  )
  config.eval.splits.validation = 'validation'
  return config
