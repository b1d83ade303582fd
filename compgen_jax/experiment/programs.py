"""The compiled programs of a stage, and the arrays that they start from.

The replicates of a group train side by side, as one program: arguments and results have a leading
replicate axis.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from compgen_jax.config import Config
from compgen_jax.experiment.record import Record
from compgen_jax.learning import optimizer, sharding
from compgen_jax.learning.devices import REPLICATE, REPLICATES, Devices
from compgen_jax.learning.section import Section
from compgen_jax.learning.setup import Setup, Source
from compgen_jax.learning.state import TrainState, create

INITIAL = 'initial parameters'  # a purpose of randomness; no stage can be called so


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage that can be run: its parts, put together from the config."""

  name: str
  config: Config
  setup: Setup
  workdir: pathlib.Path
  wait: Callable[[], Any] = lambda: None  # until another thread has compiled the program

  @property
  def steps(self) -> int:
    return self.config.stages[self.name].steps

  @property
  def init_from(self) -> str:
    return self.config.stages[self.name].init_from

  def record(self, seed: int) -> Record:
    """What a replicate of the stage keeps on disk."""
    return Record(self.workdir, self.config, self.name, seed)

  @functools.cached_property
  def rates(self) -> np.ndarray:
    """float32[steps]: the learning rate of each update."""
    return self.config.settings(self.name).rates(self.steps)

  def rates_from(self, done: int, n_replicates: int) -> np.ndarray:
    """float32[n_replicates, K], K = run.steps_per_call: `Given.learning_rate_K` for the updates
    after `done`."""
    most = self.config.run.steps_per_call
    updates = np.minimum(np.arange(done, done + most), self.steps - 1)
    return np.tile(np.roll(self.rates[updates], done % most), (n_replicates, 1))

  @property
  def advance(self) -> Callable:
    """The compiled `(state, given, n) -> (state, metrics)`: see `updates`."""
    self.wait()
    return updates(self)


def build(
  name: str, config: Config, base: Setup, workdir: pathlib.Path, n_replicates: int = 1
) -> Stage:
  """Puts a stage together from `base` (task, model, devices); compiles nothing."""
  stage, settings = config.stages[name], config.settings(name)
  setup = dataclasses.replace(
    base,
    tx=optimizer.make(config.optimizer, settings.optimizer),
    sources=_sources(config, zip(stage.data, config.stage_rows(name))),
    anchor=_sources(config, config.anchor_rows(name).items()),
    devices=base.devices.for_training(n_replicates),
  )
  return Stage(name, config, setup, workdir)


def _sources(config: Config, rows: Iterable[tuple[str, int]]) -> tuple[Source, ...]:
  return tuple(Source(name, config.supports[name], n) for name, n in rows)


def updates(stage: Stage) -> Callable:
  """The compiled `(state, given, n) -> (state, metrics)`: n updates in one dispatch.

  Arguments and results have a leading replicate axis, metrics behind it one of
  `run.steps_per_call` updates, of which the first n are filled. n is traced, so one program serves
  every number; the state is donated. With several devices the whole loop runs inside one
  `shard_map`: devices meet only where a step sums over the batch.
  """
  config, name = stage.config, stage.name
  most = config.run.steps_per_call
  return _updates(stage.setup, config.settings(name).program, config.kind(name).step, most)


@functools.cache
def _updates(setup: Setup, config: Section, step: Callable, most: int) -> Callable:
  """One program for all stages alike, so that a second run in a process compiles nothing again."""

  # Under jit, so that it is traced once for its shapes and for the loop.
  @jax.jit
  def one(state, given):
    return over_replicates(lambda s, g: step(s, g, setup, config), setup.devices)(state, given)

  def keep(state):
    return sharding.keep_split(state, setup.devices.model, (None,))

  def run(state, given, n):
    shapes = jax.eval_shape(one, state, given)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros((*x.shape, most), x.dtype), shapes)

    def body(i, carry):
      state, filled = carry
      state, metrics = one(state, given)
      return keep(state), jax.tree.map(lambda x, new: x.at[..., i].set(new), filled, metrics)

    state, filled = jax.lax.fori_loop(0, n, body, (state, zeros))
    return keep(state), filled

  return jax.jit(setup.devices.spread(run), donate_argnums=0)


def over_replicates(f: Callable, devices: Devices) -> Callable:
  """`f` on arguments with a leading replicate axis."""
  if devices.n_replicates > 1:
    return jax.vmap(f, axis_name=REPLICATES)

  def alone(*args):
    out = f(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: x[None], out)

  return alone


def key_for(seed: jax.Array, purpose: str) -> jax.Array:
  """The randomness of a seed for a purpose, e.g. a stage by its name."""
  return jax.random.fold_in(jax.random.key(seed), jnp.uint32(zlib.crc32(purpose.encode())))


def initial_params(setup: Setup, seeds: tuple[int, ...]) -> Any:
  """Fresh parameters, one replicate a seed."""
  params = _initial_params(setup, jnp.asarray(seeds))
  return placed(setup, params) if setup.devices.model > 1 else params


@functools.partial(jax.jit, static_argnames='setup')
def _initial_params(setup: Setup, seeds: jax.Array) -> Any:
  params = jax.vmap(lambda seed: setup.model.init_params(key_for(seed, INITIAL)))(seeds)
  return sharding.keep_split(params, setup.devices.model, (None,))


@functools.partial(jax.jit, static_argnames='setup')
def initial_state(setup: Setup, params: Any) -> TrainState:
  """The state before the first update, from parameters with a leading replicate axis.

  (They are copied, because the training loop takes the state's memory over.)
  """
  state = jax.vmap(lambda p: create(setup, jax.tree.map(jnp.copy, p)))(params)
  return sharding.keep_split(state, setup.devices.model, (None,))


def replicated(tree: Any) -> Any:
  """Arrays on every device of the current mesh, if there is one."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return tree
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def placed(setup: Setup, tree: Any, lead: tuple[str | None, ...] = (None,)) -> Any:
  """Parameters or a state on every device of the current mesh, or split where that has an axis for
  it; `lead`: as in `sharding.spec`, by default of replicates that are everywhere."""
  n, mesh = setup.devices.model, jax.sharding.get_mesh()
  if n == 1:
    return replicated(tree)
  specs = sharding.specs(tree, n, lead)
  return jax.device_put(tree, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))


def spread(setup: Setup, state: TrainState) -> TrainState:
  """The state with every replicate on the devices that train it."""
  if setup.devices.model > 1:
    return placed(setup, state, (REPLICATE if setup.devices.groups > 1 else None,))
  if setup.devices.groups == 1:
    return state
  mesh = jax.sharding.get_mesh()
  return jax.device_put(state, NamedSharding(mesh, PartitionSpec(REPLICATE)))
