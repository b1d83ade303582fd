"""What reward enriches: the formula against counts and against a simulation with known numbers."""

import numpy as np
import pytest

from compgen_jax import statistics
from compgen_jax.task.verify import Verdict
from compgen_jax.theory import enrichment, witnesses
from tests import helpers, oracles


def test_formula_is_what_it_says():
  """Conditions that are swapped, or a normalisation by P(E): on exact probabilities."""
  for p0, if_, if_not in ((0.3, 0.8, 0.1), (0.9, 0.2, 0.5), (0.5, 0.4, 0.4)):
    reward = p0 * if_ + (1 - p0) * if_not
    assert enrichment.formula(p0, if_, if_not) == pytest.approx(p0 * if_ / reward - p0)
  assert enrichment.formula(1.0, 0.5, float('nan')) == 0.0  # nothing to enrich
  assert np.isnan(enrichment.formula(0.5, 0.0, 0.0)) and np.isnan(
    enrichment.formula(0.0, float('nan'), 0.0)
  )


def simulate(n_prompts, n_samples, seed=0):
  """Prompts with probabilities of their own; the event happens first, and the reward follows it."""
  rng = np.random.default_rng(seed)
  p0_Q, if_Q, if_not_Q = rng.uniform(0.1, 0.9, (3, n_prompts))
  if_Q = np.maximum(if_Q, if_not_Q)
  prompt_N = np.repeat(np.arange(n_prompts), n_samples)
  event_N = rng.random(prompt_N.size) < p0_Q[prompt_N]
  right_N = rng.random(prompt_N.size) < np.where(event_N, if_Q[prompt_N], if_not_Q[prompt_N])
  return event_N, right_N, prompt_N, (p0_Q, if_Q, if_not_Q)


def test_estimates_agree_with_a_simulation():
  """A formula that does not say how often E happens in what is rewarded; a covariance between
  prompts taken for one within, or with a bias of 1 / samples."""
  event_N, right_N, prompt_N, (p0_Q, if_Q, if_not_Q) = simulate(4000, 4)
  found = enrichment.enrichment(event_N, right_N, prompt_N)
  assert found.value == pytest.approx(event_N[right_N].mean() - event_N.mean(), abs=1e-12)
  assert (found.n, found.prompts) == (16_000, 4000)
  reward = np.mean(p0_Q * if_Q + (1 - p0_Q) * if_not_Q)
  within = np.mean(p0_Q * (1 - p0_Q) * (if_Q - if_not_Q)) / reward
  assert found.within == pytest.approx(within, abs=0.01)  # a bias of 1 / 4 would be 0.026
  truth = np.mean(p0_Q * if_Q) / reward - np.mean(p0_Q)
  assert found.value == pytest.approx(truth, abs=0.02)


def test_easy_prompts_enrich_nothing_within_prompts():
  """An event that comes with easy prompts and does nothing for the reward."""
  rng = np.random.default_rng(1)
  prompt_N = np.repeat(np.arange(4000), 4)
  is_easy_N = prompt_N % 2 == 0
  event_N = rng.random(prompt_N.size) < np.where(is_easy_N, 0.9, 0.1)
  right_N = rng.random(prompt_N.size) < np.where(is_easy_N, 0.8, 0.2)
  found = enrichment.enrichment(event_N, right_N, prompt_N)
  assert found.value > 0.2 and abs(found.within) < 0.01


def test_single_samples_say_nothing_within_prompts():
  """A division by zero."""
  found = enrichment.enrichment(np.array([True, False]), np.array([True, True]), np.arange(2))
  assert np.isnan(found.within) and found.value == 0.0


def test_informative_groups():
  """The chance of a group of g that is all right or all wrong, against all groups there are."""
  correct_Q, n, g = np.array([0, 1, 3, 4]), 4, 2
  mixed = []
  for correct in correct_Q:
    samples = np.arange(n) < correct
    groups = [samples[i] != samples[j] for i in range(n) for j in range(i)]
    mixed.append(np.mean(groups))
  assert np.mean(statistics.mixed_groups_each(correct_Q, n, g)) == pytest.approx(np.mean(mixed))


def test_occasions_of_a_step():
  """A parent that is not read, an input as parent of what has another, or numbers that collide."""
  task = oracles.TASK
  rows = [
    (('merge', 'fork'), ('first_input', 'climb'), ('earlier', 'successor')),
    (('previous', 'fork'),),
  ]
  steps = witnesses.steps_of(helpers.composition(rows, task, 3), task)
  ok = np.zeros((2, 3), bool)
  operand_ok, result_ok = ok.copy(), ok.copy()
  operand_ok[0], result_ok[0] = (True, True, False), (True, False, True)
  verdict = Verdict(*[np.ones(2, bool)] * 3, operand_ok, result_ok)
  found = enrichment.occasions(steps, verdict, task)
  routings, skills, makers = task.routings, task.skills, (*task.skills, 'input')
  by_name = {
    'modules': lambda i: (*routings, *skills)[i],
    'pairs': lambda i: (routings[i // 6], skills[i % 6]),
    'parents': lambda i: (makers[i // 4], routings[i % 4]),
    'interfaces': lambda i: (makers[i // 24], routings[i // 6 % 4], skills[i % 6]),
  }
  named = {
    kind: sorted((int(b), by_name[kind](i), bool(h)) for i, b, h in zip(*o))
    for kind, o in found.items()
  }
  assert named['modules'] == sorted(
    [
      *((0, name, True) for name in ('merge', 'fork', 'first_input', 'successor')),
      *((0, name, False) for name in ('climb', 'earlier')),
      *((1, name, False) for name in ('previous', 'fork')),
    ]
  )
  assert named['pairs'] == sorted(
    [
      (0, ('merge', 'fork'), True),
      (0, ('first_input', 'climb'), False),
      (0, ('earlier', 'successor'), False),
      (1, ('previous', 'fork'), False),
    ]
  )
  assert named['parents'] == sorted(
    [
      (0, ('input', 'merge'), True),
      (0, ('input', 'merge'), True),
      (0, ('input', 'first_input'), True),
      (0, ('fork', 'earlier'), False),
      (1, ('input', 'previous'), False),
    ]
  )
  assert named['interfaces'] == sorted(
    [
      (0, ('input', 'merge', 'fork'), True),
      (0, ('input', 'merge', 'fork'), True),
      (0, ('input', 'first_input', 'climb'), False),
      (0, ('fork', 'earlier', 'successor'), False),
      (1, ('input', 'previous', 'fork'), False),
    ]
  )
