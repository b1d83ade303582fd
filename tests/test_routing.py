"""The routing mechanisms: total, canonical, distinct, and equal to an independent reference."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.task import modules, routing
from compgen_jax.task.routing import Sources
from compgen_jax.task.strings import String
from tests import helpers, reference
from tests.helpers import as_rows

NAMES = modules.names(routing.ROUTINGS)
SETTINGS = [(8, 6), (6, 8)]  # (alphabet, width); the first is the default task
in_all_settings = pytest.mark.parametrize('alphabet, width', SETTINGS)

# The largest share of steps at which another mechanism, drawn at random, may give the same operand.
CHANGES_NOTHING_BOUND = 0.25


@functools.cache
def domain(alphabet, width):
  """(previous, earlier, first): all pairs of words of up to 2 letters, all of up to 3 over 3
  letters on both sides of the middle of the alphabet, and random ones up to the width cap."""
  letters = helpers.letters(alphabet)
  middle = letters[0] + letters[alphabet // 2 - 1 : alphabet // 2 + 1]
  firsts = itertools.cycle(helpers.random_words(letters, width, 97))
  short = helpers.all_words(letters, 2), helpers.all_words(middle, 3)
  pairs = [pair for words in short for pair in itertools.product(words, words)]
  random = [helpers.random_words(letters, width, 6000 + i, seed=i) for i in range(2)]
  np.random.default_rng(0).shuffle(random[0])  # so that the lengths are paired in all ways
  pairs += zip(*random)
  return [(p, e, next(firsts)) for p, e in pairs]


@functools.cache
def _function(alphabet):
  return jax.jit(jax.vmap(lambda x: modules.apply_all(routing.ROUTINGS, x, alphabet)))


def operands(rows, alphabet, width) -> String:
  """What each mechanism makes of (previous, earlier, first) words: leading axes N x R."""
  return jax.device_get(
    _function(alphabet)(Sources(*(helpers.encode(words, width) for words in zip(*rows))))
  )


@functools.cache
def results(alphabet, width) -> String:
  return operands(domain(alphabet, width), alphabet, width)


def test_inventory():
  """Catches a mechanism that is registered twice, forgotten, or without a reference."""
  assert len(set(NAMES)) == len(NAMES)
  assert set(NAMES) == set(reference.ROUTINGS) == set(reference.READS)


@in_all_settings
def test_equals_reference(alphabet, width):
  """Catches any wrong operand: a tie that goes the other way, sources swapped, a wrong cut at the
  width cap."""
  rows, got = domain(alphabet, width), results(alphabet, width)
  for i, name in enumerate(NAMES):
    want = [reference.ROUTINGS[name](*row, helpers.letters(alphabet))[:width] for row in rows]
    wrong = np.any(
      as_rows(helpers.encode(want, width)) != as_rows(String(got.letters[:, i], got.length[:, i])),
      axis=1,
    )
    assert not wrong.any(), f'{name} {rows[np.argmax(wrong)]}'


@in_all_settings
def test_total_and_canonical(alphabet, width):
  """Catches an empty or overlong operand, a letter outside the alphabet, and dirt beyond the
  length."""
  got = results(alphabet, width)
  beyond = np.arange(width) >= got.length[..., None]
  assert got.length.min() >= 1 and got.length.max() <= width
  assert got.letters.min() >= 0 and got.letters.max() < alphabet
  assert not np.any(got.letters[beyond])


@in_all_settings
def test_no_two_alike(alphabet, width):
  """Catches two mechanisms that never differ, at depth 1 or at larger ones.

  At depth 1 the value before the last *is* the first input, so there `earlier` and `first_input`
  agree by construction; they are the only such pair."""
  rows = as_rows(results(alphabet, width))
  at_depth_1 = np.array([e == f for _, e, f in domain(alphabet, width)])
  assert at_depth_1.sum() > 20
  for i, j in itertools.combinations(range(len(NAMES)), 2):
    differ = np.any(rows[:, i] != rows[:, j], axis=1)
    assert differ.any(), f'{NAMES[i]} is {NAMES[j]}'
    assert differ[at_depth_1].any() != ({NAMES[i], NAMES[j]} == {'earlier', 'first_input'}), (
      NAMES[i],
      NAMES[j],
    )


def test_what_is_read():
  """Catches a wrong `reads_...` flag, which would call dead compositions live (their depth would be
  overstated).

  A flag must say exactly whether the operand can change with that source, the others being equal.
  """
  words = helpers.all_words('adef', 3)
  cube = list(itertools.product(words[::2], words[::2], ['a', 'dea']))
  n_words = len(words[::2])
  rows = as_rows(operands(cube, 8, 6)).reshape(n_words, n_words, 2, len(NAMES), -1)
  for i, r in enumerate(routing.ROUTINGS):
    changes = {source: bool(np.any(rows[:, :, :, i] != rows.take([0], axis)[:, :, :, i]))
               for axis, source in enumerate(('previous', 'earlier', 'first'))}  # fmt: skip
    assert {source for source, c in changes.items() if c} == reference.READS[r.name], r.name
    flags = {'previous': r.reads_previous, 'earlier': r.reads_earlier}
    assert all(changes[source] == flag for source, flag in flags.items()), r.name


def test_same_under_jit_vmap_and_alone():
  """Catches an operand that depends on its neighbours in the batch, or on being compiled."""
  alphabet, width = SETTINGS[0]
  rows, got = domain(alphabet, width), results(alphabet, width)
  one = jax.jit(lambda i, x: modules.apply(routing.ROUTINGS, i, x, alphabet))
  rng = np.random.default_rng(0)
  for n in rng.integers(len(rows), size=40):
    x = Sources(*(jax.tree.map(lambda v: v[0], helpers.encode([word], width)) for word in rows[n]))
    i = rng.integers(len(NAMES))
    np.testing.assert_array_equal(
      as_rows(jax.device_get(one(i, x))), as_rows(jax.tree.map(lambda v: v[n, i], got))
    )
  n = len(rows) - 1
  x = Sources(
    *(jax.tree.map(lambda v: jnp.asarray(v[0]), helpers.encode([word], width)) for word in rows[n])
  )
  for i, r in enumerate(routing.ROUTINGS):
    with jax.disable_jit():
      eager = as_rows(jax.device_get(r.function(x, alphabet)))
    np.testing.assert_array_equal(eager, as_rows(jax.tree.map(lambda v: v[n, i], got)))


def test_sources():
  """Catches an off-by-one in the list of values: step 0 reads (second, first, first) input, later
  steps results."""
  values = helpers.encode(['in', 'on', 'one', 'two', 'three'], 6)
  for i, want in enumerate([('on', 'in', 'in'), ('one', 'on', 'in'), ('two', 'one', 'in')]):
    read = jax.tree.map(lambda *xs: np.stack(xs), *routing.sources(values, i))
    assert tuple(helpers.decode(read)) == want


def test_docstring_examples():
  """Catches a worked example that is not what the function does: previous = pqr, earlier = abcd,
  first = xyz."""
  got = operands([('pqr', 'abcd', 'xyz')], 26, 8)
  checked = set()
  for i, r in enumerate(routing.ROUTINGS):
    for example in re.findall(r'^`([a-z]+)`', r.function.__doc__):
      assert helpers.decode(jax.tree.map(lambda v: v[0, i : i + 1], got)) == [example], r.name
      checked.add(r.name)
  choosing, building = {'previous', 'earlier', 'first_input'}, {'merge', 'interleave', 'halves'}
  assert checked >= choosing | building | {'bind_first'}


@pytest.mark.parametrize('name, previous, earlier, operand', [
    ('by_first_letter', 'dh', 'ab', 'dh'),  # d is the last letter of the lower half
    ('by_first_letter', 'ea', 'ab', 'ab'),
    ('greater', 'ca', 'bh', 'ca'),
    ('greater', 'ba', 'cb', 'cb'),
    ('greater', 'cb', 'ch', 'cb'),  # a tie
    ('longer', 'abc', 'de', 'abc'),
    ('longer', 'ab', 'cde', 'cde'),
    ('longer', 'ab', 'cd', 'cdab'),  # a tie
    ('longer', 'abcd', 'efgh', 'efghab'),  # a tie, cut at 6
    ('merge', 'abcd', 'efgh', 'abcdef'),
    ('interleave', 'a', 'bcdef', 'bacdef'),
    ('interleave', 'bcdef', 'a', 'abcdef'),
    ('halves', 'a', 'b', 'b'),
    ('halves', 'abcde', 'fgh', 'fgde'),
    ('bind_first', 'abcdef', 'gh', 'habcde'),  # the first input is h...
])  # fmt: skip
def test_literals(name, previous, earlier, operand):
  """Catches a misread definition that package and reference might share: choices, ties and cuts by
  hand."""
  got = operands([(previous, earlier, 'hag')], 8, 6)
  i = NAMES.index(name)
  assert helpers.decode(jax.tree.map(lambda v: v[0, i : i + 1], got)) == [operand]


def test_share_that_changes_nothing(sft_problems):
  """Catches a mechanism that too often does what another one does: the share of its steps at which
  a uniformly random other mechanism gives the same operand. (At depth 1, `earlier` and
  `first_input` always do.)"""
  t, problems = sft_problems
  depth_cap = problems.composition.routing.shape[1]

  def operands_at(values, i):
    return modules.apply_all(t.routing_inventory, routing.sources(values, i), t.alphabet)

  every_step = jax.vmap(jax.vmap(operands_at, (None, 0)), (0, None))
  all_operands = jax.device_get(jax.jit(every_step)(problems.values, jnp.arange(depth_cap)))
  same = np.all(as_rows(all_operands) == as_rows(problems.operands)[:, :, None], axis=-1)
  used = np.arange(depth_cap) < problems.composition.depth[:, None]
  others = (same.sum(axis=-1) - 1) / (t.n_routings - 1)
  shares = {
    name: others[used & (problems.composition.routing == i)].mean() for i, name in enumerate(NAMES)
  }
  print(sorted(((round(float(v), 3), k) for k, v in shares.items()), reverse=True))
  assert max(shares.values()) < CHANGES_NOTHING_BOUND, shares
