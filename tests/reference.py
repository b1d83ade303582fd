"""The task once more, in plain Python on ordinary strings: what the package is checked against.

Written from the English of the docstrings, on purpose as one would write it with Python's own
string operations, so that a slip in the array code is unlikely to be repeated here. `letters` is
the alphabet itself, 'abcdefgh'.
"""

import zlib
from typing import NamedTuple


class Task(NamedTuple):
  letters: str
  width: int
  n_labels: int
  explicit: bool


class Problem(NamedTuple):
  """`steps`: a (routing name, skill name) per step."""

  steps: tuple[tuple[str, str], ...]
  inputs: tuple[str, str]
  first_label: int = 0


# Skills -------------------------------------------------------------------------------------------


def _moved(letter, steps, letters):
  """The letter `steps` further on in the cyclic alphabet."""
  return letters[(letters.index(letter) + steps) % len(letters)]


def _move_all(word, steps, letters):
  return ''.join(_moved(c, n, letters) for c, n in zip(word, steps, strict=True))


def _is_low(letter, letters):
  return letter in letters[: len(letters) // 2]


def _swap_ends(word):
  return word if len(word) == 1 else word[-1] + word[1:-1] + word[0]


def _fork(word, letters):
  if _is_low(word[0], letters):
    return _moved(word[0], 3, letters) + word[1:]
  turned = word[::-1]
  return _moved(turned[0], 1, letters) + turned[1:]


def _lower_peaks(word, letters):
  peak = max(word)
  return word.replace(peak, _moved(peak, -1, letters))


# name -> function of (word, letters, width).
SKILLS = {
  'reverse': lambda w, a, n: w[::-1],
  'rotate_left': lambda w, a, n: w[1:] + w[0],
  'rotate_right': lambda w, a, n: w[-1] + w[:-1],
  'swap_ends': lambda w, a, n: _swap_ends(w),
  'swap_pairs': lambda w, a, n: ''.join(w[i : i + 2][::-1] for i in range(0, len(w), 2)),
  'evens_then_odds': lambda w, a, n: w[::2] + w[1::2],
  'sort_up': lambda w, a, n: ''.join(sorted(w)),
  'sort_down': lambda w, a, n: ''.join(sorted(w, reverse=True)),
  'successor': lambda w, a, n: w.translate(str.maketrans(a, a[1:] + a[0])),
  'predecessor': lambda w, a, n: w.translate(str.maketrans(a[1:] + a[0], a)),
  'opposite': lambda w, a, n: w.translate(str.maketrans(a, a[::-1])),
  'half_turn': lambda w, a, n: w.translate(str.maketrans(a, a[len(a) // 2 :] + a[: len(a) // 2])),
  'climb': lambda w, a, n: _move_all(w, range(1, len(w) + 1), a),
  'bump_evens': lambda w, a, n: _move_all(w, ([1, 0] * n)[: len(w)], a),
  'zigzag': lambda w, a, n: _move_all(w, ([1, -1] * n)[: len(w)], a),
  'bump_last': lambda w, a, n: w[:-1] + _moved(w[-1], 2, a),
  'squeeze': lambda w, a, n: _move_all(w, [1 if _is_low(c, a) else -1 for c in w], a),
  'fork': lambda w, a, n: _fork(w, a),
  'fold': lambda w, a, n: ''.join(c if _is_low(c, a) else _moved(c, -(len(a) // 2), a) for c in w),
  'lower_peaks': lambda w, a, n: _lower_peaks(w, a),
  'drop_first': lambda w, a, n: w[1:] or _moved(w, 1, a),
  'drop_last': lambda w, a, n: w[:-1] or _moved(w, -1, a),
  'double_first': lambda w, a, n: (w[0] + w)[:n],
  'append_next': lambda w, a, n: (w + _moved(w[-1], 1, a))[-n:],
}


# Routing mechanisms -------------------------------------------------------------------------------


def _interleave(previous, earlier):
  turns = min(len(previous), len(earlier))
  pairs = ''.join(e + p for e, p in zip(earlier, previous))
  return pairs + earlier[turns:] + previous[turns:]


def _halves(previous, earlier):
  head = len(earlier) - len(earlier) // 2
  tail = len(previous) // 2
  return earlier[:head] + (previous[-tail:] if tail else '')


def _longer(previous, earlier):
  return earlier + previous if len(previous) == len(earlier) else max(previous, earlier, key=len)


# name -> function of (previous, earlier, first, letters); `route` cuts the operand at the width cap
ROUTINGS = {
  'previous': lambda p, e, f, a: p,
  'earlier': lambda p, e, f, a: e,
  'first_input': lambda p, e, f, a: f,
  'merge': lambda p, e, f, a: p + e,
  'interleave': lambda p, e, f, a: _interleave(p, e),
  'halves': lambda p, e, f, a: _halves(p, e),
  'by_first_letter': lambda p, e, f, a: p if _is_low(p[0], a) else e,
  'greater': lambda p, e, f, a: e if e[0] > p[0] else p,
  'longer': lambda p, e, f, a: _longer(p, e),
  'bind_first': lambda p, e, f, a: f[0] + p,
}

# What the operand of each depends on.
READS = {
  'previous': {'previous'},
  'earlier': {'earlier'},
  'first_input': {'first'},
  'merge': {'previous', 'earlier'},
  'interleave': {'previous', 'earlier'},
  'halves': {'previous', 'earlier'},
  'by_first_letter': {'previous', 'earlier'},
  'greater': {'previous', 'earlier'},
  'longer': {'previous', 'earlier'},
  'bind_first': {'previous', 'first'},
}


def route(name, values, letters, width):
  """The operand of the step that follows `values` (two inputs, then a result per step)."""
  return ROUTINGS[name](values[-1], values[-2], values[0], letters)[:width]


# Compositions -------------------------------------------------------------------------------------


def execute(problem: Problem, task: Task):
  """(values, operands): two inputs and a result per step; an operand per step."""
  values, operands = list(problem.inputs), []
  for routing, skill in problem.steps:
    operand = route(routing, values, task.letters, task.width)
    operands.append(operand)
    values.append(SKILLS[skill](operand, task.letters, task.width))
  return values, operands


def is_live(steps) -> bool:
  """Walking back from the answer along what each step reads, every step is met."""
  sources = {}  # step -> the steps (negative: inputs) whose values it reads
  for i, (routing, _) in enumerate(steps):
    node = {'previous': i - 1, 'earlier': i - 2, 'first': -2}
    sources[i] = {node[source] for source in READS[routing]}
  met, frontier = set(), {len(steps) - 1}
  while frontier:
    i = frontier.pop()
    if i >= 0 and i not in met:
      met.add(i)
      frontier |= sources[i]
  return len(met) == len(steps)


def content_hash(steps, salt: int) -> int:
  """MurmurHash3 (32 bit) of the CRC-32 of the modules' names, in order."""

  def times(a, b):
    return a * b % 2**32

  def rotated(x, n):
    return (x << n | x >> (32 - n)) % 2**32

  h = salt
  for name in [name for step in steps for name in step]:
    h ^= times(rotated(times(zlib.crc32(name.encode()), 0xCC9E2D51), 15), 0x1B873593)
    h = (times(rotated(h, 13), 5) + 0xE6546B64) % 2**32
  h ^= len(steps)
  h = times(h ^ h >> 16, 0x85EBCA6B)
  h = times(h ^ h >> 13, 0xC2B2AE35)
  return h ^ h >> 16


def pool(steps, salt: int, shares: dict[str, float]) -> str:
  """The pool (a key of `shares`, which add up to 1) of a composition of depth 2 or more."""
  at, edge = content_hash(steps, salt) >> 16, 0.0
  for name, share in shares.items():
    edge += share
    if at < round(edge * 2**16):
      return name
  raise AssertionError('the shares do not add up to 1')


# Tokens, by name ----------------------------------------------------------------------------------


def label(problem: Problem, task: Task, value: int) -> str:
  """The label of value number `value`: labels go round."""
  return chr(ord('A') + (problem.first_label + value) % task.n_labels)


def prompt(problem: Problem, task: Task) -> list[str]:
  tokens = ['solve']
  for i, word in enumerate(problem.inputs):
    tokens += [label(problem, task, i), *word]
  for i, step in enumerate(problem.steps):
    tokens += [label(problem, task, i + 2), *step]
  return tokens + ['=']


def trace(problem: Problem, task: Task) -> list[str]:
  """The golden trace."""
  values, operands = execute(problem, task)
  tokens = []
  for i, step in enumerate(problem.steps):
    name = label(problem, task, i + 2)
    tokens += [name, *step, *(operands[i] if task.explicit else ''), name, *values[i + 2]]
  return tokens + ['=', *values[-1], 'end']


class Verdict(NamedTuple):
  """As the package's, and `proper`: every string that the trace names has 1 to `width` letters."""

  answer: bool
  structure: bool
  strict: bool
  operand_ok: tuple[bool, ...]
  result_ok: tuple[bool, ...]
  proper: bool


def verdict(tokens: list[str], problem: Problem, task: Task) -> Verdict:
  """Judges a trace, given as token names."""
  nothing = (False,) * len(problem.steps)
  if 'end' not in tokens:
    return Verdict(False, False, False, nothing, nothing, True)
  body = tokens[: tokens.index('end')]
  right = execute(problem, task)[0][-1]
  answer = '=' in body and ''.join(body[len(body) - body[::-1].index('=') :]) == right

  segments = []  # (head, the letters after it)
  loose = False  # a letter before any head
  for token in body:
    if token not in task.letters:
      segments.append((token, ''))
    elif segments:
      segments[-1] = (segments[-1][0], segments[-1][1] + token)
    else:
      loose = True
  wanted = []
  for i, step in enumerate(problem.steps):
    wanted += [label(problem, task, i + 2), *step, label(problem, task, i + 2)]
  structure = not loose and [head for head, _ in segments] == wanted + ['=']
  if structure:
    strings = [s for _, s in segments]
    silent = [
      strings[4 * i + j]
      for i in range(len(problem.steps))
      for j in ((0, 1) if task.explicit else (0, 1, 2))
    ]
    structure = not any(silent)
  if not structure:
    return Verdict(answer, False, False, nothing, nothing, True)

  operand_ok, result_ok = [], []
  values = list(problem.inputs) + strings[3::4]
  named = strings[3::4] + (strings[2::4] if task.explicit else [])
  if not all(0 < len(s) <= task.width for s in named):
    return Verdict(answer, True, False, nothing, nothing, False)
  for i, (routing, skill) in enumerate(problem.steps):
    operand = route(routing, values[: i + 2], task.letters, task.width)
    said = strings[4 * i + 2] if task.explicit else operand
    result = SKILLS[skill](said, task.letters, task.width)
    operand_ok.append(said == operand)
    result_ok.append(values[i + 2] == result)
  strict = answer and all(operand_ok) and all(result_ok)
  return Verdict(answer, True, strict, tuple(operand_ok), tuple(result_ok), True)
