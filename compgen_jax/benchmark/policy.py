"""What a step of RL costs with the policy that RL starts from in a run: traces end, and most
samples carry no signal."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import RL, STEPS, Workload
from compgen_jax.config import Config, ConfigError
from compgen_jax.experiment import files, stages


def require(config: Config, workdir: pathlib.Path) -> None:
  """Raises ConfigError where `workdir` holds no finished stage, of this config, that RL starts
  from."""
  parent = config.stages[RL].init_from
  if not stages.is_finished(workdir / 'stages' / parent):
    raise ConfigError(
      f'policy={str(workdir)!r}: legal is the workdir of a run whose stage {parent} is finished'
    )
  files.require_config(workdir, config, stages.MAY_DIFFER)


def workload(config: Config, workdir: pathlib.Path) -> Workload:
  """A workload (first seed) with the parameters that RL starts from."""
  work = Workload(
    dataclasses.replace(config, seeds=config.all_seeds[:1]),
    rows=config.rl.prompts * config.rl.group,
  )
  parent = stages.build(config.stages[RL].init_from, config, work.base, work.supports, workdir)
  work.params = jax.tree.map(lambda x: x[0], stages.trained_params(parent))
  return work


def measure(work: Workload, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
  """Milliseconds of a step of RL and of its rollouts, and how much of them was of use; int[B],
  tokens of each sample."""
  step, explore = work.step(RL), work.explore()
  timing.in_turn([step, explore], repeats)
  metrics = {name: float(np.mean(value)) for name, value in step.call()[1].items()}
  step_ms, explore_ms = 1e3 * step.median / STEPS, 1e3 * explore.median
  found = dict(
      step_milliseconds=step_ms, rollout_milliseconds=explore_ms, rollout_share=explore_ms / step_ms,
      **{name: metrics[name] for name in ('decoded_useful', 'signal', 'reward', 'length')},
  )  # fmt: skip
  return found, np.sum(jax.device_get(explore.call().rollout.mask), axis=1)
