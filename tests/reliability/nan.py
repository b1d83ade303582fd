"""NaN and infinity wherever they can come from: skipped, counted, never saved. Several in a row
stop a run, with status 3.

python -m tests.reliability.nan
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import compgen_jax
from compgen_jax.config import from_config_dict
from compgen_jax.errors import DivergedError
from compgen_jax.experiment import programs, run
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning import exploration, policy_gradient, rejection, sft
from compgen_jax.learning.kinds import KINDS, Kind
from compgen_jax.learning.sft import SFTConfig
from compgen_jax.learning.state import Given
from tests import models
from tests.experiments import history, tiny
from tests.reliability import trial

MODULES = {'sft': sft, 'rl': policy_gradient, 'rft': rejection}
OF_ALL = ('loss', 'gradient', 'new parameters')
PLACES = {
  'sft': OF_ALL,
  'rl': (*OF_ALL, 'reward', 'sampled log-probability'),
  'rft': (*OF_ALL, 'reward'),
}
BAD = {'nan': np.nan, 'inf': np.inf, '-inf': -np.inf}


def _first_set(x: jax.Array, when: jax.Array, bad: jax.Array) -> jax.Array:
  """The array, its first element `bad` where `when`."""
  flat = x.reshape(-1)
  return flat.at[0].set(jnp.where(when, bad, flat[0])).reshape(x.shape)


def _first_leaf_set(tree, when, bad):
  leaves, structure = jax.tree.flatten(tree)
  return jax.tree.unflatten(structure, [_first_set(leaves[0], when, bad), *leaves[1:]])


@contextlib.contextmanager
def poison(kind: str, place: jax.Array, bad: jax.Array) -> Iterator[None]:
  """What is traced inside brings `bad` at `place`, an index into the kind's PLACES (others:
  nowhere)."""
  update, explore, apply = MODULES[kind].update, exploration.explore, optax.apply_updates

  def at(name):
    return place == PLACES[kind].index(name) if name in PLACES[kind] else False

  def of_update(state, grads, metrics, *args):
    grads = _first_leaf_set(grads, at('gradient'), bad)
    metrics = metrics | {'loss': _first_set(metrics['loss'], at('loss'), bad)}
    return update(state, grads, metrics, *args)

  def of_explore(*args, **kwargs):
    e = explore(*args, **kwargs)
    sampled = _first_set(e.rollout.log_probs, at('sampled log-probability'), bad)
    rollout = e.rollout._replace(log_probs=sampled)
    return e._replace(reward=_first_set(e.reward, at('reward'), bad), rollout=rollout)

  def of_apply(params, updates):
    return _first_leaf_set(apply(params, updates), at('new parameters'), bad)

  with (
    mock.patch.object(MODULES[kind], 'update', of_update),
    mock.patch.object(exploration, 'explore', of_explore),
    mock.patch.object(optax, 'apply_updates', of_apply),
  ):
    yield


def faults(kind: str) -> tuple[int, list[str]]:
  """`(places tried, those where an update was not skipped whole)` of a stage of `tiny`."""
  config = from_config_dict(tiny())
  base = dataclasses.replace(run.build_setup(config, 1))
  stage = programs.build(kind, config, base, pathlib.Path('nowhere'))
  samplers = {name: support.sampler for name, support in build_supports(config, 0).items()}
  params = jax.tree.map(lambda x: x[0], programs.initial_params(stage.setup, (0,)))
  given = Given(jax.random.key(0), params, samplers, jnp.asarray(stage.rates_from(0, 1)[0]))
  state = jax.tree.map(
    lambda x: x[0],
    programs.initial_state(stage.setup, jax.tree.map(lambda x: x[None], params)),
  )

  @models.quick_jit
  def step(state, place, bad):
    with poison(kind, place, bad):
      return config.kind(kind).step(state, given, stage.setup, config.settings(kind))

  healthy, metrics = step(state, -1, 0.0)
  found = [] if metrics['finite'] == 1.0 else ['an update without fault was skipped']
  for i, place in enumerate(PLACES[kind]):
    for name, bad in BAD.items():
      # In the middle of training: there are moments that could be spoiled.
      new, metrics = step(healthy, i, bad)
      same = jax.tree.map(
        lambda a, b: np.array_equal(a, b),
        (new.params, new.opt_state),
        (healthy.params, healthy.opt_state),
      )
      if metrics['finite'] != 0.0 or not all(jax.tree.leaves(same)) or new.step != 2:
        found.append(f'{kind}: {name} in {place}')
  return len(PLACES[kind]) * len(BAD), found


def skipped_in_a_run(updates: tuple[int, ...], workdir: pathlib.Path) -> list[int]:
  """`skipped` of the metrics rows of an SFT stage of 12 updates (a row each 3), some of them
  poisoned.

  Raises:
    DivergedError: too many in a row were.
  """
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=(), run__checkpoint_every=3)
  for name in ('rl', 'rft'):
    del config.stages[name]
  whole = sft.update

  def update(state, grads, *args):
    when = jnp.isin(state.step + 1, jnp.asarray(updates))
    return whole(state, _first_leaf_set(grads, when, np.nan), *args)

  # A step of its own: programs of one step are compiled once a process.
  def step(*args):
    with mock.patch.object(sft, 'update', update):
      return sft.step(*args)

  with mock.patch.dict(KINDS, sft=Kind(SFTConfig, step)):
    compgen_jax.run(config, workdir)
  return [row['skipped'] for row in history(workdir, 'sft')]


def status_of_a_divergence(workdir: pathlib.Path) -> tuple[int, str, int]:
  """`(exit status, stderr, updates of the newest checkpoint)` of a run at a hopeless rate."""
  flags = ('sft.warmup=0', 'sft.lr=1.0', 'optimizer.muon_scale=1e38', 'run.checkpoint_every=1')
  process = trial.start(workdir, *flags)
  _, stderr = process.communicate(timeout=600)
  return process.returncode, stderr, trial.newest(workdir, 'sft')


def main():
  tried, found = 0, []
  for kind in PLACES:
    n, of_kind = faults(kind)
    tried, found = tried + n, found + of_kind
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    skipped = skipped_in_a_run((2, 4, 5, 9), folder / 'some')
    if skipped != [1, 2, 1, 0]:
      found.append(f'skipped {skipped}, not [1, 2, 1, 0]')
    try:
      skipped_in_a_run((3, 4, 5), folder / 'many')
      found.append('three in a row did not stop the run')
    except DivergedError:
      if (saved := trial.newest(folder / 'many', 'sft')) != 3:
        found.append(f'newest checkpoint {saved}, not 3')
    status, stderr, _ = status_of_a_divergence(folder / 'hopeless')
    errors = [line for line in stderr.splitlines() if line.startswith('error: ')]
    if status != 3 or len(errors) != 1 or 'Traceback' in stderr:
      found.append(f'status {status}: {stderr[-300:]!r}')
  figures = f'{tried - len(found)} of {tried} places skipped whole; three in a row: status {status}'
  trial.report('nan', not found, figures, found)


if __name__ == '__main__':
  main()
