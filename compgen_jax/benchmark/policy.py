"""What an update of RL costs with the policy that RL starts from in a run.

Its traces end, and most of its samples carry no signal.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import STEPS, Workload, choose
from compgen_jax.config import Config
from compgen_jax.experiment import stages


def workload(config: Config, workdir: pathlib.Path) -> Workload:
  """A workload with the parameters that RL starts from in the run in `workdir` (its first seed).

  Raises:
    ConfigError: the stage that RL starts from was trained under another config.
    CheckpointError: it has not finished, or its checkpoint can't be read.
  """
  chosen = choose(config)
  rl = config.settings(chosen.rl)
  work = Workload(config, rows=rl.prompts * rl.group)
  parent = dataclasses.replace(work.stage(config.stages[chosen.rl].init_from), workdir=workdir)
  params = stages.trained_params(parent, config.all_seeds[:1])
  work.params = jax.tree.map(lambda x: x[0], params)
  return work


def measure(work: Workload, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
  """Milliseconds of an update of RL and of its rollouts, and how much of them was of use.

  Also returns int[B], the tokens of each sample of a batch.
  """
  step, explore = work.step(work.chosen.rl), work.explore()
  timing.in_turn([step, explore], repeats)
  metrics = {name: float(np.mean(value)) for name, value in step.call()[1].items()}
  step_ms, rollout_ms = 1e3 * step.median / STEPS, 1e3 * explore.median
  times = dict(
    step_milliseconds=step_ms,
    rollout_milliseconds=rollout_ms,
    rollout_share=rollout_ms / step_ms,
  )
  of_use = {name: metrics[name] for name in ('decoded_useful', 'signal', 'reward', 'length')}
  length_B = np.sum(jax.device_get(explore.call().rollout.mask), axis=1)
  return times | of_use, length_B
