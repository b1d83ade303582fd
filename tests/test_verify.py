"""Verdicts on traces: total, and exact for every kind of mistake."""

import functools
import random
from typing import NamedTuple

import jax
import numpy as np
import pytest

from compgen_jax.task import latent, render, verify
from tests import helpers, reference

in_both_forms = pytest.mark.parametrize('form', ['explicit', 'compact'])
COLUMNS = 128


@functools.cache
def _verify_function(t):
  return helpers.batched(lambda problem, trace_C: verify.verify(problem, trace_C, t))


def verdicts(rows, ids_BxC, t):
  """The package's verdicts on token ids, a row for each reference problem."""
  return _verify_function(t)(helpers.make_problems(rows, t), ids_BxC)


def columns(traces, t) -> np.ndarray:
  """Token ids of traces given by token names, padded."""
  out = np.full((len(traces), COLUMNS), t.pad, np.int32)
  for i, tokens in enumerate(traces):
    out[i, : len(tokens)] = helpers.token_ids(tokens, t)
  return out


# By hand ------------------------------------------------------------------------------------------

STEPS = (('earlier', 'reverse'), ('merge', 'successor'), ('bind_first', 'rotate_left'))
EXAMPLE = reference.Problem(STEPS, ('bca', 'dd'))
STEP_1, STEP_2 = 'C earlier reverse bca C acb', 'D merge successor acbdd D bdcee'
STEP_3 = 'E bind_first rotate_left bbdcee E bdceeb'
EXPLICIT = f'{STEP_1} {STEP_2} {STEP_3}'
COMPACT = 'C earlier reverse C acb D merge successor D bdcee E bind_first rotate_left E bdceeb'
ANSWER = ' = bdceeb end'


class Case(NamedTuple):
  """A trace and what is wrong with it; '+' and '-' are what the verdicts must be."""

  name: str
  trace: str
  verdict: str  # answer, structure, strict
  operand_ok: str  # of the 3 steps
  result_ok: str


def changed(golden, old, new):
  assert golden.count(old) == 1, (golden, old)
  return golden.replace(old, new)


E, NONE, ALL = EXPLICIT + ANSWER, '---', '+++'
MALFORMED = '+--', NONE, NONE  # the right answer, but not the structure
UNFINISHED = '---', NONE, NONE
EXPLICIT_CASES = [
    Case('golden', E, '+++', ALL, ALL),
    Case('tokens after the end', E + ' C earlier = abc end end', '+++', ALL, ALL),
    Case('wrong letter in an operand', changed(E, 'e bca', 'e bcb'), '++-', '-++', '-++'),
    Case('wrong operand, skill right', changed(E, 'bca C acb', 'bcb C bcb'), '++-', '--+', '+++'),
    Case('wrong letter in a result', changed(E, 'C acb', 'C acc'), '++-', '+-+', '-++'),
    Case('wrong result, used as it is',
         changed(changed(E, 'C acb', 'C acc'), 'acbdd D bdcee', 'accdd D bddee'),
         '++-', '++-', '-++'),
    Case('wrong letter in the last result', changed(E, 'E bdceeb', 'E bdceea'), '++-', ALL, '++-'),
    Case('wrong letter in the answer', changed(E, '= bdceeb', '= bdceea'), '-+-', ALL, ALL),
    Case('letter too many in the answer', changed(E, '= bdceeb', '= bdceeba'), '-+-', ALL, ALL),
    Case('letter missing in the answer', changed(E, '= bdceeb', '= bdcee'), '-+-', ALL, ALL),
    Case('empty answer', changed(E, '= bdceeb', '='), '-+-', ALL, ALL),
    Case('overlong operand', changed(E, 'acbdd', 'acbddaaaa'), '++-', '+-+', '+-+'),
    Case('overlong result', changed(E, 'E bdceeb', 'E bdceebb'), '++-', '+++', '++-'),
    Case('empty operand', changed(E, 'reverse bca', 'reverse'), '++-', '-++', '-++'),
    Case('empty operand and result', changed(E, 'bca C acb', 'C'), '++-', '--+', '-++'),
    Case('wrong skill', changed(E, 'earlier reverse', 'earlier opposite'), *MALFORMED),
    Case('wrong routing', changed(E, 'C earlier', 'C previous'), *MALFORMED),
    Case('modules exchanged', changed(E, 'earlier reverse', 'reverse earlier'), *MALFORMED),
    Case('missing step', changed(E, STEP_2, ''), *MALFORMED),
    Case('extra step', changed(E, ' =', ' F previous reverse bdceeb F beecdb ='), *MALFORMED),
    Case('step written twice', f'{STEP_1} {STEP_1} {STEP_2} {STEP_3} {ANSWER}', *MALFORMED),
    Case('swapped steps', f'{STEP_2} {STEP_1} {STEP_3} {ANSWER}', *MALFORMED),
    Case('wrong label', changed(E, 'D merge', 'F merge'), *MALFORMED),
    Case('wrong label of a result', changed(E, 'D bdcee', 'C bdcee'), *MALFORMED),
    Case('missing label of a result', changed(E, 'D bdcee', 'bdcee'), *MALFORMED),
    Case('letter before the first label', 'a ' + E, *MALFORMED),
    Case('letter after a label', changed(E, 'D merge', 'D a merge'), *MALFORMED),
    Case('letter after a routing', changed(E, 'merge ', 'merge a '), *MALFORMED),
    Case('marker amid letters', changed(E, 'bbdcee', 'bbd pad cee'), *MALFORMED),
    Case('no end', changed(E, ' end', ''), *UNFINISHED),
    Case('end first', 'end ' + E, *UNFINISHED),
    Case('end before the answer', changed(E, '=', '= end'), '-+-', ALL, ALL),
    Case('no =', changed(E, ' =', ''), *UNFINISHED),
    Case('two =, the last one right', changed(E, ' =', ' = aaa ='), *MALFORMED),
    Case('two =, the first one right', changed(E, ' end', ' = end'), *UNFINISHED),
    Case('marker in the answer', changed(E, '= bdceeb', '= bdc A eeb'), *UNFINISHED),
    Case('answer alone', '= bdceeb end', *MALFORMED),
    Case('rubbish and then the answer', 'solve D D solve pad abc merge = = bdceeb end', *MALFORMED),
    Case('nothing', '', *UNFINISHED),
    Case('an end', 'end', *UNFINISHED),
    Case('the compact form', COMPACT + ANSWER, '++-', '---', '---'),
]  # fmt: skip

C = COMPACT + ANSWER
WRONG_USED = changed(changed(C, 'C acb', 'C acc'), 'D bdcee', 'D bddee')
COMPACT_CASES = [
  Case('golden', C, '+++', ALL, ALL),
  Case('tokens after the end', C + ' = abc end', '+++', ALL, ALL),
  Case('wrong letter in a result', changed(C, 'C acb', 'C acc'), '++-', ALL, '--+'),
  Case('wrong result, used as it is', WRONG_USED, '++-', ALL, '-+-'),
  Case('wrong letter in the last result', changed(C, 'E bdceeb', 'E bdceea'), '++-', ALL, '++-'),
  Case('empty result', changed(C, 'E bdceeb', 'E'), '++-', ALL, '++-'),
  Case('wrong letter in the answer', changed(C, '= bdceeb', '= bdceea'), '-+-', ALL, ALL),
  Case('wrong skill', changed(C, 'earlier reverse', 'earlier opposite'), *MALFORMED),
  Case('missing step', changed(C, 'D merge successor D bdcee', ''), *MALFORMED),
  Case('extra step', changed(C, ' =', ' F previous reverse F beecdb ='), *MALFORMED),
  Case('wrong label', changed(C, 'D merge', 'F merge'), *MALFORMED),
  Case('an operand, which the form lacks', changed(C, 'reverse C', 'reverse bca C'), *MALFORMED),
  Case('no end', changed(C, ' end', ''), *UNFINISHED),
  Case('two =, the last one right', changed(C, ' =', ' = aaa ='), *MALFORMED),
  Case('the explicit form', E, *MALFORMED),
]


def tokens_of(text) -> list[str]:
  """The tokens of a trace that is written with its strings as words."""
  tokens = []
  for word in text.split():
    tokens += list(word) if set(word) <= set('abcdefgh') else [word]
  return tokens


def signs(bits) -> str:
  return ''.join('+' if bit else '-' for bit in bits)


@pytest.mark.parametrize('form, cases', [('explicit', EXPLICIT_CASES), ('compact', COMPACT_CASES)])
def test_by_hand(form, cases):
  """Catches a verdict that is wrong for a kind of mistake: each is written out, with what each
  verdict must say."""
  t = helpers.task(trace=form)
  got = verdicts([EXAMPLE] * len(cases), columns([tokens_of(c.trace) for c in cases], t), t)
  for i, case in enumerate(cases):
    said = signs([got.answer[i], got.structure[i], got.strict[i]])
    assert (said, signs(got.operand_ok[i, :3]), signs(got.result_ok[i, :3])) == case[2:], case.name
    assert not np.any(got.operand_ok[i, 3:]) and not np.any(got.result_ok[i, 3:])


# On any problem -----------------------------------------------------------------------------------


@in_both_forms
def test_golden_traces_pass(form):
  """Catches a verdict that a perfect model can't reach, at some depth, or for some label."""
  t = helpers.task(trace=form)
  rows = helpers.random_problems(t, 1500)
  got = verdicts(rows, columns([reference.trace(p, helpers.reference_task(t)) for p in rows], t), t)
  within = np.arange(t.max_depth) < np.array([len(p.steps) for p in rows])[:, None]
  assert got.answer.all() and got.structure.all() and got.strict.all()
  np.testing.assert_array_equal(got.operand_ok, within)
  np.testing.assert_array_equal(got.result_ok, within)


def mutated(tokens, t, rng) -> list[str]:
  """0 to 3 random edits: a token replaced, dropped, added, two exchanged, a stretch doubled; likely
  letters."""
  tokens = list(tokens)
  names = list(t.token_names())
  for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3])):
    i, j = sorted(rng.choices(range(len(tokens)), k=2))
    if rng.random() < 0.5:  # change a letter only, so that the structure survives
      at = [k for k, token in enumerate(tokens) if token in names[: t.alphabet]]
      if at:
        tokens[rng.choice(at)] = rng.choice(names[: t.alphabet])
      continue
    edit = rng.choice(['replace', 'drop', 'add', 'exchange', 'double'])
    if edit == 'replace':
      tokens[i] = rng.choice(names)
    elif edit == 'drop' and len(tokens) > 1:
      del tokens[i]
    elif edit == 'add':
      tokens.insert(i, rng.choice(names[: t.alphabet] if rng.random() < 0.5 else names))
    elif edit == 'exchange':
      tokens[i], tokens[j] = tokens[j], tokens[i]
    else:
      tokens[i:i] = tokens[i : min(j, i + 6)]
  return tokens[:COLUMNS]


def until_end(tokens) -> list[str] | None:
  """The tokens up to the first `end`; None if there is none."""
  return tokens[: tokens.index('end') + 1] if 'end' in tokens else None


def assert_same(got, wanted, rows):
  """The package's verdicts equal the reference's."""
  for field in ('answer', 'structure', 'strict'):
    np.testing.assert_array_equal(getattr(got, field), [getattr(v, field) for v in wanted], field)
  for field in ('operand_ok', 'result_ok'):
    for i, (v, problem) in enumerate(zip(wanted, rows)):
      if v.proper:
        bits = getattr(got, field)[i].tolist()
        beyond = [False] * (len(bits) - len(problem.steps))
        assert bits == list(getattr(v, field)) + beyond, (field, i, problem)


@in_both_forms
def test_mutated_traces_equal_reference(form):
  """Catches any verdict that differs from the reference's on a golden trace with a few random
  mistakes."""
  t, rng = helpers.task(trace=form), random.Random(0)
  rows, want = helpers.random_problems(t, 4096), helpers.reference_task(t)
  golden = [reference.trace(p, want) for p in rows]
  traces = [mutated(tokens, t, rng) for tokens in golden]
  got = verdicts(rows, columns(traces, t), t)
  assert_same(got, [reference.verdict(tokens, p, want) for tokens, p in zip(traces, rows)], rows)
  for field in (got.answer, got.structure, got.strict):
    assert 0.1 < field.mean() < 0.9  # both verdicts occur often
  assert np.any(got.structure & ~got.strict)


@in_both_forms
def test_strict_is_equality_with_the_golden_trace(form):
  """Catches a loophole: strict holds exactly where the tokens up to `end` are the golden ones."""
  t, rng = helpers.task(trace=form), random.Random(1)
  rows, want = helpers.random_problems(t, 4096, seed=1), helpers.reference_task(t)
  golden = [reference.trace(p, want) for p in rows]
  traces = []
  for tokens in golden:
    behind = rng.choices(t.token_names(), k=rng.choice([0, 3]))
    traces.append((mutated(tokens, t, rng) + behind)[:COLUMNS])
  same = [until_end(a) == b for a, b in zip(traces, golden)]
  got = verdicts(rows, columns(traces, t), t)
  np.testing.assert_array_equal(got.strict, same)
  assert 0.1 < np.mean(same) < 0.9


def mistakes(problem, i, t, rng) -> dict[str, tuple[list[str], bool, bool]]:
  """Kind of mistake -> a trace with one such mistake (in step i, if it is in a step), and whether
  its answer and its structure are right."""
  want = helpers.reference_task(t)
  golden = reference.trace(problem, want)
  values, operands = reference.execute(problem, want)
  if not want.explicit:
    operands = [''] * len(operands)
  lengths = [4 + len(operand) + len(result) for operand, result in zip(operands, values[2:])]
  start = [sum(lengths[:k]) for k in range(len(lengths) + 1)]
  here, after, equals = start[i], start[i + 1], start[-1]
  name = here + 3 + len(operands[i])  # the column of the result's label
  letters, labels = want.letters, t.token_names()[t.label_0 : t.routing_0]
  modules = t.token_names()[t.routing_0 : t.special_0]

  def changed_at(column, among):
    other = rng.choice([token for token in among if token != golden[column]])
    return golden[:column] + [other] + golden[column + 1 :]

  rubbish = rng.choices([x for x in t.token_names() if x != 'end'], k=20)
  made = {
    'result': (changed_at(rng.randrange(name + 1, after), letters), True, True),
    'answer': (changed_at(rng.randrange(equals + 1, len(golden) - 1), letters), False, True),
    'routing': (changed_at(here + 1, modules), True, False),
    'skill': (changed_at(here + 2, modules), True, False),
    'label': (changed_at(here, labels), True, False),
    'label of the result': (changed_at(name, labels), True, False),
    'missing step': (golden[:here] + golden[after:], True, False),
    'step twice': (golden[:after] + golden[here:], True, False),
    'no end': (golden[:-1], False, False),
    'two =': (golden[:equals] + ['='] + golden[equals:], True, False),
    'rubbish, then the answer': (rubbish + golden[equals:], True, False),
  }
  if want.explicit:
    made['operand'] = (changed_at(rng.randrange(here + 3, name), letters), True, True)
  if i + 1 < len(lengths):
    last = start[i + 2]
    swapped = golden[:here] + golden[after:last] + golden[here:after] + golden[last:]
    made['swapped steps'] = (swapped, True, False)
  return made


@in_both_forms
def test_every_kind_of_mistake_at_every_depth(form):
  """Catches a mistake that is overlooked at some depth or step: one in every problem, all kinds."""
  t, rng = helpers.task(trace=form), random.Random(2)
  rows, traces, expected, kinds = helpers.random_problems(t, 1200), [], [], []
  for n, problem in enumerate(rows):
    i = rng.randrange(len(problem.steps))
    made = mistakes(problem, i, t, rng)
    kind = list(made)[n % len(made)]
    trace, answer, structure = made[kind]
    traces.append(trace)
    expected.append((answer, structure))
    kinds.append((kind, i))
  got = verdicts(rows, columns(traces, t), t)
  np.testing.assert_array_equal(np.stack([got.answer, got.structure], axis=1), expected)
  assert not got.strict.any()
  assert len({kind for kind, _ in kinds}) == (13 if form == 'explicit' else 12)
  for n, (kind, i) in enumerate(kinds):
    if kind == 'operand':  # exactly this operand is wrong
      assert np.flatnonzero(~got.operand_ok[n, : len(rows[n].steps)]).tolist() == [i]
    if kind == 'result':
      assert not got.result_ok[n, i]


@in_both_forms
def test_right_answer_is_rewarded_whatever_the_steps(form):
  """Catches a reward that looks at the steps: random markers and letters, then the right answer."""
  t, rng = helpers.task(trace=form), random.Random(3)
  rows = helpers.random_problems(t, 512)
  tokens = [x for x in t.token_names() if x != 'end']
  answers = [reference.execute(p, helpers.reference_task(t))[0][-1] for p in rows]
  traces = [rng.choices(tokens, k=rng.randrange(60)) + ['=', *answer, 'end'] for answer in answers]
  assert verdicts(rows, columns(traces, t), t).answer.all()


@in_both_forms
def test_total_on_garbage(form):
  """Catches a crash or an undeserved verdict on tokens that are none: any integers, also negative
  and huge ones."""
  t, rng = helpers.task(trace=form), np.random.default_rng(0)
  rows, want = helpers.random_problems(t, 2048), helpers.reference_task(t)
  info = np.iinfo(np.int32)
  huge = rng.integers(info.min, info.max, (2048, COLUMNS), endpoint=True).astype(np.int32)
  ids = rng.integers(-3, t.vocab_size + 3, (2048, COLUMNS)).astype(np.int32)
  golden = columns([reference.trace(p, want) for p in rows], t)
  extreme = rng.choice(np.array([info.min, info.max, -1, t.vocab_size], np.int32), golden.shape)
  spoilt = np.where(rng.random(golden.shape) < 0.02, extreme, golden)
  kind = np.arange(2048)[:, None] % 4
  traces = np.select([kind == 0, kind == 1, kind == 2], [huge, ids, spoilt], extreme)
  got = verdicts(rows, traces, t)
  assert all(x.dtype == bool for x in jax.tree.leaves(got))
  assert_same(
    got,
    [reference.verdict(helpers.token_names(ids, t), p, want) for ids, p in zip(traces, rows)],
    rows,
  )
  assert got.strict.any()  # some golden traces stay unspoilt up to their end


def test_any_number_of_columns():
  """Catches indexing that needs a full-width trace: traces may be cut off after 20 tokens."""
  t = helpers.task()
  rows, want = helpers.random_problems(t, 512), helpers.reference_task(t)
  traces = columns([reference.trace(p, want) for p in rows], t)[:, :20]
  got = verdicts(rows, traces, t)
  assert_same(
    got,
    [reference.verdict(helpers.token_names(ids, t), p, want) for ids, p in zip(traces, rows)],
    rows,
  )
  assert 0 < got.strict.mean() < 1


@in_both_forms
def test_dry_steps_are_not_judged(form):
  """Catches dry letters that are called wrong, and real steps not judged by the dry ones before."""
  t, n = helpers.task(trace=form), 400
  steps = helpers.random_compositions(t, n, (3, 4), t.max_depth)
  dry = (np.arange(n) % 3).astype(np.int32)

  @jax.jit
  @jax.vmap
  def golden(key, steps, dry):
    problem = latent.sample(key, steps, t, dry)
    return problem, render.render(problem, t, t.max_depth)

  problems, rendered = jax.device_get(golden(jax.random.split(jax.random.key(0), n), steps, dry))
  run = _verify_function(t)
  step = np.arange(t.max_depth)
  real = (step >= dry[:, None]) & (step < steps.depth[:, None])
  got = run(problems, rendered.trace)
  assert got.answer.all() and got.structure.all() and got.strict.all()
  np.testing.assert_array_equal(got.operand_ok, real)
  np.testing.assert_array_equal(got.result_ok, real)

  # Another letter in the last result: wrong where the last step is real, whatever came before.
  said = rendered.trace.copy()
  ends = np.array([np.flatnonzero(row == t.equals)[0] - 1 for row in said])
  said[np.arange(n), ends] = (said[np.arange(n), ends] + 1) % t.alphabet
  got = run(problems, said)
  assert got.answer.all() and got.structure.all() and not got.strict.any()
  last = step == steps.depth[:, None] - 1
  np.testing.assert_array_equal(got.result_ok, real & ~last)
