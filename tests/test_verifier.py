"""The plain-Python verifier says what the one on device says."""

import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from compgen_jax import verifier
from compgen_jax.task import render, text, verify
from tests import helpers

COLUMNS = 128
TASKS = {
  'explicit': helpers.task(),
  'compact': helpers.task(trace='compact'),
  '26 letters': helpers.task(alphabet=26, n_labels=60),
}


def _line(task, **fields):
  return {'alphabet': text.alphabet(task), 'reserved': text.reserved(task), **fields}


def _corrupted(golden, task, rng):
  """A golden trace with 0 to 3 edits, many of a letter; sometimes something after its end."""
  tokens = list(golden)
  for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
    i = rng.randrange(len(tokens))
    edit = rng.choice(['letter', 'letter', 'replace', 'drop', 'add', 'cut'])
    if edit == 'letter':
      at = [k for k, token in enumerate(tokens) if token < task.alphabet]
      if at:
        tokens[rng.choice(at)] = rng.randrange(task.alphabet)
    elif edit == 'replace':
      tokens[i] = rng.randrange(task.vocab_size)
    elif edit == 'drop' and len(tokens) > 1:
      del tokens[i]
    elif edit == 'add':
      tokens.insert(i, rng.randrange(rng.choice([task.alphabet, task.vocab_size])))
    elif edit == 'cut' and rng.random() < 0.3 and i:
      tokens = tokens[:i]
  return tokens + [rng.randrange(task.vocab_size) for _ in range(rng.choice([0, 0, 3]))]


def _traces(goldens, task, rng):
  """A trace for each problem: corrupted, or (each eighth) random tokens with an end."""
  for i, golden in enumerate(goldens):
    if i % 8:
      yield _corrupted(golden, task, rng)[:COLUMNS]
    else:
      yield [*(rng.randrange(task.vocab_size) for _ in range(rng.randrange(20))), task.end]


def _on_device(problems, traces, task):
  """The package's verdicts and golden traces (as tokens)."""
  ids_BxC = np.full((len(traces), COLUMNS), task.pad, np.int32)
  for row, tokens in zip(ids_BxC, traces):
    row[: len(tokens)] = tokens
  return helpers.batched(lambda p, t: verify.verify(p, t, task))(problems, ids_BxC)


@pytest.mark.parametrize('name', TASKS)
def test_agrees_with_the_package(name):
  """A verdict that differs on a golden, a corrupted or a random trace.

  The first wrong step is the first that the package's verdict on steps calls wrong.
  """
  task, rng = TASKS[name], random.Random(0)
  problems = helpers.make_problems(helpers.random_problems(task, 4096), task)
  rendered = helpers.batched(lambda p: render.render(p, task, task.max_depth))(problems)
  goldens = [row[:n].tolist() for row, n in zip(rendered.trace, rendered.trace_length)]
  traces = list(_traces(goldens, task, rng))
  wanted = _on_device(problems, traces, task)
  got = [
    verifier.verify(_line(task, trace=text.spell(golden, task)), text.spell(trace, task))
    for golden, trace in zip(goldens, traces)
  ]
  for field in ('answer', 'structure', 'strict'):
    rate = np.mean(getattr(wanted, field))
    assert 0.1 < rate < 0.9  # both verdicts occur often
    np.testing.assert_array_equal([v[field] for v in got], getattr(wanted, field), field)
  depths = jax.device_get(problems.composition.depth)
  steps_ok = wanted.operand_ok & wanted.result_ok
  for i in np.flatnonzero(wanted.structure):
    right = [*steps_ok[i, : depths[i]].tolist(), bool(wanted.answer[i])]
    first_wrong = right.index(False) + 1 if False in right else None
    assert got[i]['first_wrong_step'] == first_wrong


TASK = TASKS['explicit']
GOLDEN = 'C earlier reverse bca C acb D merge successor acbdd D bdcee = bdcee end'
LINE = _line(TASK, trace=GOLDEN)


@pytest.mark.parametrize('old, new, step, what', [
  ('', '', None, 'every step right'),
  (' end', ' end = a end', None, 'every step right'),
  ('C acb', 'C acc', 1, 'first wrong step: 1 of 2 (result of reverse)'),
  ('acbdd', 'acbd', 2, 'first wrong step: 2 of 2 (operand of merge)'),
  ('acbdd', 'acbdda', 2, 'first wrong step: 2 of 2 (operand of merge)'),
  ('acbdd', '', 2, 'first wrong step: 2 of 2 (operand of merge)'),
  ('D bdcee', 'D bdceea', 2, 'first wrong step: 2 of 2 (result of successor)'),
  ('D merge', 'E merge', 2, 'first wrong step: 2 of 2 (structure)'),
  ('D merge', 'D a merge', 2, 'first wrong step: 2 of 2 (structure)'),
  ('C earlier', 'a C earlier', 1, 'first wrong step: 1 of 2 (structure)'),
  (GOLDEN, '', 1, 'first wrong step: 1 of 2 (structure)'),
  ('= bdcee', '= bdcea', 3, 'all 2 steps right, the answer wrong'),
  (' end', '', 3, 'all 2 steps right, no answer and end'),
  (' =', ' E earlier reverse b E b =', 3, 'all 2 steps right, no answer and end'),
])  # fmt: skip
def test_where_it_goes_wrong(old, new, step, what):
  """The first mistake blamed on the step before or after it, or on the wrong module."""
  trace = GOLDEN.replace(old, new)
  assert verifier.verify(LINE, trace)['first_wrong_step'] == step
  assert verifier.where(LINE, trace) == what


def test_compact_traces_show_no_operand():
  """Letters where a compact trace has none, taken for an operand."""
  line = _line(TASKS['compact'], trace='C earlier reverse C acb = acb end')
  said = line['trace'].replace('reverse', 'reverse bca')
  assert verifier.where(line, said) == 'first wrong step: 1 of 1 (structure)'
  assert verifier.compare(line, line['trace']).splitlines() == [
    '    C earlier reverse C acb',
    '    = acb end',
  ]


def test_a_right_trace_has_no_mark():
  """A mark on a step that is right, or steps that are not a line each."""
  assert verifier.compare(LINE, GOLDEN).splitlines() == [
    '    C earlier reverse bca C acb',
    '    D merge successor acbdd D bdcee',
    '    = bdcee end',
  ]


def test_the_first_wrong_step_is_marked_once():
  """The mark at a later step, on each wrong step, or at none."""
  lines = verifier.compare(LINE, GOLDEN.replace('bdcee', 'bdcea')).splitlines()
  assert [i for i, line in enumerate(lines) if 'first wrong step' in line] == [1]
  assert lines[1] == '  x D merge successor acbdd D bdcea   <-- first wrong step'
  assert lines[2] == '    golden: D merge successor acbdd D bdcee'
  assert lines[3:] == ['  x = bdcea end', '    golden: = bdcee end']


def test_garbage_and_missing_steps_are_shown():
  """A crash on what no golden trace has."""
  assert 'x (nothing)' in verifier.compare(LINE, '')
  assert '<-1> who' in verifier.compare(LINE, '<-1> who')
  assert '... and 36 more' in verifier.compare(LINE, '= ' * 40)


def test_letters_that_spell_a_name():
  """The answer e, n, d taken for the end of the trace, or shown as it."""
  line = _line(TASKS['26 letters'], trace='C earlier reverse dne C e n d = e n d end')
  assert verifier.verify(line, line['trace'])['strict']
  assert not verifier.verify(line, line['trace'].replace('= e n d', '= end'))['answer']
  assert '    = e n d end' in verifier.compare(line, line['trace'])


def test_reward_takes_columns():
  """A reward for the structure or the whole trace instead of the answer, or rows mixed up."""
  other = _line(TASK, trace='A previous reverse ab A ba = ba end')
  columns = {key: [LINE[key], other[key]] for key in LINE}
  said = ['= bdcee end', '= ab end']
  assert verifier.reward(prompts=['', ''], completions=said, extra=[1, 2], **columns) == [1.0, 0.0]


def test_it_runs_without_the_package(tmp_path):
  """An import beyond the standard library: the file could not be copied to where it is needed."""
  shutil.copy(verifier.__file__, tmp_path)
  code = f'import verifier; print(verifier.verify({LINE!r}, {GOLDEN!r})["strict"])'
  command = [sys.executable, '-S', '-c', code]
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert result.stdout == 'True\n', result.stderr
