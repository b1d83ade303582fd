"""Exploration: which sample is drawn with which noise, and what it earns."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.learning import batches, exploration, policy_gradient, rejection
from compgen_jax.learning.exploration import REWARDS
from compgen_jax.learning.setup import Setup, Source
from compgen_jax.learning.state import create
from compgen_jax.model.rollout import Rollout
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.render import Rendered
from compgen_jax.task.verify import Verdict
from tests import made_up as m
from tests.made_up import KEY, MODEL, PARAMS, RL_SETUP, TASK_OF_MODEL
from tests.models import quick_jit

# Rewards ------------------------------------------------------------------------------------------


def _flags(*rows):
  return np.array([[flag == '1' for flag in row] for row in rows])


DEPTH = np.array([2, 2, 2, 2, 4, 4])
VERDICT = Verdict(
  answer=np.array([True, True, True, False, True, False]),
  structure=np.array([True, True, False, True, True, True]),
  strict=np.array([True, False, False, False, False, False]),
  # By step; none is right beyond a problem's depth.
  operand_ok=_flags('1100', '1000', '0000', '1100', '1110', '1111'),
  result_ok=_flags('1100', '1100', '1100', '1000', '1011', '1111'),
)
EARNED = {
  'answer': [1, 1, 1, 0, 1, 0],
  # Right answers of wrong traces would earn 1 as well under `answer`, and the third under
  # `structure` nothing but the last two something.
  'strict': [1, 0, 0, 0, 0, 0],
  # 0.2 + 0.8 * 2 / 2, 0.2 + 0.8 * 1 / 2, 0.2, 0 though a step is right, 0.2 + 0.8 * 2 / 4, and 0
  # though all steps are. Divided by the four steps of the arrays, the first would earn 0.6; with a
  # result alone as a right step, the second 1.0.
  'steps': [1.0, 0.6, 0.2, 0.0, 0.6, 0.0],
}


@pytest.mark.parametrize('name', REWARDS)
def test_rewards(name):
  """Catches another quantity, or another denominator, than the reward's name says."""
  got = REWARDS[name](jax.tree.map(jnp.asarray, VERDICT), jnp.asarray(DEPTH))
  np.testing.assert_allclose(np.float32(got), EARNED[name], atol=1e-6)


def test_every_reward_is_tested_and_named():
  """Catches a reward that is registered under another name, or without a literal value here."""
  assert set(EARNED) == set(REWARDS)
  assert all(reward.__name__ == name for name, reward in REWARDS.items())


def _exploration(reward):
  """Samples on the task by a policy that solves some problems, at a depth of 1 or 2."""

  @quick_jit
  def run(params):
    return exploration.explore(
      RL_SETUP, params, KEY, m.SAMPLERS, group=2, temperature=1.0, reward=reward
    )

  return run(m.half_trained())


def test_the_same_samples_earn_by_the_reward_that_is_asked_for():
  """Catches a reward that does not reach the samples, one that changes them, and a depth that
  belongs to another sample."""
  depth = quick_jit(
    lambda: batches.draw(jax.random.split(KEY)[0], RL_SETUP.sources, m.SAMPLERS, RL_SETUP)
  )
  depth = np.repeat(depth()[1].composition.depth, 2)
  assert set(depth.tolist()) == {1, 2}
  by_name = {name: _exploration(name) for name in REWARDS}
  for name, e in by_name.items():
    m.assert_equal(e.rollout.tokens, by_name['answer'].rollout.tokens)
    n_right = np.sum(e.verdict.operand_ok & e.verdict.result_ok, axis=1)
    want = {
      'answer': e.verdict.answer,
      'strict': e.verdict.strict,
      'steps': np.where(e.verdict.answer, 0.2 + 0.8 * n_right / depth, 0.0),
    }
    assert e.reward.dtype == jnp.float32
    np.testing.assert_allclose(e.reward, np.float32(want[name]), atol=1e-6)
  assert 0.1 < np.mean(by_name['answer'].reward) < 0.9
  assert np.all(by_name['steps'].reward <= by_name['answer'].reward)


@pytest.mark.parametrize(
  'module, config, reward', [(policy_gradient, m.RL, 'steps'), (rejection, m.RFT, 'strict')]
)
def test_what_is_logged_is_what_was_trained_on(module, config, reward):
  """Catches a step that is not told the stage's reward, and a log of another one: `reward` is the
  mean of what the samples earned, and the shares of right ones stand beside it."""
  explore, seen = exploration.explore, []

  def spy(*args, **kwargs):
    seen.append(kwargs)
    return explore(*args, **kwargs)

  setup = RL_SETUP
  config = dataclasses.replace(config, reward=reward)
  with mock.patch.object(exploration, 'explore', spy):
    start = create(setup, m.half_trained())
    _, metrics = m.task_step(module, config, setup)(start, KEY, start.params)
  assert [x['reward'] for x in seen] == [reward]
  key = jax.random.fold_in(KEY, 0)  # of update 0
  how = dict(group=config.group, temperature=config.temperature, reward=reward)
  e = quick_jit(lambda: explore(setup, start.params, key, m.SAMPLERS, **how))()
  assert metrics['reward'] == pytest.approx(float(np.mean(e.reward)), abs=1e-6)
  for name in ('answer', 'structure', 'strict'):
    share = float(np.mean(getattr(e.verdict, name)))
    assert metrics[name] == pytest.approx(share, abs=1e-6)
  assert metrics['reward'] <= metrics['answer']


# Samples ------------------------------------------------------------------------------------------


def test_the_company_of_a_row_changes_nothing():
  """Catches rows that come back in the order in which they were worked off, and samples that depend
  on it."""
  setup = dataclasses.replace(RL_SETUP, rollout_rows=4)

  @quick_jit
  def attempt(length_B):
    ids, problems, rendered = batches.draw(KEY, setup.sources, m.SAMPLERS, setup)
    tried = exploration.attempt(
      setup,
      m.half_trained(),
      problems,
      rendered._replace(trace_length=length_B),
      KEY,
      2 * ids[:, None] + jnp.arange(2),
      n_tokens=rendered.trace.shape[1],
      temperature=1.0,
    )
    return rendered.trace_length, tried

  n = sum(source.rows for source in setup.sources)
  lengths, (plain, plain_verdict) = attempt(jnp.zeros((n,), jnp.int32))
  assert np.any(np.diff(lengths) < 0)
  _, (by_length, verdict) = attempt(lengths)
  np.testing.assert_array_equal(by_length.tokens, plain.tokens)
  m.assert_equal(verdict, plain_verdict)


def test_samples_have_their_own_noise_and_their_prompt():
  """Catches samples that share a row id, and so their noise, within a group or across prompts;
  samples of a prompt that are not neighbours."""
  prompts = np.array([[6, 0, 1, 7], [6, 1, 0, 8], [6, 7, 7, 1], [6, 8, 8, 2], [6, 9, 9, 3]])
  setup = Setup(TASK_OF_MODEL, MODEL, None, (m.source('atoms', 5),))
  zeros, ids = jnp.zeros((5,), jnp.int32), []

  def draw(key, sources, samplers, setup):
    problems = Problem(*[None] * len(Problem._fields))
    problems = problems._replace(composition=Composition(zeros + 1, zeros, zeros), dry=zeros)
    traces = jnp.zeros((5, 5), jnp.int32)
    return jnp.arange(5), problems, Rendered(jnp.asarray(prompts), zeros, traces, zeros, zeros)

  def attempt(setup, params, problems, rendered, key, row_ids, *, n_tokens, **_):
    ids.extend(row_ids.reshape(-1).tolist())
    tokens = jnp.zeros((row_ids.size, n_tokens), jnp.int32)
    ok = tokens[:, 0] == 0
    sampled = Rollout(tokens, tokens.astype(jnp.float32), tokens == 0, tokens[:, 0])
    return sampled, Verdict(ok, ok, ok, ok[:, None], ok[:, None])

  draws = mock.patch.object(batches, 'draw', draw)
  with draws, mock.patch.object(exploration, 'attempt', attempt):
    e = exploration.explore(setup, PARAMS, KEY, {}, group=2, temperature=1.0, reward='answer')
  assert ids == list(range(10))
  assert e.prompts.tolist() == np.repeat(prompts, 2, axis=0).tolist()


# Dry steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('reward', REWARDS)
def test_prefixes_are_given_and_judged_with_the_rest(reward):
  """Catches dry steps that the policy has to write, that its trace is judged without, that the
  prompt it learns from lacks, or that count as steps it got wrong: who writes the golden rest of a
  trace earns everything, and prompt and trace together are the whole text."""
  atoms = m.SUPPORTS['atoms']
  late = dataclasses.replace(atoms, config=dataclasses.replace(atoms.config, prefix=1))
  samplers = {'late': late.sampler, 'atoms': atoms.sampler}
  sources = Source('late', late.config, 8), m.source('atoms', 8)
  setup = Setup(m.TASK, MODEL, None, sources)
  data_key, _ = jax.random.split(KEY)
  draw = quick_jit(lambda: batches.draw(data_key, sources, samplers, setup))
  _, problems, rendered = jax.device_get(draw())
  assert set(problems.dry[:8].tolist()) == {0, 1} and not np.any(problems.dry[8:])
  width, pad = m.TASK.prompt_width(2) + m.TASK.dry_width(1), m.TASK.pad
  whole, rest = [], {}
  for prompt, trace, n_dry in zip(rendered.prompt, rendered.trace, rendered.dry_length):
    whole.append([*prompt[prompt != pad], *trace[trace != pad]])
    given = whole[-1][: np.sum(prompt != pad) + n_dry]
    rest[(pad,) * (width - len(given)) + tuple(given)] = whole[-1][len(given) :]
  known = jnp.asarray(list(rest))

  def write(model, params, prompts, key, row_id, *, n_tokens, **_):
    assert prompts.shape == (16, width) and n_tokens == m.TASK.trace_width(1)
    written = [tokens + [pad] * (n_tokens - len(tokens)) for tokens in rest.values()]
    is_prompt = jnp.all(prompts[:, None] == known, axis=-1)
    tokens = jnp.asarray(written)[jnp.argmax(is_prompt, axis=1)]
    return Rollout(tokens, jnp.zeros(tokens.shape), tokens != pad, tokens[:, 0])

  with mock.patch.object(exploration, 'rollout', write):
    e = exploration.explore(setup, PARAMS, KEY, samplers, group=1, temperature=1.0, reward=reward)
  assert np.all(e.verdict.answer) and np.all(e.verdict.strict) and np.all(e.reward == 1.0)
  text = np.concatenate([e.prompts, e.rollout.tokens], axis=1)
  assert [row[row != pad].tolist() for row in text] == whole
