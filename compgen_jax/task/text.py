"""Tokens as text and back: letters run together, every other token is a word.

  tokens   C  merge  reverse  a  b  c  C  c  b  a
  text     C merge reverse abc C cba

A run of letters that spells the name of a token (`end`, in a task of 26 letters) is written with
spaces between its letters, so that `parse(spell(tokens)) == tokens` for all tokens of a task.
"""

from collections.abc import Iterable

from compgen_jax.task.vocab import TaskConfig


def alphabet(task: TaskConfig) -> str:
  """The letters of the task, in their order."""
  return ''.join(task.token_names()[: task.alphabet])


def reserved(task: TaskConfig) -> tuple[str, ...]:
  """The names of tokens that the task's letters could spell too; with 8 letters there are none."""
  letters = set(alphabet(task))
  return tuple(name for name in task.token_names()[task.alphabet :] if set(name) <= letters)


def spell(tokens: Iterable[int], task: TaskConfig) -> str:
  """Token ids as text. An id that is no token is written as `<id>`, which `parse` refuses."""
  names, words, run = task.token_names(), [], ''
  for token in tokens:
    if 0 <= token < task.alphabet:
      run += names[token]
      continue
    words += _letters(run, names)
    words.append(names[token] if 0 <= token < len(names) else f'<{token}>')
    run = ''
  return ' '.join(words + _letters(run, names))


def _letters(run: str, names: tuple[str, ...]) -> list[str]:
  """The words that a run of letters is written as."""
  if len(run) > 1 and run in names:
    return list(run)
  return [run] if run else []


def parse(text: str, task: TaskConfig) -> list[int]:
  """The token ids of a text; words are separated by any white space.

  Raises:
    ValueError: a word is no token and not made of the task's letters; one line that names the word.
  """
  names = task.token_names()
  ids = {name: token for token, name in enumerate(names)}
  tokens = []
  for word in text.split():
    if word in ids:
      tokens.append(ids[word])
    elif all(letter in ids and ids[letter] < task.alphabet for letter in word):
      tokens += [ids[letter] for letter in word]
    else:
      raise ValueError(
        f'{word!r} is no word of this task; legal are letters of {alphabet(task)!r} and '
        f'{" ".join(names[task.alphabet :])}'
      )
  return tokens
