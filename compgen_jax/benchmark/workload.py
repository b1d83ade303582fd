"""What is timed: an experiment's SFT and RL at one shape of the model, on all devices.

An untrained policy writes every trace to its last column. Here every sample of it is learned from
as well, so this is RL at its most expensive. (In a run, samples end, a part of a batch stops when
all its samples have ended, and samples without signal are skipped: see `policy.py`.)
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from compgen_jax import config as config_lib
from compgen_jax.benchmark.timing import Program, program
from compgen_jax.config import Config
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import programs, run
from compgen_jax.experiment.programs import Stage
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning import batches, exploration, gradients, sft
from compgen_jax.learning.devices import Devices
from compgen_jax.learning.setup import Source
from compgen_jax.learning.state import Given
from compgen_jax.task.render import Rendered

STEPS = 2  # updates a timed call
ROWS = 512  # rows of prefill, decode and RL, unless told otherwise


class Chosen(NamedTuple):
  """What of an experiment is measured: a stage of SFT, one of RL and a support of it, by name."""

  sft: str
  rl: str
  support: str


class Packed(NamedTuple):
  """Means over batches: `columns` computed in an update, those that are not padding (`useful`).

  `width` is the columns of a row.
  """

  columns: float
  useful: float
  width: int


def choose(config: Config) -> Chosen:
  """The first stage of SFT, and the stage of RL with the deepest problems (of several, the first).

  Of its supports it is the deepest one.

  Raises:
    ConfigError: the config has no stage of one of the two kinds.
  """
  of_kind: dict[str, list[str]] = {'sft': [], 'rl': []}
  for name in config.stage_order:
    of_kind.setdefault(config.stages[name].kind, []).append(name)
  for kind in ('sft', 'rl'):
    if not of_kind[kind]:
      what = f'legal is a config with a stage of kind {kind}, which is measured'
      raise ConfigError(f'stages={tuple(config.stages)}: {what}')

  def depth(support):
    return max(config.supports[support].depths)

  def deepest(stage):
    # Without given steps, if there is a choice: their prompts are the usual ones.
    return max(config.stages[stage].data, key=lambda s: (depth(s), -config.supports[s].prefix))

  rl = max(of_kind['rl'], key=lambda stage: depth(deepest(stage)))
  return Chosen(of_kind['sft'][0], rl, deepest(rl))


def only_chosen(config: ConfigDict) -> ConfigDict:
  """A copy of the experiment, unlocked, with the two measured stages alone and no contrasts.

  Raises:
    ConfigError: the config has no stage of one of the two kinds.
  """
  chosen = choose(config_lib.from_config_dict(config))
  config = config.copy_and_resolve_references().unlock()
  config.contrasts = ()
  for name in list(config.stages):
    if name not in (chosen.sft, chosen.rl):
      del config.stages[name]
  return config


def at_shape(
  config: ConfigDict,
  d_model: int,
  n_layers: int,
  rows: int = ROWS,
  *,
  sft: dict[str, Any] | None = None,
  rl: dict[str, Any] | None = None,
  **changes: Any,
) -> Config:
  """The experiment at another shape of the model, typed.

  Args:
    config: the experiment.
    d_model: width.
    n_layers: blocks.
    rows: samples of a batch of RL.
    sft: settings of the measured stage of SFT that change.
    rl: settings of the measured stage of RL that change.
    **changes: other fields that change; dots in their names as `__`.

  Raises:
    ConfigError: the config can't work so, or lacks a stage that is measured.
  """
  typed = config_lib.from_config_dict(config)
  chosen = choose(typed)
  config = config.copy_and_resolve_references()
  config.contrasts = ()  # nothing is evaluated
  config.model.update(d_model=d_model, n_layers=n_layers, d_ff=4 * d_model)
  config.stages[chosen.sft].settings.update(sft or {})
  # With a trace of an entropy bonus no update is skipped: an untrained policy has no signal.
  of_rl = dict(prompts=rows // typed.settings(chosen.rl).group, entropy=1e-6)
  config.stages[chosen.rl].settings.update(of_rl | (rl or {}))
  by_field = {name.replace('__', '.'): value for name, value in changes.items()}
  config.update_from_flattened_dict(by_field)
  return config_lib.from_config_dict(config)


class Workload:
  """The measured stages of one config on all devices of the current mesh, and their inputs.

  `rows`: rows of prefill and decode, and samples of a batch of RL.
  """

  def __init__(self, config: Config, rows: int):
    self.config, self.rows = config, rows
    self.chosen = choose(config)
    self.samplers = {
      name: support.sampler for name, support in build_supports(config, config.all_seeds[0]).items()
    }
    self.base = run.build_setup(config, jax.device_count())
    self.model, self.task = self.base.model, self.base.task
    self.key = jax.random.key(0)
    self.params = jax.jit(self.model.init_params)(jax.random.key(1))
    self.support = config.supports[self.chosen.support]
    depth = max(self.support.depths)
    self.n_prompt, self.n_trace = self.task.prompt_width(depth), self.task.trace_width(depth)

  def stage(self, name: str, n_seeds: int = 1) -> Stage:
    """A stage of the config, for `n_seeds` seeds side by side; nothing is read or written."""
    return programs.build(name, self.config, self.base, pathlib.Path(), n_seeds)

  # Programs ---------------------------------------------------------------------------------------

  def on_devices(self, function: Callable, *args: Any, row_outputs: bool = True) -> Program:
    """`function`, which sees its device's share of a batch, compiled for all devices."""
    return program(self.base.devices.shared(function, row_outputs), *args)

  def step(self, name: str, n_seeds: int = 1) -> Program:
    """STEPS updates of a stage in one dispatch, of `n_seeds` seeds side by side."""
    stage = self.stage(name, n_seeds)
    params = jax.tree.map(lambda x: jnp.stack([x] * n_seeds), self.params)
    state = programs.initial_state(stage.setup, params)
    samplers = jax.tree.map(lambda x: jnp.stack([x] * n_seeds), self.samplers)
    keys, rates = jax.random.split(self.key, n_seeds), stage.rates_from(0, n_seeds)
    given = Given(keys, params, samplers, rates)
    return program(programs.updates(stage), state, given, STEPS, carry=True)

  def explore(self) -> Program:
    """What an update of RL does before it learns: problems, their rollouts, verdicts on them."""
    setup, settings = self.stage(self.chosen.rl).setup, self.config.settings(self.chosen.rl)

    def explore(params, key):
      return exploration.explore(
        setup,
        params,
        key,
        self.samplers,
        group=settings.group,
        temperature=settings.temperature,
        reward=settings.reward,
      )

    return self.on_devices(explore, self.params, self.key)

  # Inputs -----------------------------------------------------------------------------------------

  def rendered(self, key: jax.Array, rows: int) -> Rendered:
    """This device's part of `rows` problems of the measured support."""
    sources = (Source(self.chosen.support, self.support, rows),)
    return batches.draw(key, sources, self.samplers, self.base)[2]

  def sft_rows(self, key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """This device's packed rows of a batch of SFT: `(rows, n_rows)`."""
    setup = self.stage(self.chosen.sft).setup
    return sft.golden_rows(key, setup.sources, self.samplers, setup)

  def rl_rows(self, key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """The same of RL, every sample written to its last column; tokens are left out."""
    setup, group = self.stage(self.chosen.rl).setup, self.config.settings(self.chosen.rl).group
    rendered = exploration.pose(key, self.samplers, setup).rendered
    prompt_BxP = jnp.repeat(rendered.prompt, group, axis=0)
    trace_BxC = jnp.zeros((prompt_BxP.shape[0], rendered.trace.shape[1]), jnp.int32)
    return batches.pack(setup, prompt_BxP, trace_BxC, jnp.ones(trace_BxC.shape, bool), {})

  def whole_batch(self, name: str) -> Rendered:
    """A stage's batch as one device would draw it."""
    setup = dataclasses.replace(self.stage(name).setup, devices=Devices())
    return jax.jit(lambda key: batches.draw(key, setup.sources, self.samplers, setup)[2])(self.key)

  def packed(self, rows_of: Callable, n_batches: int = 16) -> Packed:
    """How many columns `rows_of(key) -> (rows, n_rows)` makes, over all devices."""
    devices = self.base.devices

    def count(key):
      rows, n_rows = rows_of(key)
      n, width = rows['document'].shape
      cut = gradients.microbatches(self.base, n, n_rows)
      columns = width * sum(size * count for size, count in cut)
      return jnp.stack([columns, jnp.sum(rows['document'] > 0), width])[None]

    counts_of = jax.jit(devices.shared(count, row_outputs=True))
    # To the host one by one: several sums over devices in flight can wait for each other for ever
    # on CPU.
    counts = [jax.device_get(counts_of(jax.random.fold_in(self.key, i))) for i in range(n_batches)]
    columns, useful, _ = np.mean([np.sum(c, axis=0) for c in counts], axis=0)
    return Packed(float(columns), float(useful), int(counts[0][0, 2]))
