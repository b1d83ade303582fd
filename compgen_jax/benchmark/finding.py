"""Minutes of training until RL on compounds shows finding 1: right at L = 4 where SFT is not.

The stages of SFT and RL that `workload.choose` picks are trained as in a run. The split of deeper
problems is drawn from the validation pool and looked at every few updates. The time is that of
updates alone: installing, compiling and evaluating are left out.
"""

import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from compgen_jax import config as config_lib
from compgen_jax.benchmark import timing, workload
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import files, run, workdirs

SPLIT, DEPTH = 'deeper', 4
TARGET = 0.40  # accuracy that RL passes
PARENT = 0.15  # accuracy of SFT at most, or there is little to show
EVERY = 20  # updates of RL from one look to the next; twice a row of metrics
PROBLEMS = 512  # of a look


def prepared(config: ConfigDict) -> ConfigDict:
  """The experiment cut down to the two stages, its deeper split in the validation pool.

  Raises:
    ConfigError: there is no such split, or it lacks the depth.
  """
  config = workload.only_chosen(config)
  support = config.supports.get(config.eval.splits.get(SPLIT, ''))
  if support is None or DEPTH not in support.depths:
    raise ConfigError(f'eval.splits.{SPLIT}: legal is a split with problems of {DEPTH} steps')
  support.pool, support.depths = 'validation', (DEPTH,)
  config.eval.splits = ConfigDict({SPLIT: config.eval.splits[SPLIT]})
  config.eval.trained = ()
  config.eval.pass_k = ()
  config.eval.update(curve=(SPLIT,), every=EVERY, curve_problems=PROBLEMS, problems=PROBLEMS)
  config.run.steps_per_call = EVERY // 2
  return config


def measure(config: ConfigDict) -> dict[str, Any]:
  """Trains all replicates of a `prepared` config; what each took, and the median.

  A replicate that does not pass the target, or whose SFT is above PARENT already, counts as
  infinitely slow: `minutes` is then None, and so is the median where half of them are.
  """
  typed = config_lib.from_config_dict(config)
  chosen = workload.choose(typed)
  with tempfile.TemporaryDirectory() as name:
    run.run(config, name)
    each = [
      of_replicate(pathlib.Path(name), typed, chosen.sft, chosen.rl, s) for s in typed.all_seeds
    ]
  return dict(
    split=SPLIT,
    depth=DEPTH,
    target=TARGET,
    parent_at_most=PARENT,
    minutes=median([one['minutes'] for one in each]),
    replicates=each,
  )


def of_replicate(
  workdir: pathlib.Path, config: config_lib.Config, sft: str, rl: str, seed: int
) -> dict[str, Any]:
  """One replicate: its curve at L = 4, and minutes of SFT and of RL up to the target."""
  folder = workdirs.stage_folder(workdir, rl, seed)
  curve = [
    (row['step'], row['value'])
    for row in files.read_sealed_jsonl(folder / 'curve.jsonl')
    if (row['split'], row['depth'], row['metric']) == (SPLIT, DEPTH, 'accuracy')
  ]
  sft_s = timing.update_s(workdirs.stage_folder(workdir, sft, seed), EVERY)
  sft_minutes = config.stages[sft].steps * sft_s / 60
  each_s = timing.update_s(folder, EVERY)
  passed = next((step for step, value in curve if value >= TARGET), None)
  rl_minutes = None if passed is None or curve[0][1] > PARENT else passed * each_s / 60
  return dict(
    seed=seed,
    sft=curve[0][1],
    best=max(value for _, value in curve),
    passed_after=passed,
    sft_minutes=sft_minutes,
    rl_minutes=rl_minutes,
    minutes=None if rl_minutes is None else sft_minutes + rl_minutes,
  )


def median(minutes: Sequence[float | None]) -> float | None:
  """The median, where None is slower than anything."""
  slow = float('inf')
  middle = statistics.median(slow if m is None else m for m in minutes)
  return None if middle == slow else middle
