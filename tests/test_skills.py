"""The skills: total, canonical, distinct, and equal to an independent reference."""

import functools
import itertools
import re

import jax
import numpy as np
import pytest

from compgen_jax.task import modules, skills
from compgen_jax.task.strings import String
from tests import helpers, reference
from tests.helpers import as_rows

NAMES = modules.names(skills.SKILLS)
SETTINGS = [(8, 6), (6, 8)]  # (alphabet, width); the first is the default task
in_all_settings = pytest.mark.parametrize('alphabet, width', SETTINGS)

# The largest share of items in which a skill may change nothing.
CHANGES_NOTHING_BOUND = 0.15


def domain(alphabet, width):
  """Every word of up to 4 letters, and random ones up to the width cap."""
  letters = helpers.letters(alphabet)
  return helpers.all_words(letters, 4) + helpers.random_words(letters, width, 6000)


@functools.cache
def results(alphabet, width) -> tuple[String, String]:
  """(words, what each skill makes of them): leading axes N, and N x S."""
  words = helpers.encode(domain(alphabet, width), width)
  apply_all = jax.jit(jax.vmap(lambda s: modules.apply_all(skills.SKILLS, s, alphabet)))
  return words, jax.device_get(apply_all(words))


def test_inventory():
  """Catches a skill that is registered twice, forgotten, or without a reference."""
  assert len(set(NAMES)) == len(NAMES)
  assert set(NAMES) == set(reference.SKILLS)


@in_all_settings
def test_equals_reference(alphabet, width):
  """Catches any wrong result: an off-by-one in a permutation, a wrong cut at the width cap, a wrong
  wrap."""
  words, got = domain(alphabet, width), results(alphabet, width)[1]
  for i, name in enumerate(NAMES):
    want = helpers.encode(
      [reference.SKILLS[name](w, helpers.letters(alphabet), width) for w in words], width
    )
    wrong = np.any(as_rows(want) != as_rows(String(got.letters[:, i], got.length[:, i])), axis=1)
    assert not wrong.any(), f'{name} {words[np.argmax(wrong)]}'


@in_all_settings
def test_total_and_canonical(alphabet, width):
  """Catches an empty or overlong result, a letter outside the alphabet, and dirt beyond the
  length."""
  got = results(alphabet, width)[1]
  beyond = np.arange(width) >= got.length[..., None]
  assert got.length.min() >= 1 and got.length.max() <= width
  assert got.letters.min() >= 0 and got.letters.max() < alphabet
  assert not np.any(got.letters[beyond])


@in_all_settings
def test_no_identity_and_no_two_alike(alphabet, width):
  """Catches a skill that does nothing, or what another one does, for words of a whole length.

  Shorter words leave too little room: `reverse` and `swap_ends` agree on 3 letters,
  `evens_then_odds` keeps 2."""
  words, got = results(alphabet, width)
  rows, same = as_rows(got), as_rows(words)
  for length in range(4, width + 1):
    here = words.length == length
    for i, name in enumerate(NAMES):
      assert np.any(rows[here, i] != same[here]), f'{name} is the identity on {length} letters'
    for i, j in itertools.combinations(range(len(NAMES)), 2):
      assert np.any(rows[here, i] != rows[here, j]), f'{NAMES[i]} is {NAMES[j]} on {length} letters'


def test_same_under_jit_vmap_and_alone():
  """Catches a result that depends on its neighbours in the batch, or on being compiled."""
  alphabet, width = SETTINGS[0]
  words, got = results(alphabet, width)
  one = jax.jit(lambda i, s: modules.apply(skills.SKILLS, i, s, alphabet))
  rng = np.random.default_rng(0)
  for row in rng.integers(len(words.length), size=40):
    s = jax.tree.map(lambda x: x[row], words)
    i = rng.integers(len(NAMES))
    want = as_rows(jax.tree.map(lambda x: x[row, i], got))
    np.testing.assert_array_equal(as_rows(jax.device_get(one(i, s))), want)
  word = jax.tree.map(lambda x: jax.numpy.asarray(x[4000]), words)
  for i in range(0, len(NAMES), 3):
    with jax.disable_jit():
      eager = jax.device_get(skills.SKILLS[i].function(word, alphabet))
    np.testing.assert_array_equal(as_rows(eager), as_rows(jax.tree.map(lambda x: x[4000, i], got)))


@pytest.mark.parametrize('skill', skills.SKILLS, ids=NAMES)
def test_docstring_examples(skill):
  """Catches a worked example that is not what the function does; every skill has one (alphabet
  abcdefgh)."""
  examples = re.findall(r'`([a-h]+) -> ([a-h]+)`', skill.function.__doc__)
  assert examples
  for word, result in examples:
    assert reference.SKILLS[skill.name](word, 'abcdefgh', 6) == result
    got = jax.vmap(lambda s: skill.function(s, 8))(helpers.encode([word], 6))
    assert helpers.decode(got) == [result]


def test_share_that_changes_nothing(sft_problems):
  """Catches a skill that is so often a copy that its problems say little about it: P[result ==
  operand]."""
  t, problems = sft_problems
  results = jax.tree.map(lambda v: v[:, 2:], problems.values)
  same = np.all(as_rows(problems.operands) == as_rows(results), axis=-1)
  used = np.arange(same.shape[1]) < problems.composition.depth[:, None]
  shares = {
    name: same[used & (problems.composition.skill == i)].mean() for i, name in enumerate(NAMES)
  }
  print(sorted(((round(float(v), 3), k) for k, v in shares.items()), reverse=True))
  assert max(shares.values()) < CHANGES_NOTHING_BOUND, shares
