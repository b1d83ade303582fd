"""Problems as JSONL, for a model that is trained elsewhere (`compgen_jax.verifier` judges it)."""

import json
import os
import pathlib
from typing import Any

from compgen_jax import config as config_lib
from compgen_jax.config import Config
from compgen_jax.experiment import files, platform, problems


def export(config: Any, support: str, n: int, path: str | os.PathLike) -> None:
  """Writes n problems of a support, a line of JSON each, in one step.

  A line holds `id`, `prompt`, `trace` (golden), `answer` (text), `inputs` (two strings), `depth`,
  `modules` (a [routing mechanism, skill] per step), `support`, and `alphabet` and `reserved` (see
  `task.text`). Line i is a function of (config.seed, support, i).

  Args:
    config: a ConfigDict as made by configs/*.py, or the typed `Config`.
    support: an entry of `config.supports` that is not dry and has no prefix.
    n: how many.
    path: the file; what it held is replaced.

  Raises:
    ConfigError: the config can't work, or the support is none that can be solved.
  """
  if not isinstance(config, Config):
    config = config_lib.from_config_dict(config)
  platform.prepare()
  lines = [json.dumps(problem.line()) for problem in problems.draw(config, support, n)]
  files.write_text(pathlib.Path(path), '\n'.join(lines) + '\n')
