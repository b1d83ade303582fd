"""Does the digest of a checkpoint see damage, and what does it cost?

  python -m tests.reliability.digest [n]

Damages the state of a stage in memory, n times (1,500) in each way, and prints one line: how often
the digest stayed the same, and how long it takes beside a save. Exits with 1 where one was missed
or where it takes LIMIT of a save or more.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from compgen_jax.config import from_config_dict
from compgen_jax.experiment import programs, run
from compgen_jax.experiment.checkpoint import StageCheckpoints, digest
from configs import quickstart

LIMIT = 0.01  # of the time of a save
SIGN = 31  # the bit of a float32 that is its sign

Leaves = list[np.ndarray]


def _pick(leaves: Leaves, rng: np.random.Generator) -> tuple[np.ndarray, int]:
  """A random element of all arrays: its array's bits, which may be written to, and its place."""
  at = int(rng.integers(sum(leaf.size for leaf in leaves)))
  for leaf in leaves:
    if at < leaf.size:
      return leaf.reshape(-1).view(np.uint32), at
    at -= leaf.size
  raise AssertionError


def one_flip(leaves: Leaves, rng: np.random.Generator) -> None:
  bits, at = _pick(leaves, rng)
  bits[at] ^= np.uint32(1 << int(rng.integers(32)))


def two_flips(leaves: Leaves, rng: np.random.Generator) -> None:
  """Of one bit in two elements of one array: what sums cancel most easily."""
  bits, at = _pick(leaves, rng)
  _flip_pair(bits, at, int(rng.integers(32)), rng)


def two_signs(leaves: Leaves, rng: np.random.Generator) -> None:
  bits, at = _pick(leaves, rng)
  _flip_pair(bits, at, SIGN, rng)


def _flip_pair(bits: np.ndarray, at: int, bit: int, rng: np.random.Generator) -> None:
  if len(bits) > 1:
    other = (at + int(rng.integers(1, len(bits)))) % len(bits)
    bits[other] ^= np.uint32(1 << bit)
  bits[at] ^= np.uint32(1 << bit)


def swapped_elements(leaves: Leaves, rng: np.random.Generator) -> None:
  bits, at = _pick(leaves, rng)
  different = np.flatnonzero(bits != bits[at])
  if len(different):
    other = rng.choice(different)
    bits[[at, other]] = bits[[other, at]]
  else:  # all are the same: there is nothing to swap
    one_flip(leaves, rng)


def swapped_arrays(leaves: Leaves, rng: np.random.Generator) -> None:
  """Two arrays of one shape, as after a mix-up of files."""
  pairs = [
    (a, b)
    for i, a in enumerate(leaves)
    for b in leaves[:i]
    if a.shape == b.shape and a.dtype == b.dtype and not np.array_equal(a, b)
  ]
  a, b = pairs[int(rng.integers(len(pairs)))]
  a[...], b[...] = b.copy(), a.copy()


DAMAGE: dict[str, Callable[[Leaves, np.random.Generator], None]] = {
  'one flip': one_flip,
  'two flips': two_flips,
  'two signs': two_signs,
  'two elements swapped': swapped_elements,
  'two arrays swapped': swapped_arrays,
}


def missed(tree, n: int, seed: int = 0) -> dict[str, int]:
  """How many of n cases of each kind of damage leave the digest as it was."""
  rng = np.random.default_rng(seed)
  leaves, structure = jax.tree.flatten(jax.device_get(tree))
  wanted = digest(tree)
  found = dict.fromkeys(DAMAGE, 0)
  for kind, damage in DAMAGE.items():
    for _ in range(n):
      damaged = [np.array(leaf) for leaf in leaves]
      damage(damaged, rng)
      found[kind] += digest(jax.tree.unflatten(structure, damaged)) == wanted
  return found


def state_of(config):
  """The state of the first stage before its first update, its moments filled with numbers."""
  base = run.build_setup(config, n_devices=1)
  stage = programs.build(config.stage_order[0], config, base, pathlib.Path())
  state = programs.initial_state(stage.setup, programs.initial_params(stage.setup, (0,)))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (
      jax.numpy.asarray(rng.normal(size=x.shape[1:]), x.dtype) if x.dtype == np.float32 else x[0]
    ),
    state,
  )


def cost(state, repeats: int = 9) -> tuple[float, float]:
  """Median seconds of a digest and of a save, measured in turn."""
  digests, saves = [], []
  with tempfile.TemporaryDirectory() as folder:
    with StageCheckpoints(pathlib.Path(folder) / 'c', origin={}) as checkpoints:
      for step in range(repeats + 1):
        started = time.perf_counter()
        digest(state)
        between = time.perf_counter()
        checkpoints.save(step, state)
        digests.append(between - started)
        saves.append(time.perf_counter() - between)
  return statistics.median(digests[1:]), statistics.median(saves[1:])  # without compilation


def main(n: int) -> int:
  state = state_of(from_config_dict(quickstart.get_config()))
  found = missed(state, n)
  took, save = cost(state)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
  kinds = ', '.join(f'{kind} {k}' for kind, k in found.items())
  print(
    f'digest: missed of {n} each: {kinds}; {1e3 * took:.2f} ms, '
    f'{100 * took / save:.2f} % of a save of {1e3 * save:.0f} ms ({size:.1f} MB)'
  )
  return int(any(found.values()) or took >= LIMIT * save)


if __name__ == '__main__':
  sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500))
