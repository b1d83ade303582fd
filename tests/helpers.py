"""Small configs for tests, and the way between the package's arrays and ordinary Python strings."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Sequence

import jax
import numpy as np

from compgen_jax.task import latent, modules
from compgen_jax.task.latent import Composition
from compgen_jax.task.pools import POOLS, PoolConfig
from compgen_jax.task.strings import String
from compgen_jax.task.support import SupportConfig
from compgen_jax.task.vocab import TaskConfig
from tests import reference

# Configs ------------------------------------------------------------------------------------------


def task(**changes) -> TaskConfig:
  fields = dict(
    alphabet=8, width=6, min_input=3, max_input=4, max_depth=6, n_labels=10, trace='explicit'
  )
  return TaskConfig(**{**fields, 'skills': (), 'routings': (), **changes})


def pools(**changes) -> PoolConfig:
  return PoolConfig(**{**dict(salt=0, test=0.1, validation=0.1, sft=0.4, rl=0.4), **changes})


def support_config(**changes) -> SupportConfig:
  fields = dict(depths=(1, 2, 3), pool='sft', compositions=0, dry=False, prefix=0)
  banned_and_wanted = dict(without_skills=(), without_routings=(), with_skills=(), with_routings=())
  return SupportConfig(**{**fields, **banned_and_wanted, **changes})


def reference_task(t: TaskConfig) -> reference.Task:
  return reference.Task(letters(t.alphabet), t.width, t.n_labels, t.trace == 'explicit')


def batched(function, rows: int = 512):
  """`function` over a leading axis of all arguments, compiled once for `rows` of them at a time."""
  compiled = jax.jit(jax.vmap(function))

  def run(*args):
    n = jax.tree.leaves(args)[0].shape[0]
    chunks = []
    for start in range(0, n, rows):
      at = np.minimum(np.arange(start, start + rows), n - 1)
      chunks.append(jax.device_get(compiled(*jax.tree.map(lambda x: np.asarray(x)[at], args))))
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:n], *chunks)

  return run


# Words --------------------------------------------------------------------------------------------


def letters(alphabet: int) -> str:
  return 'abcdefghijklmnopqrstuvwxyz'[:alphabet]


def all_words(letters: str, longest: int) -> list[str]:
  """Every word of 1 to `longest` letters."""
  return [''.join(w) for n in range(1, longest + 1) for w in itertools.product(letters, repeat=n)]


def random_words(letters: str, longest: int, n: int, seed: int = 0) -> list[str]:
  """`n` random words, every length equally often."""
  rng = random.Random(seed)
  return [''.join(rng.choices(letters, k=i % longest + 1)) for i in range(n)]


def encode(words: Sequence[str], width: int) -> String:
  """Canonical strings (numpy, leading axis N)."""
  assert all(0 < len(w) <= width for w in words)
  padded = ''.join(w.ljust(width, 'a') for w in words).encode()
  codes = np.frombuffer(padded, np.uint8).astype(np.int32) - ord('a')
  return String(codes.reshape(len(words), width), np.array([len(w) for w in words], np.int32))


def decode(s: String) -> list[str]:
  """The words of strings with one leading axis."""
  rows = (np.asarray(s.letters) + ord('a')).astype(np.uint8)
  return [row[:n].tobytes().decode() for row, n in zip(rows, np.asarray(s.length))]


def as_rows(s: String) -> np.ndarray:
  """Letters and length side by side, to compare all of it at once."""
  return np.concatenate([s.letters, np.asarray(s.length)[..., None]], axis=-1)


# Compositions and problems ------------------------------------------------------------------------


def steps(composition: Composition, t: TaskConfig) -> list[tuple[tuple[str, str], ...]]:
  """The (routing name, skill name)s of compositions with one leading axis."""
  routings, skills = modules.names(t.routing_inventory), modules.names(t.skill_inventory)
  return [
    tuple((routings[r], skills[s]) for r, s in zip(rs[:n], ss[:n]))
    for n, rs, ss in zip(*(np.asarray(x) for x in composition))
  ]


def composition(
  rows: Sequence[Sequence[tuple[str, str]]], t: TaskConfig, depth_cap: int
) -> Composition:
  """The inverse of `steps`: numpy arrays with a leading axis."""
  routings, skills = modules.names(t.routing_inventory), modules.names(t.skill_inventory)
  n = len(rows)
  shapes = Composition((n,), (n, depth_cap), (n, depth_cap))
  out = Composition(*(np.zeros(shape, np.int32) for shape in shapes))
  for i, row in enumerate(rows):
    out.depth[i] = len(row)
    out.routing[i, : len(row)] = [routings.index(r) for r, _ in row]
    out.skill[i, : len(row)] = [skills.index(s) for _, s in row]
  return out


def random_compositions(
  t: TaskConfig, n: int, depths: Sequence[int], depth_cap: int, seed: int = 0
) -> Composition:
  """Any compositions, live or not, of all the depths."""
  rng = np.random.default_rng(seed)
  depth = np.resize(np.asarray(depths, np.int32), n)
  used = np.arange(depth_cap) < depth[:, None]

  def draw(n_modules):
    return np.where(used, rng.integers(n_modules, size=used.shape), 0).astype(np.int32)

  return Composition(depth, draw(t.n_routings), draw(t.n_skills))


@functools.cache
def random_rows(t: TaskConfig, n: int, depths: Sequence[int], depth_cap: int = 6):
  """`random_compositions` as the (routing name, skill name) pairs of each."""
  return steps(random_compositions(t, n, depths, depth_cap), t)


def pool_by_reference(row: Sequence[tuple[str, str]], p: PoolConfig) -> str:
  """The pool of a composition of depth 2 or more."""
  return reference.pool(row, p.salt, {name: getattr(p, name) for name in POOLS})


@functools.cache
def _problem_function(t: TaskConfig):
  return batched(lambda c, inputs, label: latent.problem(c, inputs, label, t))


def make_problems(rows: Sequence[reference.Problem], t: TaskConfig) -> latent.Problem:
  """The package's problems (numpy, leading axis N, depth cap `max_depth`) of reference problems."""
  c = composition([p.steps for p in rows], t, t.max_depth)
  inputs = encode([word for p in rows for word in p.inputs], t.width)
  inputs = String(inputs.letters.reshape(len(rows), 2, -1), inputs.length.reshape(len(rows), 2))
  label = np.array([p.first_label for p in rows], np.int32)
  t = dataclasses.replace(t, trace='explicit')  # a problem is the same for both forms
  return _problem_function(t)(c, inputs, label)


def random_problems(t: TaskConfig, n: int, seed: int = 0, longest: int | None = None):
  """Reference problems of all depths, labels and modules, with inputs of 1 to `longest` letters."""
  rng = random.Random(seed)
  rows = steps(random_compositions(t, n, range(1, t.max_depth + 1), t.max_depth, seed), t)
  words = random_words(letters(t.alphabet), longest or t.max_input, 2 * n, seed)
  rng.shuffle(words)
  return [
    reference.Problem(row, (words[2 * i], words[2 * i + 1]), rng.randrange(t.n_labels))
    for i, row in enumerate(rows)
  ]


# Tokens -------------------------------------------------------------------------------------------


def token_ids(tokens: Sequence[str], t: TaskConfig) -> list[int]:
  by_name = {name: i for i, name in enumerate(t.token_names())}
  return [by_name[token] for token in tokens]


def token_names(ids: Sequence[int], t: TaskConfig) -> list[str]:
  """Names of any integers; '?' where there is no such token."""
  known = t.token_names()
  return [known[i] if 0 <= i < len(known) else '?' for i in np.asarray(ids).tolist()]


def sample(support, key):
  """One problem of a support."""
  composition, n_dry = support.sampler.sample_steps(jax.random.fold_in(key, 0))
  dry = n_dry if support.config.dry or support.config.prefix else 0
  return latent.sample(jax.random.fold_in(key, 1), composition, support.task, dry)
