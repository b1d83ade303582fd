"""Learning steps: pure functions of state and key, with the gradients that their formulas say."""

import dataclasses
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compgen_jax.learning import exploration, optimizer, policy_gradient, rejection, sft
from compgen_jax.learning import state as state_lib
from compgen_jax.learning.exploration import Exploration
from compgen_jax.learning.policy_gradient import RLConfig
from compgen_jax.learning.rejection import RFTConfig
from compgen_jax.learning.state import AXIS, Setup, Source, create
from compgen_jax.model.rollout import Rollout, rollout
from compgen_jax.model.transformer import Model
from compgen_jax.task.render import Rendered
from compgen_jax.task.support import Support
from compgen_jax.task.verify import Verdict
from tests import helpers, models
from tests.models import N_CONTENT, PAD, quick_jit

RL = RLConfig(
    prompts=4, group=4, temperature=0.7, optimizer='adamw', lr=1.0, warmup=0, schedule='constant', estimator='dr_grpo',
    average='token', epochs=1, clip_low=0.2, clip_high=0.28, kl=0.0, entropy=0.0, drop_no_signal=False,
)  # fmt: skip
RFT = RFTConfig(
  prompts=4,
  group=4,
  temperature=0.7,
  optimizer='adamw',
  lr=1.0,
  warmup=0,
  schedule='constant',
  sampler='parent',
)

# Steps on a made-up batch -------------------------------------------------------------------------------------
#
# What is learnt from a batch can be checked without a task: `explore` is replaced by the batch. With gradient descent
# at learning rate 1, the first change of the parameters is the gradient.

MODEL = models.model()
PARAMS = models.params(MODEL)
ROWS, PROMPT, TRACE = 16, 6, 8
TASK_OF_MODEL = helpers.task(alphabet=N_CONTENT)
GRADIENT_DESCENT = Setup(None, MODEL, optax.sgd(1.0, momentum=0.5), ())
SOME_SIGNAL = np.array([1, 0, 0, 0] + [1, 1, 1, 1] + [0, 0, 0, 0] + [0, 1, 1, 0], bool)


@functools.cache
def _log_probs(temperature):
  def run(params, prompts, traces):
    logits = MODEL.apply(params, jnp.concatenate([prompts, traces], axis=1)[:, :-1])[
      :, prompts.shape[1] - 1 :
    ]
    log_probs = jax.nn.log_softmax(logits / temperature)
    return jnp.take_along_axis(log_probs, traces[..., None], axis=-1)[..., 0], log_probs

  return run


@functools.cache
def made_up(answer=tuple(SOME_SIGNAL)) -> Exploration:
  """Four prompts of different length, four traces each; log-probabilities are those of PARAMS at temperature 0.7."""
  prompts = np.repeat(models.pad_left(models.random_tokens(4, PROMPT, 1), [3, 6, 4, 5]), 4, axis=0)
  tokens = models.random_tokens(ROWS, TRACE, 2)
  mask = np.arange(TRACE) < (1 + np.arange(ROWS) % TRACE)[:, None]
  tokens = np.where(mask, tokens, PAD)
  log_probs = np.where(mask, quick_jit(_log_probs(0.7))(PARAMS, prompts, tokens)[0], 0.0)
  answer = np.array(answer)
  steps = np.zeros((ROWS, 1), bool)
  return Exploration(
    prompts,
    Rollout(tokens, log_probs, mask, np.full(ROWS, TRACE)),
    Verdict(answer, answer, answer, steps, steps),
  )


@functools.cache
def _step(module, config, setup):
  @quick_jit
  def run(state, batch, parent):
    with mock.patch.object(module, 'explore', lambda *args, **kwargs: batch):
      return module.step(state, jax.random.key(0), setup, config, parent)

  return run


def learn(module, config, batch, params=PARAMS, parent=PARAMS, setup=GRADIENT_DESCENT):
  """One step: (new state, metrics)."""
  return jax.device_get(_step(module, config, setup)(create(setup, params), batch, parent))


def gradient_of(state, params=PARAMS):
  return jax.tree.map(np.subtract, params, state.params)


@functools.cache
def _gradients():
  """Gradients of the formulas, written down a second time."""

  def policy(params, e, advantage, mask):
    return -jnp.sum(
      _log_probs(0.7)(params, e.prompts, e.rollout.tokens)[0] * advantage[:, None] * mask
    ) / jnp.sum(mask)

  def kl(params, reference, e):
    log_pi, log_ref = (
      _log_probs(0.7)(p, e.prompts, e.rollout.tokens)[0] for p in (params, reference)
    )
    k3 = jnp.exp(log_ref - log_pi) - (log_ref - log_pi) - 1
    return jnp.sum(k3 * e.rollout.mask) / jnp.sum(e.rollout.mask)

  def entropy(params, e):
    log_probs = _log_probs(0.7)(params, e.prompts, e.rollout.tokens)[1]
    return -jnp.sum(jnp.exp(log_probs) * log_probs * e.rollout.mask[..., None]) / jnp.sum(
      e.rollout.mask
    )

  def cross_entropy(params, prompts, traces, mask):
    return -jnp.sum(_log_probs(1.0)(params, prompts, traces)[0] * mask) / jnp.sum(mask)

  return {
    f.__name__: quick_jit(jax.value_and_grad(f)) for f in (policy, kl, entropy, cross_entropy)
  }


def assert_same(got, want, atol=2e-6):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4), got, want)


def size(tree) -> float:
  return float(optax.tree.norm(tree))


# Policy gradient ----------------------------------------------------------------------------------------------


def test_rl_gradient_is_minus_advantage_times_grad_log_pi():
  """Catches a wrong sign, an advantage that goes to another row, masked tokens that count, a forgotten temperature, and
  a ratio other than 1 on the first update."""
  e = made_up()
  advantage = SOME_SIGNAL - np.repeat([0.25, 1.0, 0.0, 0.5], 4)
  loss, want = _gradients()['policy'](PARAMS, e, advantage, e.rollout.mask)
  state, metrics = learn(policy_gradient, RL, e)
  assert_same(gradient_of(state), want)
  assert size(want) > 0.05
  assert metrics['clipped'] == 0.0
  assert metrics['grad_norm'] == pytest.approx(size(want), rel=1e-4)
  on_policy_loss = -np.sum(advantage[:, None] * e.rollout.mask) / np.sum(e.rollout.mask)
  assert metrics['loss'] == pytest.approx(on_policy_loss, abs=1e-5)


def test_rl_metrics():
  """Catches metrics of another quantity: reward 7 / 16, signal in two of four groups, length in tokens."""
  e = made_up()
  state, metrics = learn(policy_gradient, RL, e)
  assert metrics['reward'] == 7 / 16 and metrics['signal'] == 1 / 2 and metrics['finite'] == 1.0
  assert metrics['length'] == np.mean(np.sum(e.rollout.mask, axis=1))
  assert metrics['entropy'] == pytest.approx(
    -np.sum(e.rollout.log_probs) / np.sum(e.rollout.mask), rel=1e-5
  )
  assert metrics['decoded_useful'] == pytest.approx(np.mean(e.rollout.mask))
  assert state.step == 1


@pytest.mark.parametrize('answer', [(True,) * ROWS, (False,) * ROWS])
@pytest.mark.parametrize('drop', [True, False])
def test_rl_without_signal_learns_nothing(answer, drop):
  """Catches a gradient, or a 0 / 0, of a batch in which every group is all right or all wrong."""
  state, metrics = learn(
    policy_gradient, dataclasses.replace(RL, drop_no_signal=drop), made_up(answer)
  )
  jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)
  assert metrics['signal'] == 0.0 and metrics['finite'] == 1.0 and metrics['grad_norm'] == 0.0


def test_drop_no_signal_leaves_out_their_tokens():
  """Catches groups without signal that still count in the average: without them, the same sum is divided by fewer."""
  e = made_up()
  signal = np.repeat([True, False, False, True], 4)
  factor = np.sum(e.rollout.mask) / np.sum(e.rollout.mask[signal])
  assert factor > 1.5
  kept, _ = learn(policy_gradient, RL, e)
  dropped, _ = learn(policy_gradient, dataclasses.replace(RL, drop_no_signal=True), e)
  assert_same(gradient_of(dropped), jax.tree.map(lambda g: factor * g, gradient_of(kept)))


def test_rl_in_blocks():
  """Catches blocks that are skipped though a row in them counts, or counted twice: the rows with signal are not the
  first ones, and blocks of 5 do not divide the 16 rows (they become 4)."""
  want, metrics = learn(policy_gradient, RL, made_up())
  setup = dataclasses.replace(GRADIENT_DESCENT, block_rows=(5,))
  got, block_metrics = learn(policy_gradient, RL, made_up(), setup=setup)
  assert_same(got.params, want.params)
  assert block_metrics['loss'] == pytest.approx(metrics['loss'], abs=1e-6)


def test_rl_clips_what_moved_too_far():
  """Catches a ratio against the wrong log-probabilities, and clipped tokens that are still learnt: with old
  log-probabilities such that pi / pi_old is 1.5, only negative advantages have a gradient (1.5 times the plain one)."""
  e = made_up()
  moved = e._replace(
    rollout=e.rollout._replace(log_probs=e.rollout.log_probs - np.float32(np.log(1.5)))
  )
  advantage = SOME_SIGNAL - np.repeat([0.25, 1.0, 0.0, 0.5], 4)
  state, metrics = learn(policy_gradient, RL, moved)
  want = _gradients()['policy'](PARAMS, e, 1.5 * np.minimum(advantage, 0.0), e.rollout.mask)[1]
  assert_same(gradient_of(state), want)
  assert size(want) > 0.05 and metrics['clipped'] > 0.2


def test_two_epochs_are_two_updates_and_one_step():
  """Catches epochs that start from the same parameters, old log-probabilities that are renewed in between (the ratio
  would stay 1), an optimizer state that is lost, and a step count by update."""
  e = made_up()
  twice, metrics = learn(policy_gradient, dataclasses.replace(RL, epochs=2), e)
  once, _ = learn(policy_gradient, RL, e)
  want, second = jax.device_get(_step(policy_gradient, RL, GRADIENT_DESCENT)(once, e, PARAMS))
  assert (once.step, twice.step, want.step) == (1, 1, 2)
  assert_same(twice.params, want.params)
  assert size(jax.tree.map(np.subtract, twice.params, once.params)) > 0.05
  assert second['clipped'] > 0.0
  assert metrics['clipped'] == pytest.approx(second['clipped'] / 2, abs=1e-5)


WITH_KL = dataclasses.replace(RL, kl=0.5)


def test_kl_to_oneself_is_zero():
  """Catches a reference at another temperature or shifted by a column: at first, KL and its gradient are 0."""
  state, metrics = learn(policy_gradient, WITH_KL, made_up())
  assert 0.0 <= metrics['kl'] < 1e-6
  assert_same(state.params, learn(policy_gradient, RL, made_up())[0].params)


def test_kl_penalty_counts_where_there_is_no_signal():
  """Catches rows without advantage that are skipped though they have a KL penalty, its weight, and its sign."""
  reference = models.params(MODEL, seed=1)
  e = made_up((False,) * ROWS)
  kl, gradient = _gradients()['kl'](PARAMS, reference, e)
  state, metrics = learn(policy_gradient, WITH_KL, e, parent=reference)
  assert metrics['kl'] == pytest.approx(float(kl), rel=1e-4) and kl > 0.1
  assert_same(gradient_of(state), jax.tree.map(lambda g: 0.5 * g, gradient), atol=1e-5)


def test_entropy_bonus_raises_entropy():
  """Catches the sign of the bonus, and rows without advantage that are skipped though they have one."""
  e = made_up((True,) * ROWS)
  _, gradient = _gradients()['entropy'](PARAMS, e)
  state, _ = learn(policy_gradient, dataclasses.replace(RL, entropy=0.1), e)
  assert_same(gradient_of(state), jax.tree.map(lambda g: -0.1 * g, gradient))


def test_policy_gradient_is_the_gradient_of_expected_reward():
  """Catches anything between sampler and loss that does not fit together (temperature, mask, columns, baseline, sign):
  sampled from a tiny vocabulary, the gradient is that of the expected reward over all traces, enumerated."""
  pad, end, n_tokens, n_samples, temperature = 4, 3, 3, 16_384, 0.7
  m = Model(models.config(d_model=8, d_ff=16, n_layers=1, n_heads=1), 5, 2, 3, pad)
  params = models.params(m)
  prompt = np.array([[2, 0, 1, 2]], np.int32)
  reward = lambda traces: (traces[:, 0] != 1) & (traces[:, 1] < 2) | (traces[:, 2] == 0)
  every = np.array(list(itertools.product(range(5), repeat=n_tokens)), np.int32)
  mask = (
    np.cumsum(every == end, axis=1) - (every == end) == 0
  )  # up to and including the first `end`
  possible = np.all(mask | (every == pad), axis=1)
  every, mask = every[possible], mask[possible]

  def expected_reward(params):
    tokens = np.concatenate([np.tile(prompt, (len(every), 1)), every], axis=1)
    logits = m.apply(params, tokens)[:, prompt.shape[1] - 1 : -1] / temperature
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), every[..., None], axis=-1)[..., 0]
    probability = jnp.exp(jnp.sum(log_probs * mask, axis=1))
    return jnp.sum(probability * reward(every)), jnp.sum(probability)

  def sample(key):
    prompts, ids = jnp.tile(prompt, (n_samples, 1)), jnp.arange(n_samples)
    traces = rollout(
      m, params, prompts, key, ids, n_tokens=n_tokens, end=end, temperature=temperature, segment=2
    )
    ok = reward(traces.tokens)
    return Exploration(prompts, traces, Verdict(ok, ok, ok, ok[:, None], ok[:, None]))

  (value, total), exact = quick_jit(jax.value_and_grad(expected_reward, has_aux=True))(params)
  assert total == pytest.approx(1.0, abs=1e-5) and 0.2 < value < 0.8
  config = dataclasses.replace(RL, estimator='reinforce', average='constant')
  setup = Setup(None, m, optax.sgd(1.0), ())
  state, metrics = learn(
    policy_gradient, config, quick_jit(sample)(jax.random.key(0)), params, params, setup
  )
  estimate = jax.tree.map(
    lambda g: -n_tokens * g, gradient_of(state, params)
  )  # `constant` divides by the columns
  assert metrics['reward'] == pytest.approx(float(value), abs=0.015)
  error = size(jax.tree.map(np.subtract, estimate, exact)) / size(exact)
  assert error < 0.1, error


# Rejection fine-tuning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('sampler', ['parent', 'current'])
def test_rft_samples_from_the_right_parameters(sampler):
  """Catches a control that learns from another policy's samples than the config says."""
  seen = []

  def run(state, parent):
    explore = lambda setup, params, *args, **kwargs: (
      seen.append(params) or jax.tree.map(jnp.asarray, made_up())
    )
    with mock.patch.object(rejection, 'explore', explore):
      config = dataclasses.replace(RFT, sampler=sampler)
      new = rejection.step(state, jax.random.key(0), GRADIENT_DESCENT, config, parent)
    assert seen == [parent if sampler == 'parent' else state.params]
    return new

  jax.eval_shape(run, create(GRADIENT_DESCENT, PARAMS), PARAMS)
  assert len(seen) == 1


def test_rft_without_accepted_samples_learns_nothing():
  """Catches 0 / 0 where no sample is right, and a gradient of rejected samples."""
  state, metrics = learn(rejection, RFT, made_up((False,) * ROWS))
  jax.tree.map(np.testing.assert_array_equal, state.params, PARAMS)
  assert (
    metrics['loss'] == 0.0
    and metrics['finite'] == 1.0
    and metrics['reward'] == 0.0
    and state.step == 1
  )


@pytest.mark.parametrize('block_rows', [(), (5,), (4, 1)])
def test_rft_is_supervised_learning_on_accepted_samples(block_rows):
  """Catches rejected samples that count, accepted ones that are skipped (they are not the first rows), a mean over all
  tokens rather than the accepted ones', and a sign: the log-probability of accepted samples rises."""
  e = made_up()
  mask = e.rollout.mask & SOME_SIGNAL[:, None]
  value, want = _gradients()['cross_entropy'](PARAMS, e.prompts, e.rollout.tokens, mask)
  setup = dataclasses.replace(GRADIENT_DESCENT, block_rows=block_rows, tx=optax.sgd(0.1))
  state, metrics = learn(rejection, RFT, e, setup=setup)
  assert metrics['loss'] == pytest.approx(float(value), rel=1e-5) and metrics['reward'] == 7 / 16
  assert_same(gradient_of(state), jax.tree.map(lambda g: 0.1 * g, want))
  after, _ = _gradients()['cross_entropy'](state.params, e.prompts, e.rollout.tokens, mask)
  assert after < value - 0.5 * 0.1 * size(want) ** 2


# Supervised fine-tuning ---------------------------------------------------------------------------------------


def test_sft_predicts_traces_and_nothing_else():
  """Catches prompts or padding that are predicted, letters of dry problems that are, a label shifted by a column, and
  sources of different width or size averaged source by source: loss and gradient are those of the mean over all trace
  tokens; of dry columns over the tokens that are not letters, by the model's choice among these."""
  batches = {}
  for seed, (name, lengths, prompt, trace) in enumerate(
    (('wide', [8, 5, 7], 6, 8), ('narrow', [1, 3, 2, 2], 4, 3))
  ):
    lengths = np.array(lengths)
    dry = np.where(np.arange(len(lengths)) == 1, lengths, np.arange(len(lengths)) // 2)
    prompts = models.pad_left(
      models.random_tokens(len(lengths), prompt, seed), np.minimum(prompt, 2 + lengths)
    )
    traces = models.random_tokens(len(lengths), trace, 7 + seed)
    traces = np.where(np.arange(trace) < lengths[:, None], traces, PAD)
    batches[name] = Rendered(prompts, np.sum(prompts != PAD, axis=1), traces, lengths, dry)
  setup = Setup(TASK_OF_MODEL, MODEL, optax.sgd(1.0), ())
  wide = lambda x, columns, **kw: np.pad(
    x, ((0, 0), kw.get('room', (0, columns - x.shape[1]))), constant_values=PAD
  )
  narrow = batches['narrow']
  narrow = narrow._replace(prompt=wide(narrow.prompt, 6, room=(2, 0)), trace=wide(narrow.trace, 8))
  batch = jax.tree.map(lambda *xs: jnp.concatenate(xs), batches['wide'], narrow)

  @quick_jit
  def step(state):
    with mock.patch.object(sft, 'sample_problems', lambda key, setup: (None, None, batch)):
      return sft.step(state, jax.random.key(0), setup)

  def mean_over_tokens(params):
    total, n = 0.0, 0
    for b in batches.values():
      _, log_probs = _log_probs(1.0)(params, b.prompt, b.trace)
      for row, (trace, length, dry) in enumerate(zip(b.trace, b.trace_length, b.dry_length)):
        for column, token in enumerate(trace[:length]):
          is_dry = column < dry
          if is_dry and token < N_CONTENT:
            continue
          choice = log_probs[row, column]
          total -= choice[token] - (jax.nn.logsumexp(choice[N_CONTENT:]) if is_dry else 0.0)
          n += 1
    return total / n

  loss, want = quick_jit(jax.value_and_grad(mean_over_tokens))(PARAMS)
  state, metrics = step(create(setup, PARAMS))
  assert metrics['loss'] == pytest.approx(float(loss), rel=1e-5)
  assert_same(gradient_of(state), want)
  assert 0.0 <= metrics['token_accuracy'] <= 1.0


# Steps on the task --------------------------------------------------------------------------------------------
#
# The smallest task there is, with sources of different depth and so of different width, all in two programs.

TASK = helpers.task(
    trace='compact', alphabet=6, width=4, min_input=2, max_input=2, max_depth=2, n_labels=4,
    skills=('reverse', 'successor'), routings=('previous', 'earlier'),
)  # fmt: skip
SUPPORTS = [
  Support(helpers.support_config(depths=d), TASK, helpers.pools(sft=0.7, rl=0.1))
  for d in ((1,), (1, 2))
]
TASK_SETUP = Setup(
  TASK,
  Model(
    models.config(d_model=32, d_ff=64, tied=True),
    TASK.vocab_size,
    TASK.alphabet,
    TASK.width + 2,
    TASK.pad,
  ),
  optax.adamw(3e-3),
  tuple(Source(s, 16) for s in SUPPORTS),
)
RL_SETUP, TASK_RL = (
  dataclasses.replace(TASK_SETUP, tx=optax.adamw(1e-3)),
  dataclasses.replace(RL, kl=0.01),
)
SPLIT = dict(shards=2, block_rows=(4, 1), rollout_rows=16)
KEY = jax.random.key(0)


@functools.cache
def sft_step(setup=TASK_SETUP):
  return quick_jit(state_lib.on_every_device(lambda state, key: sft.step(state, key, setup), setup))


@functools.cache
def rl_step(setup=RL_SETUP):
  step = lambda state, key, parent: policy_gradient.step(state, key, setup, TASK_RL, parent)
  return quick_jit(state_lib.on_every_device(step, setup))


def fresh():
  return create(TASK_SETUP, models.params(TASK_SETUP.model))


@pytest.fixture(scope='module')
def half_trained():
  """Parameters that solve some problems and not others."""
  state = fresh()
  for _ in range(400):
    state, _ = sft_step()(state, KEY)
  return state.params


def test_step_is_a_pure_function():
  """Catches hidden state, a key or a step count that does not reach the data, and data that repeat."""
  state = fresh()
  once, metrics = sft_step()(state, KEY)
  again, metrics_again = sft_step()(state, KEY)
  jax.tree.map(np.testing.assert_array_equal, (once, metrics), (again, metrics_again))
  assert once.step == 1
  _, of_next_step = sft_step()(state._replace(step=jnp.int32(1)), KEY)
  _, of_other_key = sft_step()(state, jax.random.key(1))
  assert len({float(m['loss']) for m in (metrics, of_next_step, of_other_key)}) == 3


def test_sft_overfits_one_batch():
  """Catches labels that do not belong to their columns and updates that do not add up: on the same batch again and
  again, the loss falls to a thirtieth within 200 updates."""
  state = fresh()
  first = None
  for _ in range(200):
    state, metrics = sft_step()(state._replace(step=jnp.int32(0)), KEY)
    first = first or float(metrics['loss'])
  assert float(metrics['loss']) < first / 30
  assert metrics['token_accuracy'] > 0.97


def test_rl_is_on_policy_on_the_task(half_trained):
  """Catches sampled log-probabilities that are not those that learning evaluates: with sources of different width and a
  temperature, the ratio on the first update is 1 (nothing clipped, however tight the bounds) and the KL is 0."""
  state, metrics = rl_step()(create(RL_SETUP, half_trained), KEY, half_trained)
  assert (
    0.1 < metrics['reward'] < 0.95
    and 0.1 < metrics['signal'] < 1.0
    and metrics['strict'] <= metrics['reward']
  )
  assert metrics['clipped'] == 0.0 and 0.0 <= metrics['kl'] < 1e-6
  assert metrics['finite'] == 1.0 and metrics['grad_norm'] > 0.01 and state.step == 1


def test_rl_solves_one_batch(half_trained):
  """Catches learning that goes nowhere: on the same batch again and again, the mean reward rises by more than 0.2
  within 25 updates, and the KL with it."""
  state, rewards = create(RL_SETUP, half_trained), []
  for _ in range(25):
    state, metrics = rl_step()(state._replace(step=jnp.int32(0)), KEY, half_trained)
    rewards.append(float(metrics['reward']))
  assert np.mean(rewards[-3:]) > rewards[0] + 0.2
  assert metrics['kl'] > 1e-3


@pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')
def test_devices_and_blocks_change_nothing(half_trained):
  """Catches rows that two devices share, counts or means of one device, gradients that are added up twice, and blocks
  that are lost: on two devices, in blocks of rows, both steps are what they are on one device at once."""
  state = create(TASK_SETUP, half_trained)
  one_device = sft_step()(state, KEY), rl_step()(state, KEY, half_trained)
  with jax.set_mesh(
    jax.make_mesh(
      (2,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
  ):
    two_devices = (
      sft_step(dataclasses.replace(TASK_SETUP, **SPLIT))(state, KEY),
      rl_step(dataclasses.replace(RL_SETUP, **SPLIT))(state, KEY, half_trained),
    )
  for (got, got_metrics), (want, metrics) in zip(two_devices, one_device):
    for m in (got_metrics, metrics):
      m.pop('decoded_useful', None)  # what blocks are there for
    assert_same(got_metrics, metrics, atol=1e-5)
    # Adam's first moment: the gradient times 1 - b1. (Its update would magnify rounding where the gradient is near 0.)
    assert_same(got.opt_state[0].mu, want.opt_state[0].mu, atol=1e-6)


def test_problems_depend_on_their_row_alone():
  """Catches problems drawn by place in the batch: the same row ids give the same problems in any place."""

  def sample(ids):
    setup = Setup(TASK, MODEL, None, (Source(SUPPORTS[1], len(ids)),))
    with mock.patch.object(Setup, 'row_ids', lambda self, first, rows: jnp.asarray(ids)):
      return quick_jit(lambda: state_lib.sample_problems(KEY, setup)[1:])()

  whole, other = sample(range(8)), sample([7, 3, 100, 5, 101, 102, 0, 103])
  place = np.array([0, 1, 3, 6])
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[place], b[np.array([7, 3, 5, 0])]), other, whole
  )
  assert len({row.tobytes() for row in np.asarray(whole[1].prompt)}) == 8


def test_the_company_of_a_row_changes_nothing(half_trained):
  """Catches rows that come back in the order in which they were worked off, and samples that depend on it."""
  setup = dataclasses.replace(RL_SETUP, rollout_rows=4)

  @quick_jit
  def attempt(length_B):
    ids, problems, rendered = state_lib.sample_problems(KEY, setup)
    more = dict(n_tokens=rendered.trace.shape[1], temperature=1.0)
    return rendered.trace_length, exploration.attempt(
      setup,
      half_trained,
      problems,
      rendered.prompt,
      KEY,
      2 * ids[:, None] + jnp.arange(2),
      length_B,
      rendered.dry_length,
      **more,
    )

  n = sum(source.rows for source in setup.sources)
  lengths, (plain, plain_verdict) = attempt(jnp.zeros((n,), jnp.int32))
  assert np.any(np.diff(lengths) < 0)
  _, (sorted_, sorted_verdict) = attempt(lengths)
  np.testing.assert_array_equal(sorted_.tokens, plain.tokens)
  jax.tree.map(np.testing.assert_array_equal, sorted_verdict, plain_verdict)


# Rows, blocks and updates -------------------------------------------------------------------------------------


def test_explored_rows_have_their_own_noise_and_their_prompt():
  """Catches samples that share a row id, and so their noise, within a group or across prompts; samples of a prompt that are
  not neighbours."""
  prompts = np.array([[6, 0, 1, 7], [6, 1, 0, 8], [6, 7, 7, 1], [6, 8, 8, 2], [6, 9, 9, 3]])
  setup = Setup(TASK_OF_MODEL, MODEL, None, ())
  ids = []

  def problems(key, setup):
    zeros = jnp.zeros((5,), jnp.int32)
    return (
      jnp.arange(5),
      None,
      Rendered(jnp.asarray(prompts), zeros, jnp.zeros((5, 5), jnp.int32), zeros, zeros),
    )

  def attempt(setup, params, problems, prompts, key, row_ids, lengths, given, *, n_tokens, **_):
    ids.extend(row_ids.reshape(-1).tolist())
    tokens = jnp.zeros((row_ids.size, n_tokens), jnp.int32)
    ok = tokens[:, 0] == 0
    return Rollout(tokens, tokens.astype(jnp.float32), tokens == 0, tokens[:, 0]), Verdict(
      ok, ok, ok, ok[:, None], ok[:, None]
    )

  with mock.patch.multiple(exploration, sample_problems=problems, attempt=attempt):
    e = exploration.explore(setup, PARAMS, jax.random.key(0), group=2, temperature=1.0)
  assert ids == list(range(10))
  assert e.prompts.tolist() == np.repeat(prompts, 2, axis=0).tolist()


def test_rows_are_numbered_through():
  """Catches sources that start at row 0 each, and so would see the same random numbers."""
  dry = Support(dataclasses.replace(SUPPORTS[1].config, dry=True), TASK, SUPPORTS[1].pools)
  setup = Setup(TASK, MODEL, None, (Source(SUPPORTS[0], 4), Source(SUPPORTS[1], 2), Source(dry, 8)))
  ids, problems, rendered = quick_jit(lambda: state_lib.sample_problems(KEY, setup))()
  assert ids.tolist() == list(range(14))
  all_steps = problems.composition.depth[6:].tolist()
  assert problems.dry.tolist() == [0] * 6 + all_steps
  assert rendered.dry_length.tolist() == [0] * 6 + rendered.trace_length[6:].tolist()
  assert problems.composition.depth[:4].tolist() == [1] * 4
  assert GRADIENT_DESCENT.row_ids(4, 2).tolist() == [4, 5]


def test_prefixes_are_given_and_judged_with_the_rest():
  """Catches dry steps that the policy has to write, that its trace is judged without, or that the
  prompt it learns from lacks: who writes the golden rest of a trace is right, and prompt and trace
  together are the whole text."""
  late = Support(dataclasses.replace(SUPPORTS[0].config, prefix=1), TASK, SUPPORTS[0].pools)
  setup = Setup(TASK, MODEL, None, (Source(late, 8), Source(SUPPORTS[0], 8)))
  data_key, _ = jax.random.split(KEY)
  sample = quick_jit(lambda: state_lib.sample_problems(data_key, setup))
  _, problems, rendered = jax.device_get(sample())
  assert set(problems.dry[:8].tolist()) == {0, 1} and not np.any(problems.dry[8:])
  whole = [
    np.concatenate([p[p != TASK.pad], t[t != TASK.pad]])
    for p, t in zip(rendered.prompt, rendered.trace)
  ]
  width = TASK.prompt_width(2) + TASK.dry_width(1)

  def write(model, params, prompts, key, row_id, *, n_tokens, end, temperature):
    assert prompts.shape == (16, width) and n_tokens == TASK.trace_width(1)
    rest = np.full((16, n_tokens), TASK.pad)
    for row, text in enumerate(whole):
      behind = text[len(text) - rendered.trace_length[row] + rendered.dry_length[row] :]
      rest[row, : len(behind)] = behind
    order = np.argsort(rendered.trace_length - rendered.dry_length, stable=True)  # as `attempt`
    tokens = jnp.asarray(rest[order])
    return Rollout(tokens, jnp.zeros(tokens.shape), tokens != TASK.pad, tokens[:, 0])

  with mock.patch.object(exploration, 'rollout', write):
    e = exploration.explore(setup, PARAMS, KEY, group=1, temperature=1.0)
  assert np.all(e.verdict.answer) and np.all(e.verdict.strict)
  text = np.concatenate([e.prompts, e.rollout.tokens], axis=1)
  assert [row[row != TASK.pad].tolist() for row in text] == [row.tolist() for row in whole]


@pytest.mark.parametrize('epochs', [1, 2])
def test_trainer_and_sampler_agree_on_every_token(epochs):
  """Catches a token, such as padding, that the sampler says and the trainer sees as something else:
  an untrained policy at a high temperature says them all. Later epochs do not count: there the
  policy has moved."""
  config = dataclasses.replace(TASK_RL, temperature=8.0, epochs=epochs)

  def step(state):
    return policy_gradient.step(state, KEY, RL_SETUP, config, state.params)

  state = create(RL_SETUP, models.params(RL_SETUP.model))
  _, metrics = quick_jit(step)(state)
  assert 0.0 < metrics['log_prob_gap'] < 1e-4

  def explore(params):
    return exploration.explore(RL_SETUP, params, KEY, group=4, temperature=8.0).rollout

  said = quick_jit(explore)(state.params)
  said = set(np.asarray(said.tokens)[np.asarray(said.mask)].tolist())
  assert said == set(range(TASK.vocab_size)) - {TASK.pad}


@pytest.mark.parametrize(
  'limit,shape', [(0, (1, 12)), (5, (3, 4)), (12, (1, 12)), (100, (1, 12)), (1, (12, 1))]
)
def test_blocks(limit, shape):
  """Catches rows that are lost or change their order, and blocks larger than allowed."""
  blocks = state_lib.in_blocks({'x': jnp.arange(12), 'y': jnp.ones((12, 2))}, limit)
  assert blocks['x'].shape == shape and blocks['y'].shape == (*shape, 2)
  np.testing.assert_array_equal(blocks['x'].reshape(-1), np.arange(12))


@pytest.mark.parametrize(
    'blocks,n_active,sizes',
    [
        ((), 12, [12]), ((), 0, []), ((), 1, [12]), ((5,), 12, [3] * 4), ((5,), 5, [3] * 2), ((5,), 7, [3] * 3), ((5,), 0, []),
        ((2,), 5, [2] * 3), ((2,), 3, [2] * 2), ((3, 1), 11, [3] * 3 + [1] * 2), ((3, 1), 9, [3] * 3), ((2, 1), 1, [1]),
        ((5, 1), 7, [3, 3, 1]), ((3, 2), 5, [2] * 3), ((3, 1), 12, [3] * 4), ((1, 1), 2, [1, 1]),
    ],
)  # fmt: skip
def test_gradient_in_blocks(blocks, n_active, sizes):
  """Catches a block with a row that matters left out, a row in two blocks, and blocks without one worked off (most of the cost
  of RL)."""
  setup = dataclasses.replace(GRADIENT_DESCENT, block_rows=blocks)
  rows = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0])
  loss = lambda p, block: (
    jnp.sum(p['ends'] * block),
    {'rows': jnp.zeros(13).at[block.shape[0]].add(1)},
  )
  params = {'ends': jnp.float32(3.0), 'blocks': {}}
  got, metrics = state_lib.gradient(loss, params, rows, setup, jnp.int32(n_active))
  assert float(got['ends']) == np.sum(rows[: sum(sizes)])
  np.testing.assert_array_equal(metrics['rows'], np.bincount(sizes, minlength=13))


def test_a_block_is_not_larger_than_the_batch_asks_for():
  """Catches a batch of 64 that is packed into, and worked off as, the 256 rows that an accelerator takes at a time."""
  setup = dataclasses.replace(GRADIENT_DESCENT, block_rows=(256,))
  prompt, trace = np.full((64, 6), 6, np.int32), np.full((64, 8), 7, np.int32)
  rows, n_rows = setup.pack(prompt, trace, np.ones((64, 8), bool), {})
  assert len(rows['token']) == 64 and n_rows == 64
  _, metrics = state_lib.gradient(
      lambda p, block: (jnp.sum(p['ends']), {'calls': 1, 'rows': len(block)}), {'ends': jnp.ones(()), 'blocks': {}},
      jnp.zeros((64, 3)), setup, jnp.int32(17),
  )  # fmt: skip
  assert metrics == {'calls': 2, 'rows': 32}


@pytest.mark.skipif(jax.device_count() < 2, reason='needs two devices')
@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_layers_are_shared_out(name):
  """Catches a layer that no device updates or two do, gradients clipped by the norm of a part, and moments that stay behind:
  two updates on two devices, each for one of two layers, are those of one device."""
  settings = optimizer.OptimizerConfig(
    0.9, 0.98, 1e-8, weight_decay=0.1, clip_norm=0.5, muon_scale=5.0
  )
  setup = dataclasses.replace(
    GRADIENT_DESCENT, tx=optimizer.make(settings, name, optimizer.schedule(0.01, 0, 10, 'constant'))
  )
  state, grads = create(setup, PARAMS), models.params(MODEL, seed=1)

  def twice(setup):
    each = jax.tree.map(lambda g: g / setup.shards, grads)
    first = lambda state: state_lib.update(state, each, setup)[0]
    return quick_jit(
      state_lib.on_every_device(lambda s: state_lib.update(first(s), each, setup), setup)
    )(state)

  want, metrics = twice(setup)
  with jax.set_mesh(
    jax.make_mesh(
      (2,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
  ):
    got, got_metrics = twice(dataclasses.replace(setup, shards=2))
  assert_same((got.params, got.opt_state), (want.params, want.opt_state), atol=1e-6)
  assert_same(got_metrics, metrics)


def test_update():
  """Catches a step that is not counted, a norm of something else than the gradient, and divergence that is not seen."""
  setup = dataclasses.replace(GRADIENT_DESCENT, tx=optax.sgd(0.5))
  state = create(setup, {'a': jnp.asarray([1.0, 2.0]), 'b': jnp.asarray([3.0])})
  new, metrics = state_lib.update(
    state, {'a': jnp.asarray([0.0, 3.0]), 'b': jnp.asarray([4.0])}, setup
  )
  assert (state.step, new.step) == (0, 1)
  np.testing.assert_array_equal(jnp.concatenate(list(new.params.values())), [1.0, 0.5, 1.0])
  assert metrics['grad_norm'] == 5.0 and metrics['finite'] == 1.0
  for bad in (jnp.nan, jnp.inf):
    _, metrics = state_lib.update(
      state, {'a': jnp.asarray([0.0, bad]), 'b': jnp.asarray([4.0])}, setup
    )
    assert metrics['finite'] == 0.0
