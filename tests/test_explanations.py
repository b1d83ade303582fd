"""Which selections explain steps: against brute force in plain Python, and on traces by hand."""

import jax
import numpy as np

from compgen_jax.experiment import asking
from compgen_jax.task import modules
from compgen_jax.task.verify import Verdict
from compgen_jax.theory import explanations, witnesses
from compgen_jax.theory.explanations import ERRORS
from tests import helpers, oracles, reference

TASK, N = oracles.TASK, oracles.N
QUESTION = helpers.random_compositions(TASK, N, (1, 2, 3), 3)


def explaining_pairs(values, operand, result, task) -> set[tuple[int, int]]:
  """By trying all pairs in the reference."""
  letters = helpers.letters(task.alphabet)
  found = set()
  for r, routing in enumerate(modules.names(task.routing_inventory)):
    routed = reference.route(routing, values, letters, task.width)
    if operand in (None, routed):
      for s, skill in enumerate(modules.names(task.skill_inventory)):
        if oracles.SKILLS[skill](routed, letters, task.width) == result:
          found.add((r, s))
  return found


def test_explanations_of_a_models_traces_are_those_of_brute_force():
  """Golden strings in place of the model's own, a count over the wrong axis, or a selection that
  does not explain the step."""

  def errs(steps, i, parents):
    return ('', 'operand', 'result', 'successor')[(2 * i + len(steps)) % 4]

  question = QUESTION
  judged, tokens = asking.ask(oracles.writer(TASK, errs), TASK, question, 0)
  assert judged.verdict.structure.all()
  is_wrong = False
  for row in range(0, N, 7):
    names = helpers.token_names(tokens[row], TASK)
    words = ''.join(n if n in 'abcdefgh' else f' {n} ' for n in names).split()
    inputs = jax.tree.map(lambda v: v[row, :2], judged.said.values)
    values = helpers.decode(inputs)
    for step in range(question.depth[row]):
      # label, routing, skill, operand, label, result
      operand, result = words[6 * step + 3], words[6 * step + 5]
      found = explaining_pairs(values, operand, result, TASK)
      mine = jax.tree.map(lambda x: x[row, step], judged.explained)
      routings, skills = ({pair[i] for pair in found} for i in (0, 1))
      assert (mine.routings, mine.skills) == (len(routings), len(skills))
      assert mine.pairs == len(found)
      asked = (question.routing[row, step], question.skill[row, step])
      chosen = asked if asked in found else min(found, default=None)
      at = -1 if chosen is None else chosen[0] * TASK.n_skills + chosen[1]
      assert mine.selection == at
      is_wrong |= bool(found) and asked not in found
      values.append(result)
  assert is_wrong  # some error looks like another selection: the interesting case is covered
  beyond = np.arange(3) >= question.depth[:, None]
  assert np.all(judged.explained.pairs[beyond] == 0)
  assert np.all(judged.explained.selection[beyond] == -1)


def test_golden_steps_are_explained_by_what_was_asked():
  """A posterior of other strings than those of the trace, or other problems than were asked."""
  explained = asking.golden(TASK, QUESTION, 0)
  used = np.arange(3) < QUESTION.depth[:, None]
  asked = QUESTION.routing * TASK.n_skills + QUESTION.skill
  np.testing.assert_array_equal(explained.selection, np.where(used, asked, -1))
  judged, _ = asking.ask(oracles.writer(TASK, oracles.perfect), TASK, QUESTION, 0)
  for ours, theirs in zip(judged.explained, explained):
    np.testing.assert_array_equal(ours, theirs)


def test_ambiguity_by_module():
  """Routing counted as skill, or steps beyond the depth. At depth 1 `earlier` is `first_input`."""
  rows = [(('earlier', 'climb'),)] * (N // 2)
  rows += [(('previous', 'successor'), ('previous', 'climb'))] * (N // 2)
  question = helpers.composition(rows, TASK, 3)
  counts = explanations.golden_ambiguity(asking.golden(TASK, question, 0), question, TASK)
  names = witnesses.module_names(TASK)
  steps, ambiguous = (dict(zip(names, x.tolist())) for x in counts)
  used = {name: n for name, n in steps.items() if n}
  assert used == {'previous': N, 'earlier': N // 2, 'successor': N // 2, 'climb': N}
  assert ambiguous['earlier'] == N // 2 and ambiguous['previous'] < N // 10
  assert ambiguous['climb'] == N  # by its copy, which is another module
  assert ambiguous['successor'] < N // 10 and not ambiguous['merge']


def test_wrong_structure_is_not_explained():
  """Strings read from the wrong places of a broken trace, and then explained."""

  def write(problems, rendered, key, ids_B, temperature):
    right = oracles.writer(TASK, oracles.perfect)(problems, rendered, key, ids_B, temperature)
    return np.concatenate([right[:, 1:], right[:, -1:]], axis=1)  # without its first label

  judged, _ = asking.ask(write, TASK, QUESTION, 0)
  assert judged.verdict.answer.all() and not judged.verdict.structure.any()
  assert not judged.explained.pairs.any() and np.all(judged.explained.selection == -1)


def test_first_wrong_step_by_kind():
  """A later error reported, an operand called a result, or an answer-only trace called right."""
  t, f = True, False
  rows = [  # answer, structure, strict, operands, results; depth 2 of 3
    ((t, t, t, (t, t, f), (t, t, f)), None, -1),
    ((t, f, f, (f, f, f), (f, f, f)), 'structure', -1),
    ((f, t, f, (t, f, f), (t, f, f)), 'operand', 1),
    ((t, t, f, (t, f, f), (f, t, f)), 'result', 0),
    ((f, t, f, (t, t, f), (t, t, f)), 'end', -1),
  ]
  verdict = Verdict(*(np.array(x) for x in zip(*(row for row, *_ in rows))))
  kind, step = explanations.first_wrong(verdict, np.full(len(rows), 2))
  assert [None if k < 0 else ERRORS[k] for k in kind] == [want for _, want, _ in rows]
  assert step.tolist() == [want for *_, want in rows]


def test_what_is_explored_is_counted_within_prompts():
  """Unrewarded samples counted, or one prompt's traces told apart from another's."""
  tokens = np.array([[[1, 2], [1, 2], [3, 4], [5, 6]], [[1, 2], [7, 8], [7, 8], [7, 9]]])
  selection = np.array([[[0], [0], [0], [1]], [[0], [1], [1], [1]]])
  rewarded = np.array([[1, 1, 1, 0], [0, 1, 1, 1]], bool)
  found = explanations.explored(tokens, selection, rewarded)
  assert [x.tolist() for x in found] == [[3, 3], [2, 2], [1, 1]]
