"""Problem -> tokens: equal to the reference's, within the widths, and showing nothing that they
should not."""

import functools
import re

import jax
import numpy as np
import pytest

from compgen_jax.task import latent, modules, render
from tests import helpers, reference
from tests.helpers import as_rows

# Inputs of up to 6 letters, so that a string of a prompt can be as long as the width cap.
TASKS = {form: helpers.task(trace=form, max_input=6) for form in ('explicit', 'compact')}
in_both_forms = pytest.mark.parametrize('form', ['explicit', 'compact'])


@functools.cache
def _render_function(t, depth_cap):
  return helpers.batched(lambda p: render.render(p, t, depth_cap))


def rendered(rows, t, depth_cap=None):
  """The package's tokens of reference problems."""
  return _render_function(t, depth_cap or t.max_depth)(helpers.make_problems(rows, t))


def text(ids, t) -> str:
  return ' '.join(helpers.token_names(ids, t))


@in_both_forms
def test_equals_reference(form):
  """Catches any wrong token: a module offset, labels that do not wrap, an operand in a compact
  trace, padding on the wrong side, `end` or a length forgotten; for all depths and starting
  labels."""
  t = TASKS[form]
  rows, want = helpers.random_problems(t, 1500, longest=t.max_input), helpers.reference_task(t)
  assert {p.first_label for p in rows} == set(range(10))
  got = rendered(rows, t)
  assert got.prompt.shape == (1500, t.prompt_width(6))
  assert got.trace.shape == (1500, t.trace_width(6))
  for i, problem in enumerate(rows):
    prompt, trace = reference.prompt(problem, want), reference.trace(problem, want)
    padding = ['pad'] * (t.prompt_width(6) - len(prompt)), ['pad'] * (t.trace_width(6) - len(trace))
    assert helpers.token_names(got.prompt[i], t) == padding[0] + prompt
    assert helpers.token_names(got.trace[i], t) == trace + padding[1]
    assert got.prompt_length[i] == len(prompt) and got.trace_length[i] == len(trace)
    assert got.dry_length[i] == 0
    assert trace[-1] == 'end' and trace.count('end') == 1


def as_shown(ids, t) -> list[str]:
  """The tokens, neighbouring letters written as one word."""
  return re.sub(r'(?<=\b[a-h]) (?=[a-h]\b)', '', text(ids, t)).split()


def test_docstring_example():
  """Catches a module docstring that shows another format than the one that is rendered."""
  lines = re.findall(r'^  (prompt|explicit|compact) +(.*)$', render.__doc__, re.M)
  shown = {name: line.split() for name, line in lines}
  problem = reference.Problem((('earlier', 'reverse'), ('merge', 'successor')), ('bca', 'dd'))
  words = [token for token in shown['prompt'] if set(token) <= set('abcd')]
  assert words == ['bca', 'dd']
  for form in ('explicit', 'compact'):
    t = TASKS[form]
    got = rendered([problem], t)
    prompt = np.roll(got.prompt[0], got.prompt_length[0])[: got.prompt_length[0]]
    assert as_shown(prompt, t) == shown['prompt']
    assert as_shown(got.trace[0, : got.trace_length[0]], t) == shown[form]


@functools.cache
def _partly_dry(t):
  """Problems of 4 steps, 0 to 4 of them dry: as rendered, and with the dry steps given."""
  steps = helpers.random_compositions(t, 500, (4,), 4)
  dry = (np.arange(500) % 5).astype(np.int32)
  width, n_trace = t.dry_width(4), t.trace_width(4)

  def one(key, steps, dry):
    problem = latent.sample(key, steps, t, dry)
    plain = render.render(problem, t, 4)
    given = render.give(plain, width, n_trace, t)
    whole = render.whole_trace(given.prompt, given.dry_length, given.trace, width, t)
    return problem, plain, given, whole

  keys = jax.random.split(jax.random.key(0), 500)
  return jax.device_get(jax.jit(jax.vmap(one))(keys, steps, dry))


@in_both_forms
def test_dry_columns(form):
  """Catches a dry part that is cut too early or too late: it ends with the label of the first real
  step, or with the trace."""
  t = TASKS[form]
  problems, plain, _, _ = _partly_dry(t)
  routings = modules.names(t.routing_inventory)
  for i, n_dry in enumerate(problems.dry):
    trace = helpers.token_names(plain.trace[i, : plain.trace_length[i]], t)
    first_modules = [column for column, name in enumerate(trace) if name in routings]
    end = first_modules[n_dry] if n_dry < 4 else len(trace)
    assert plain.dry_length[i] == (end if n_dry else 0)
    assert plain.dry_length[i] <= t.dry_width(n_dry) or n_dry == 4


@in_both_forms
def test_dry_steps_are_given(form):
  """Catches tokens that are lost, doubled or moved when dry steps go from the trace to the
  prompt."""
  t = TASKS[form]
  problems, plain, given, whole = _partly_dry(t)

  def real(tokens):
    return tokens[tokens != t.pad].tolist()

  for i in np.flatnonzero(problems.dry < 4):
    n = plain.dry_length[i]
    trace = real(plain.trace[i])
    assert real(given.prompt[i]) == real(plain.prompt[i]) + trace[:n]
    assert given.prompt[i, -1] == (trace[n - 1] if n else t.equals)
    assert given.trace[i, : len(trace) - n].tolist() == trace[n:]
    assert given.prompt_length[i] == plain.prompt_length[i] + n
    assert given.trace_length[i] == plain.trace_length[i] - n
    assert whole[i, : len(trace)].tolist() == trace and not np.any(whole[i, len(trace) :] != t.pad)


@in_both_forms
def test_widths_are_exact(form):
  """Catches a width that the longest problem exceeds (its tokens would be cut) or that wastes
  columns."""
  t = TASKS[form]
  steps = (('merge', 'successor'), ('interleave', 'reverse'), ('previous', 'append_next')) * 2
  longest = reference.Problem(steps, ('abcdef', 'ghabcd'), first_label=9)
  for depth in (3, 6) if form == 'explicit' else (6,):
    got = rendered([longest._replace(steps=steps[:depth])], t, depth)
    assert got.prompt.shape[1] == t.prompt_width(depth) == got.prompt_length[0]
    assert got.trace.shape[1] == t.trace_width(depth) == got.trace_length[0]
    assert text(got.trace[0], t).endswith('end') and not np.any(got.trace[0] == t.pad)


@in_both_forms
def test_lengths_never_exceed_the_widths(form):
  """Catches a skill or mechanism whose strings outgrow what the columns were counted for."""
  t = TASKS[form]
  rows = helpers.random_problems(t, 1500, seed=1, longest=6)
  rows = [p._replace(inputs=tuple((word * 6)[:6] for word in p.inputs)) for p in rows]
  got, want = rendered(rows, t), helpers.reference_task(t)
  assert got.prompt_length.max() == t.prompt_width(6) and got.trace_length.max() <= t.trace_width(6)
  assert got.trace_length.tolist() == [len(reference.trace(p, want)) for p in rows]


def test_a_prompt_does_not_depend_on_the_depth_cap():
  """Catches columns that shift with the cap: with more room there is more padding and nothing
  else."""
  t = TASKS['explicit']
  rows = [p for p in helpers.random_problems(t, 200) if len(p.steps) <= 3]
  wide, narrow = rendered(rows, t, 6), rendered(rows, t, 3)
  np.testing.assert_array_equal(wide.prompt[:, -narrow.prompt.shape[1] :], narrow.prompt)
  np.testing.assert_array_equal(wide.trace[:, : narrow.trace.shape[1]], narrow.trace)
  assert np.all(wide.prompt[:, : -narrow.prompt.shape[1]] == t.pad)


def test_a_prompt_reveals_no_definition():
  """Catches a result that leaks into the prompt: it is a function of inputs, names and label
  alone."""
  t = TASKS['explicit']
  problems = helpers.make_problems(helpers.random_problems(t, 300), t)

  def shuffled(s, keep):
    return jax.tree.map(lambda x: np.concatenate([x[:, :keep], x[::-1, keep:]], axis=1), s)

  other = problems._replace(
    values=shuffled(problems.values, 2),
    operands=shuffled(problems.operands, 0),
    answer=jax.tree.map(lambda x: x[::-1], problems.answer),
  )
  assert np.any(as_rows(other.values) != as_rows(problems.values))
  a, b = _render_function(t, 6)(problems), _render_function(t, 6)(other)
  np.testing.assert_array_equal(a.prompt, b.prompt)
  assert np.any(a.trace != b.trace)


def test_token_names_are_distinct():
  """Catches overlapping id ranges of letters, labels, modules and specials."""
  t = helpers.task(
    alphabet=6, n_labels=7, skills=('fork', 'reverse'), routings=('merge', 'previous', 'greater')
  )
  named = ('merge', 'previous', 'greater', 'fork', 'reverse', 'solve', '=', 'end', 'pad')
  assert t.token_names() == (*'abcdef', *'ABCDEFG', *named)
  assert len(t.token_names()) == t.vocab_size == len(set(t.token_names()))
  ids = (t.label_0, t.routing_0, t.skill_0, t.solve, t.equals, t.end, t.pad)
  assert helpers.token_names(ids, t) == ['A', 'merge', 'fork', 'solve', '=', 'end', 'pad']
