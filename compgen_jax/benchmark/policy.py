"""What a step of RL costs with the policy that RL starts from in a run: traces end, and most samples carry no signal."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import STEPS, Workload
from compgen_jax.config import Config, ConfigError
from compgen_jax.experiment import files, stages

STAGE = 'compound'


def require(config: Config, workdir: pathlib.Path) -> None:
  """Raises ConfigError where `workdir` holds no finished stage, of this config, that `STAGE` starts from."""
  parent = config.stages[STAGE].init_from
  if not (workdir / 'stages' / parent / 'evaluation.json').exists():
    raise ConfigError(f'policy={str(workdir)!r}: legal is the workdir of a run whose stage {parent} is finished')
  files.require_config(workdir, config, stages.MAY_DIFFER)


def measure(config: Config, workdir: pathlib.Path, repeats: int) -> dict[str, Any]:
  """Milliseconds of a step of `STAGE` (first seed) and of its rollouts, and how much of them was of use."""
  work = Workload(dataclasses.replace(config, seeds=config.all_seeds[:1]), rows=config.rl.prompts * config.rl.group)
  parent = stages.build(config.stages[STAGE].init_from, config, work.base, work.supports, workdir)
  work.params = jax.tree.map(lambda x: x[0], stages.trained_params(parent))
  step, explore = work.step(STAGE), work.explore()
  timing.in_turn([step, explore], repeats)
  metrics = {name: float(np.mean(value)) for name, value in step.call()[1].items()}
  step_ms, explore_ms = 1e3 * step.median / STEPS, 1e3 * explore.median
  return dict(
      step_milliseconds=step_ms, rollout_milliseconds=explore_ms, rollout_share=explore_ms / step_ms,
      **{name: metrics[name] for name in ('decoded_useful', 'signal', 'reward', 'length')},
  )  # fmt: skip
