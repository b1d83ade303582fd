"""Policy gradient: the gradients that its formulas say, on made-up batches and on the task."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.learning import exploration, policy_gradient
from compgen_jax.learning.exploration import Exploration
from compgen_jax.learning.setup import Setup
from compgen_jax.learning.state import create
from compgen_jax.model.rollout import rollout
from compgen_jax.model.transformer import Model
from compgen_jax.task.verify import Verdict
from tests import made_up as m
from tests import models
from tests.made_up import GRADIENT_DESCENT, PARAMS, RL, ROWS, SOME_SIGNAL, made_up
from tests.models import quick_jit

WITH_KL = dataclasses.replace(RL, kl=0.5)


def learn(config, batch, **more):
  return m.learn(policy_gradient, config, batch, **more)


# On a made-up batch -------------------------------------------------------------------------------


def test_gradient_is_minus_advantage_times_grad_log_pi():
  """Catches a wrong sign, an advantage that goes to another row, masked tokens that count, a
  forgotten temperature, and a ratio other than 1 on the first update."""
  e = made_up()
  advantage = SOME_SIGNAL - np.repeat([0.25, 1.0, 0.0, 0.5], 4)
  loss, want = m.policy(PARAMS, e, advantage, e.rollout.mask)
  state, metrics = learn(RL, e)
  m.assert_same(m.gradient_of(state), want)
  assert m.size(want) > 0.05
  assert metrics['clipped'] == 0.0
  assert metrics['grad_norm'] == pytest.approx(m.size(want), rel=1e-4)
  on_policy_loss = -np.sum(advantage[:, None] * e.rollout.mask) / np.sum(e.rollout.mask)
  assert metrics['loss'] == pytest.approx(on_policy_loss, abs=1e-5)


def test_what_is_learned_from_is_the_reward():
  """Catches advantages of right answers in place of the reward: here rewards are shares."""
  reward = tuple(np.tile([0.2, 0.6, 0.0, 0.4], 4))
  e = made_up(reward=reward)
  advantage = np.array(reward) - 0.3
  _, want = m.policy(PARAMS, e, advantage, e.rollout.mask)
  state, metrics = learn(RL, e)
  m.assert_same(m.gradient_of(state), want)
  assert metrics['reward'] == pytest.approx(0.3) and metrics['answer'] == 7 / 16
  assert metrics['signal'] == 1.0


def test_metrics():
  """Catches metrics of another quantity: reward 7 / 16, signal in two of four groups, length in
  tokens."""
  e = made_up()
  state, metrics = learn(RL, e)
  assert metrics['reward'] == 7 / 16 and metrics['signal'] == 1 / 2 and metrics['finite'] == 1.0
  assert metrics['length'] == np.mean(np.sum(e.rollout.mask, axis=1))
  nats = -np.sum(e.rollout.log_probs) / np.sum(e.rollout.mask)
  assert metrics['entropy'] == pytest.approx(nats, rel=1e-5)
  assert metrics['decoded_useful'] == pytest.approx(np.mean(e.rollout.mask))
  assert state.step == 1


@pytest.mark.parametrize('answer', [(True,) * ROWS, (False,) * ROWS])
@pytest.mark.parametrize('drop', [True, False])
def test_without_signal_nothing_is_learned(answer, drop):
  """Catches a gradient, or a 0 / 0, of a batch in which every group is all right or all wrong."""
  state, metrics = learn(dataclasses.replace(RL, drop_no_signal=drop), made_up(answer))
  m.assert_equal(state.params, PARAMS)
  assert metrics['signal'] == 0.0 and metrics['finite'] == 1.0 and metrics['grad_norm'] == 0.0


def test_drop_no_signal_leaves_out_their_tokens():
  """Catches groups without signal that still count in the average: without them, the same sum is
  divided by fewer."""
  e = made_up()
  signal = np.repeat([True, False, False, True], 4)
  factor = np.sum(e.rollout.mask) / np.sum(e.rollout.mask[signal])
  assert factor > 1.5
  kept, _ = learn(RL, e)
  dropped, _ = learn(dataclasses.replace(RL, drop_no_signal=True), e)
  m.assert_same(m.gradient_of(dropped), jax.tree.map(lambda g: factor * g, m.gradient_of(kept)))


def test_in_microbatches():
  """Catches microbatches that are skipped though a row in them counts, or counted twice: the rows
  with signal are not the first ones, and 5 rows do not divide the 16 (they become 4)."""
  want, metrics = learn(RL, made_up())
  setup = dataclasses.replace(GRADIENT_DESCENT, microbatch_rows=(5,))
  got, metrics_in_parts = learn(RL, made_up(), setup=setup)
  m.assert_same(got.params, want.params)
  assert metrics_in_parts['loss'] == pytest.approx(metrics['loss'], abs=1e-6)


def test_what_moved_too_far_is_clipped():
  """Catches a ratio against the wrong log-probabilities, and clipped tokens that are still learned:
  with old log-probabilities such that pi / pi_old is 1.5, only negative advantages have a gradient
  (1.5 times the plain one)."""
  e = made_up()
  old = e.rollout.log_probs - np.float32(np.log(1.5))
  moved = e._replace(rollout=e.rollout._replace(log_probs=old))
  advantage = SOME_SIGNAL - np.repeat([0.25, 1.0, 0.0, 0.5], 4)
  state, metrics = learn(RL, moved)
  _, want = m.policy(PARAMS, e, 1.5 * np.minimum(advantage, 0.0), e.rollout.mask)
  m.assert_same(m.gradient_of(state), want)
  assert m.size(want) > 0.05 and metrics['clipped'] > 0.2


def test_two_epochs_are_two_updates_and_one_step():
  """Catches epochs that start from the same parameters, old log-probabilities that are renewed in
  between (the ratio would stay 1), an optimizer state that is lost, and a step count by update."""
  e = made_up()
  twice, metrics = learn(dataclasses.replace(RL, epochs=2), e)
  once, _ = learn(RL, e)
  want, second = m.step(policy_gradient, RL, GRADIENT_DESCENT, once, e)
  assert (once.step, twice.step, want.step) == (1, 1, 2)
  m.assert_same(twice.params, want.params)
  assert m.size(jax.tree.map(np.subtract, twice.params, once.params)) > 0.05
  assert second['clipped'] > 0.0
  assert metrics['clipped'] == pytest.approx(second['clipped'] / 2, abs=1e-5)


def test_kl_to_oneself_is_zero():
  """Catches a parent at another temperature or shifted by a column: at first, KL and its gradient
  are 0."""
  state, metrics = learn(WITH_KL, made_up())
  assert 0.0 <= metrics['kl'] < 1e-6
  m.assert_same(state.params, learn(RL, made_up())[0].params)


def test_kl_penalty_counts_where_there_is_no_signal():
  """Catches rows without advantage that are skipped though they have a KL penalty, its weight, and
  its sign."""
  parent = models.params(m.MODEL, seed=1)
  e = made_up((False,) * ROWS)
  kl, gradient = m.kl(PARAMS, parent, e)
  state, metrics = learn(WITH_KL, e, parent=parent)
  assert metrics['kl'] == pytest.approx(float(kl), rel=1e-4) and kl > 0.1
  m.assert_same(m.gradient_of(state), jax.tree.map(lambda g: 0.5 * g, gradient), atol=1e-5)


@pytest.mark.parametrize('microbatch_rows', [(), (4,), (1,)])
def test_gap_is_the_largest_of_all_tokens(microbatch_rows):
  """Catches a gap that is a sum or a mean, that is taken from the last microbatch alone, or that
  counts tokens behind a trace's end; of a sampler that is 0.5 nats off in one token."""
  e = made_up()
  off = np.zeros_like(e.rollout.log_probs)
  off[7, 0] = 0.5  # in a group with signal or not: there is a KL
  old = np.where(e.rollout.mask, e.rollout.log_probs + off, 3.0)
  moved = e._replace(rollout=e.rollout._replace(log_probs=np.float32(old)))
  setup = dataclasses.replace(GRADIENT_DESCENT, microbatch_rows=microbatch_rows)
  _, metrics = learn(WITH_KL, moved, setup=setup)
  assert metrics['log_prob_gap'] == pytest.approx(0.5, abs=1e-4)
  assert learn(WITH_KL, e, setup=setup)[1]['log_prob_gap'] < 1e-4


def test_entropy_bonus_raises_entropy():
  """Catches the sign of the bonus, and rows without advantage that are skipped though they have
  one."""
  e = made_up((True,) * ROWS)
  _, gradient = m.entropy(PARAMS, e)
  state, _ = learn(dataclasses.replace(RL, entropy=0.1), e)
  m.assert_same(m.gradient_of(state), jax.tree.map(lambda g: -0.1 * g, gradient))


# On samples ---------------------------------------------------------------------------------------


def _reward(traces):
  return (traces[:, 0] != 1) & (traces[:, 1] < 2) | (traces[:, 2] == 0)


def test_gradient_is_that_of_the_expected_reward():
  """Catches anything between sampler and loss that does not fit together (temperature, mask,
  columns, baseline, sign): sampled from a tiny vocabulary, the gradient is that of the expected
  reward over all traces, enumerated."""
  pad, end, n_tokens, n_samples, temperature = 4, 3, 3, 16_384, 0.7
  model = Model(models.config(d_model=8, d_ff=16, n_layers=1, n_heads=1), 5, 2, 3, pad)
  params = models.params(model)
  prompt = np.array([[2, 0, 1, 2]], np.int32)
  every = np.array(list(itertools.product(range(5), repeat=n_tokens)), np.int32)
  # Up to and including the first `end`.
  mask = np.cumsum(every == end, axis=1) - (every == end) == 0
  possible = np.all(mask | (every == pad), axis=1)
  every, mask = every[possible], mask[possible]

  def expected_reward(params):
    tokens = np.concatenate([np.tile(prompt, (len(every), 1)), every], axis=1)
    logits = model.apply(params, tokens)[:, prompt.shape[1] - 1 : -1] / temperature
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), every[..., None], axis=-1)[..., 0]
    probability = jnp.exp(jnp.sum(log_probs * mask, axis=1))
    return jnp.sum(probability * _reward(every)), jnp.sum(probability)

  def sample(key):
    prompts, ids = jnp.tile(prompt, (n_samples, 1)), jnp.arange(n_samples)
    how = dict(n_tokens=n_tokens, end=end, temperature=temperature)
    traces = rollout(model, params, prompts, key, ids, **how)
    ok = _reward(traces.tokens)
    verdict = Verdict(ok, ok, ok, ok[:, None], ok[:, None])
    return Exploration(prompts, traces, verdict, ok.astype(jnp.float32))

  (value, total), exact = quick_jit(jax.value_and_grad(expected_reward, has_aux=True))(params)
  assert total == pytest.approx(1.0, abs=1e-5) and 0.2 < value < 0.8
  config = dataclasses.replace(RL, estimator='reinforce', average='constant')
  setup = Setup(None, model, optax.sgd(1.0), ())
  batch = quick_jit(sample)(jax.random.key(0))
  state, metrics = learn(config, batch, params=params, parent=params, setup=setup)
  # `constant` divides by the columns.
  estimate = jax.tree.map(lambda g: -n_tokens * g, m.gradient_of(state, params))
  assert metrics['reward'] == pytest.approx(float(value), abs=0.015)
  error = m.size(jax.tree.map(np.subtract, estimate, exact)) / m.size(exact)
  assert error < 0.1, error


def test_it_is_on_policy_on_the_task():
  """Catches sampled log-probabilities that are not those that learning evaluates: with sources of
  different width and a temperature, the ratio on the first update is 1 (nothing clipped, however
  tight the bounds) and the KL is 0."""
  parent = m.half_trained()
  state, metrics = m.rl_step(create(m.RL_SETUP, parent), parent)
  assert 0.1 < metrics['reward'] < 0.95 and 0.1 < metrics['signal'] < 1.0
  assert metrics['strict'] <= metrics['reward'] == metrics['answer']
  assert metrics['clipped'] == 0.0 and 0.0 <= metrics['kl'] < 1e-6
  assert metrics['finite'] == 1.0 and metrics['grad_norm'] > 0.01 and state.step == 1


@pytest.mark.parametrize('epochs', [1, 2])
def test_sampler_and_learner_agree_on_every_token(epochs):
  """Catches a token, such as padding, that is said and then learned from as something else: an
  untrained policy at a high temperature says them all. Later epochs do not count: there the policy
  has moved."""
  config = dataclasses.replace(m.RL_ON_TASK, temperature=8.0, epochs=epochs)
  start = create(m.RL_SETUP, models.params(m.RL_SETUP.model))
  _, metrics = m.rl_step(start, start.params, config=config)
  assert 0.0 < metrics['log_prob_gap'] < 1e-4
  if epochs == 2:
    return

  def explore(params):
    how = dict(group=4, temperature=8.0, reward='answer')
    return exploration.explore(m.RL_SETUP, params, m.KEY, m.SAMPLERS, **how).rollout

  said = quick_jit(explore)(start.params)
  said = set(np.asarray(said.tokens)[np.asarray(said.mask)].tolist())
  assert said == set(range(m.TASK.vocab_size)) - {m.TASK.pad}


def test_it_solves_one_batch():
  """Catches learning that goes nowhere: on the same batch again and again, the mean reward rises by
  more than 0.2 within 25 updates, and the KL with it."""
  parent = m.half_trained()
  state, rewards = create(m.RL_SETUP, parent), []
  for _ in range(25):
    state, metrics = m.rl_step(state._replace(step=jnp.int32(0)), parent)
    rewards.append(float(metrics['reward']))
  assert np.mean(rewards[-3:]) > rewards[0] + 0.2
  assert metrics['kl'] > 1e-3
