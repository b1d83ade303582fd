"""The latent selection model: execution and the posterior of the selections."""

import functools

import jax
import numpy as np
import pytest

from compgen_jax.task import latent, modules
from tests import helpers, reference
from tests.helpers import as_rows

TASKS = [
  helpers.task(),
  helpers.task(alphabet=6, width=8, max_input=5, max_depth=4),
  helpers.task(
    routings=('merge', 'earlier', 'previous'), skills=('fork', 'reverse', 'append_next')
  ),
]
in_all_tasks = pytest.mark.parametrize(
  't', TASKS, ids=['default', 'alphabet6_width8', 'small_inventory']
)


@in_all_tasks
def test_execute_equals_reference(t):
  """Catches steps that read the wrong values or run the wrong module, at every depth."""
  rows = helpers.random_problems(t, 3000, longest=t.width)
  problems = helpers.make_problems(rows, t)
  for depth in range(1, t.max_depth + 1):
    at = [i for i, p in enumerate(rows) if len(p.steps) == depth]
    done = [reference.execute(rows[i], helpers.reference_task(t)) for i in at]
    assert len(at) > 100
    for got, want in (
      (problems.values, [v for v, _ in done]),
      (problems.operands, [o for _, o in done]),
    ):
      n = len(want[0])
      want = as_rows(helpers.encode([word for row in want for word in row], t.width)).reshape(
        len(at), n, -1
      )
      np.testing.assert_array_equal(as_rows(got)[at, :n], want)


@in_all_tasks
def test_answer_is_the_last_result(t):
  """Catches an answer taken from a step beyond the depth, or values that are not repeated there."""
  rows = helpers.random_problems(t, 300)
  problems = helpers.make_problems(rows, t)
  answers = helpers.decode(problems.answer)
  assert answers == [reference.execute(p, helpers.reference_task(t))[0][-1] for p in rows]
  values, depth = as_rows(problems.values), problems.composition.depth
  beyond = np.arange(t.max_depth + 2) > depth[:, None] + 1
  np.testing.assert_array_equal(
    values[beyond], np.repeat(as_rows(problems.answer), beyond.sum(axis=1), axis=0)
  )


def test_dry_problems_say_nothing_of_modules():
  """Catches a dry problem that lets a module show through, or whose strings all have one length."""
  t, n = TASKS[0], 4000
  keys = jax.random.split(jax.random.key(0), n)
  sampled = []
  for pair in (('previous', 'reverse'), ('merge', 'successor')):
    steps = jax.tree.map(lambda x: jax.numpy.asarray(x[0]), helpers.composition([[pair] * 3], t, 3))
    sampled.append(
      jax.device_get(jax.jit(jax.vmap(lambda k, c=steps: latent.sample(k, c, t, dry=3)))(keys))
    )
  for a, b in zip(jax.tree.leaves(sampled[0][1:]), jax.tree.leaves(sampled[1][1:])):
    np.testing.assert_array_equal(a, b)  # all but the composition is the same for both modules
  assert np.all(sampled[0].dry == 3)
  for written in (sampled[0].operands, jax.tree.map(lambda x: x[:, 2:], sampled[0].values)):
    lengths = np.bincount(written.length.reshape(-1), minlength=t.width + 1)
    assert lengths[0] == 0 and lengths[1:].min() > 0.8 * 3 * n / t.width
  rows = as_rows(sampled[0].values)
  assert (rows[:, 2] == rows[:, 3]).all(axis=-1).mean() < 0.05


def test_real_steps_go_on_from_dry_ones():
  """Catches real steps that read something else than the dry results before them, `first_input`
  that is a dry result, dry steps that are run, a number of dry steps that is off by one, and dry
  letters that depend on how many steps are dry."""
  t, n, cap = TASKS[0], 2000, 5
  chosen = helpers.random_compositions(t, n, (1, 2, 3, 4, 5), cap)
  dry = np.minimum(np.random.default_rng(0).integers(0, 6, n), chosen.depth).astype(np.int32)
  keys = jax.random.split(jax.random.key(0), n)
  draw = jax.jit(jax.vmap(lambda k, c, d: latent.sample(k, c, t, d)))
  got, noise = (jax.device_get(draw(keys, chosen, d)) for d in (dry, np.full(n, cap)))
  np.testing.assert_array_equal(got.dry, dry)
  np.testing.assert_array_equal(noise.dry, chosen.depth)
  letters, steps = helpers.letters(t.alphabet), helpers.steps(chosen, t)
  words = [helpers.decode(jax.tree.map(lambda x: x[:, i], got.values)) for i in range(cap + 2)]
  operands = [helpers.decode(jax.tree.map(lambda x: x[:, i], got.operands)) for i in range(cap)]
  for i in range(cap):
    is_dry = i < dry
    for mine, all_noise, at in (
      (got.operands, noise.operands, i),
      (got.values, noise.values, i + 2),
    ):
      np.testing.assert_array_equal(as_rows(mine)[is_dry, at], as_rows(all_noise)[is_dry, at])
    for row in np.flatnonzero(~is_dry & (i < chosen.depth)):
      routing, skill = steps[row][i]
      values = [words[k][row] for k in range(i + 2)]
      operand = reference.route(routing, values, letters, t.width)
      result = reference.SKILLS[skill](operand, letters, t.width)
      assert (operands[i][row], words[i + 2][row]) == (operand, result)
  answers = helpers.decode(got.answer)
  some_real = np.flatnonzero(dry < chosen.depth)
  assert all(answers[row] == words[chosen.depth[row] + 1][row] for row in some_real)


def test_sampled_inputs_and_labels():
  """Catches inputs of a wrong length or with a favourite letter, and draws that are tied to each
  other."""
  t, n = helpers.task(min_input=2, max_input=5, skills=('reverse',), routings=('previous',)), 20_000
  atom = jax.tree.map(
    lambda x: jax.numpy.asarray(x[0]), helpers.composition([[('previous', 'reverse')]], t, 1)
  )
  draw = jax.jit(jax.vmap(lambda k: latent.sample(k, atom, t)))
  problems = jax.device_get(draw(jax.random.split(jax.random.key(0), n)))
  inputs = jax.tree.map(lambda x: x[:, :2], problems.values)
  for i in (0, 1):
    lengths = np.bincount(inputs.length[:, i], minlength=7)
    assert lengths[[0, 1, 6]].sum() == 0 and np.all(abs(lengths[2:6] / n - 1 / 4) < 0.02)
    used = np.arange(t.width) < inputs.length[:, i, None]
    assert np.all(
      abs(np.bincount(inputs.letters[:, i][used], minlength=8) / used.sum() - 1 / 8) < 0.01
    )
    assert not np.any(inputs.letters[:, i][~used])
  assert np.all(abs(np.bincount(problems.first_label, minlength=10) / n - 1 / 10) < 0.01)
  drawn = [problems.first_label, *inputs.length.T, *inputs.letters[:, :, :2].reshape(n, 4).T]
  assert np.all(abs(np.corrcoef(drawn) - np.eye(7)) < 0.05)


# Posterior ----------------------------------------------------------------------------------------


@functools.cache
def _posterior_function(t, explicit):
  return helpers.batched(
    lambda values, depth, operands, prior: latent.posterior(
      values, depth, t, operands if explicit else None, prior
    )
  )


def uniform(t):
  return np.full((t.n_routings, t.n_skills), 1 / (t.n_routings * t.n_skills), np.float32)


def posterior(problems, t, explicit, prior=None):
  """The package's posterior, on batches; the prior is uniform unless given."""
  depth = problems.composition.depth
  prior = np.tile(uniform(t) if prior is None else prior, (len(depth), 1, 1))
  return _posterior_function(t, explicit)(problems.values, depth, problems.operands, prior)


def explaining(values, operand, result, t) -> np.ndarray:
  """bool[R, S]: the pairs that make the result (through the operand, if given), by the
  reference."""
  a = helpers.letters(t.alphabet)
  out = np.zeros((t.n_routings, t.n_skills), bool)
  for r, routing in enumerate(modules.names(t.routing_inventory)):
    routed = reference.route(routing, values, a, t.width)
    for s, skill in enumerate(modules.names(t.skill_inventory)):
      made = reference.SKILLS[skill](routed, a, t.width)
      out[r, s] = made == result and operand in (None, routed)
  return out


def brute_force(problems, t, explicit, prior) -> np.ndarray:
  """float[N, L, R, S]: prior times consistency, normalised, by the reference."""
  out = np.zeros((len(problems.first_label), t.max_depth, t.n_routings, t.n_skills))
  for n, depth in enumerate(problems.composition.depth):
    values = helpers.decode(jax.tree.map(lambda v: v[n], problems.values))
    operands = helpers.decode(jax.tree.map(lambda v: v[n], problems.operands))
    for i in range(depth):
      weight = prior * explaining(
        values[: i + 2], operands[i] if explicit else None, values[i + 2], t
      )
      out[n, i] = weight / (weight.sum() or 1.0)
  return out


def true_problems(n, t=TASKS[0]):
  rows = helpers.random_problems(t, n)
  return helpers.make_problems(rows, t)


def corrupted(problems, t, seed=0):
  """Every trace with one word (an operand or a result within the depth) replaced by a random other
  one."""
  rng = np.random.default_rng(seed)
  values, operands = (jax.tree.map(np.copy, x) for x in (problems.values, problems.operands))
  words = helpers.random_words(
    helpers.letters(t.alphabet), t.width, len(problems.first_label), seed
  )
  words = helpers.encode(words, t.width)
  for n, depth in enumerate(problems.composition.depth):
    row, at = ((operands, rng.integers(depth)), (values, 2 + rng.integers(depth)))[n % 2]
    row.letters[n, at], row.length[n, at] = words.letters[n], words.length[n]
  return problems._replace(values=values, operands=operands)


@pytest.mark.parametrize('explicit', [True, False], ids=['explicit', 'compact'])
@pytest.mark.parametrize('harm', [False, True], ids=['golden', 'corrupted'])
def test_posterior_equals_brute_force(explicit, harm):
  """Catches a posterior that is wrong in any entry: over all pairs, on golden traces and on wrong
  ones, with a prior that is not uniform (an ignored prior fails here too)."""
  t = TASKS[0]
  problems = true_problems(60)
  problems = corrupted(problems, t) if harm else problems
  prior = np.random.default_rng(0).dirichlet(np.ones(t.n_routings * t.n_skills))
  prior = prior.reshape(t.n_routings, t.n_skills).astype(np.float32)
  got, want = posterior(problems, t, explicit, prior), brute_force(problems, t, explicit, prior)
  np.testing.assert_allclose(got.selection, want, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(got.explained, want.sum((2, 3)) > 0)
  np.testing.assert_allclose(got.routing, want.sum(3), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got.skill, want.sum(2), rtol=1e-5, atol=1e-6)
  within = np.arange(t.max_depth) < problems.composition.depth[:, None]
  assert np.all(got.explained[within]) != harm and not np.any(got.explained[~within])


@pytest.mark.parametrize('explicit', [True, False], ids=['explicit', 'compact'])
def test_posterior_holds_the_truth_and_sums_to_one(explicit):
  """Catches a posterior that rules out what was selected, is not normalised, or has mass beyond the
  depth."""
  t = TASKS[0]
  problems = true_problems(2000)
  got = posterior(problems, t, explicit)
  within = np.arange(t.max_depth) < problems.composition.depth[:, None]
  np.testing.assert_array_equal(got.explained, within)
  np.testing.assert_allclose(got.selection.sum((2, 3)), within, atol=1e-5)
  n, i = np.nonzero(within)
  assert np.all(
    got.selection[n, i, problems.composition.routing[n, i], problems.composition.skill[n, i]] > 0
  )


def test_no_prior_is_the_uniform_prior():
  """Catches a default prior that favours some modules."""
  t = TASKS[2]
  problems = true_problems(512, t)
  default = helpers.batched(
    lambda values, depth, operands: latent.posterior(values, depth, t, operands)
  )
  got = default(problems.values, problems.composition.depth, problems.operands)
  np.testing.assert_allclose(got.selection, posterior(problems, t, True).selection, rtol=1e-6)


def test_explicit_posterior_is_never_wider():
  """Catches operands that are not used as evidence, or that add explanations."""
  t = TASKS[0]
  problems = true_problems(2000)
  explicit, compact = (posterior(problems, t, e).selection > 0 for e in (True, False))
  assert not np.any(explicit & ~compact)
  assert explicit.sum() < compact.sum()


def test_corrupted_traces_are_unexplained():
  """Catches a posterior that explains what no module makes: a lengthened result, an operand from
  elsewhere."""
  t = TASKS[0]
  rows = [reference.Problem((('previous', 'successor'), ('previous', 'reverse')), ('abc', 'bde'))]
  problems = helpers.make_problems(rows, t)
  assert posterior(problems, t, True).explained[0, :2].tolist() == [True, True]

  def with_word(s, at, word):
    s = jax.tree.map(np.copy, s)
    s.letters[0, at], s.length[0, at] = (x[0] for x in helpers.encode([word], t.width))
    return s

  wrong_result = problems._replace(values=with_word(problems.values, 3, 'hhhhhh'))
  wrong_operand = problems._replace(operands=with_word(problems.operands, 1, 'hhh'))
  for explicit in (True, False):
    got = posterior(wrong_result, t, explicit)
    assert got.explained[0, :2].tolist() == [True, False] and not np.any(got.selection[0, 1])
  assert posterior(wrong_operand, t, True).explained[0, :2].tolist() == [True, False]
  assert posterior(wrong_operand, t, False).explained[0, :2].tolist() == [True, True]


def test_prior_rules_out():
  """Catches a prior that is used as a weight only where it is not zero: what it excludes explains
  nothing."""
  t = TASKS[0]
  problems = true_problems(200)
  only_reverse = np.zeros((t.n_routings, t.n_skills), np.float32)
  only_reverse[:, modules.names(t.skill_inventory).index('reverse')] = 0.1
  got = posterior(problems, t, True, only_reverse)
  assert np.all((got.selection > 0).any((0, 1, 2)) == (only_reverse.sum(0) > 0))
  assert np.isfinite(got.selection).all()
  assert 0 < got.explained.sum() < problems.composition.depth.sum() / 2
