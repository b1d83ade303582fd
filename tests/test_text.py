"""Tokens as text and back."""

import random

import pytest

from compgen_jax.task import text
from tests import helpers

SMALL = helpers.task()
# Letters that can spell every name, and more labels than letters.
LARGE = helpers.task(alphabet=26, width=32, n_labels=128)


def _tokens(words, task=SMALL):
  return helpers.token_ids(words.split(), task)


def test_letters_run_together_and_modules_are_words():
  """Output in token ids, or letters and labels run into one another."""
  tokens = _tokens('C merge reverse a b c C c b a = d c b end')
  assert text.spell(tokens, SMALL) == 'C merge reverse abc C cba = dcb end'


@pytest.mark.parametrize('task', [SMALL, LARGE], ids=['8 letters', '26 letters'])
def test_round_trip(task):
  """A token that comes back as another one: two names alike, or letters that spell a name."""
  rng = random.Random(0)
  rows = [rng.choices(range(task.vocab_size), k=rng.randrange(12)) for _ in range(2000)]
  rows += [[task.token_names().index(letter) for letter in name] for name in text.reserved(task)]
  rows.append(list(range(task.vocab_size)))
  for tokens in rows:
    assert text.parse(text.spell(tokens, task), task) == tokens


def test_a_run_that_spells_a_name_is_spaced():
  """The letters e, n, d read back as the token that ends a trace."""
  tokens = _tokens('= e n d end', LARGE)
  assert text.spell(tokens, LARGE) == '= e n d end'
  assert text.reserved(SMALL) == () and 'end' in text.reserved(LARGE)


def test_white_space_is_free():
  """Text as a person or another model breaks it into lines."""
  assert text.parse(' C  merge\n a b\tc ', SMALL) == _tokens('C merge a b c')
  assert text.parse('', SMALL) == []


@pytest.mark.parametrize('word', ['abi', 'Merge', 'merge,', '<-1>', '<999>', 'aA', 'é'])
def test_unknown_words_are_named(word):
  """A word that is skipped or guessed at, or an error that does not say which word it is about."""
  with pytest.raises(ValueError) as error:
    text.parse(f'solve A {word} =', SMALL)
  assert repr(word) in str(error.value) and '\n' not in str(error.value)


def test_ids_that_are_no_tokens_are_shown():
  """A crash on what a damaged row holds, or a wrapped-around index that shows another token."""
  assert text.spell([-1, 0, 10**6], SMALL) == '<-1> a <1000000>'
