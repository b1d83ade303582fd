"""Batches that are made up, and the smallest task there is: what the tests of learning share."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from compgen_jax.learning import batches, exploration, policy_gradient, sft
from compgen_jax.learning.devices import DATA, Devices
from compgen_jax.learning.exploration import Exploration
from compgen_jax.learning.policy_gradient import RLConfig
from compgen_jax.learning.rejection import RFTConfig
from compgen_jax.learning.setup import Setup, Source
from compgen_jax.learning.sft import SFTConfig
from compgen_jax.learning.state import Given, create
from compgen_jax.model.rollout import Rollout
from compgen_jax.model.transformer import Model
from compgen_jax.task.render import Rendered
from compgen_jax.task.support import Support
from compgen_jax.task.verify import Verdict
from tests import helpers, models
from tests.models import N_CONTENT, PAD, quick_jit

RL = RLConfig(prompts=4, group=4, temperature=0.7, estimator='dr_grpo')
RFT = RFTConfig(prompts=4, group=4, temperature=0.7)

# Steps on a made-up batch -------------------------------------------------------------------------
#
# What is learned from a batch can be checked without a task: `explore` is replaced by the batch.
# With gradient descent at learning rate 1, the first change of the parameters is the gradient.

MODEL = models.model()
PARAMS = models.params(MODEL)
ROWS, PROMPT, TRACE = 16, 6, 8
TASK_OF_MODEL = helpers.task(alphabet=N_CONTENT)
GRADIENT_DESCENT = Setup(TASK_OF_MODEL, MODEL, optax.sgd(1.0, momentum=0.5), ())
SOME_SIGNAL = np.array([1, 0, 0, 0] + [1, 1, 1, 1] + [0, 0, 0, 0] + [0, 1, 1, 0], bool)
KEY = jax.random.key(0)
RATES = jnp.float32([0.01])  # learning rates of all updates


def log_probs(params, prompts, traces, temperature):
  """Of the traces' tokens [B, C], and of all tokens [B, C, V]."""
  tokens = jnp.concatenate([prompts, traces], axis=1)[:, :-1]
  logits = MODEL.apply(params, tokens)[:, prompts.shape[1] - 1 :]
  of_all = jax.nn.log_softmax(logits / temperature)
  return jnp.take_along_axis(of_all, traces[..., None], axis=-1)[..., 0], of_all


@functools.cache
def made_up(answer=tuple(SOME_SIGNAL), reward=None) -> Exploration:
  """Four prompts of different length, four traces each, sampled by PARAMS at temperature 0.7.

  `reward`: a tuple of 16; None is that of right answers.
  """
  prompts = np.repeat(models.pad_left(models.random_tokens(4, PROMPT, 1), [3, 6, 4, 5]), 4, axis=0)
  tokens = models.random_tokens(ROWS, TRACE, 2)
  mask = np.arange(TRACE) < (1 + np.arange(ROWS) % TRACE)[:, None]
  tokens = np.where(mask, tokens, PAD)
  of_tokens, _ = quick_jit(lambda *args: log_probs(*args, 0.7))(PARAMS, prompts, tokens)
  rollout = Rollout(tokens, np.where(mask, of_tokens, 0.0), mask, np.full(ROWS, TRACE))
  answer = np.array(answer)
  no_steps = np.zeros((ROWS, 1), bool)
  verdict = Verdict(answer, answer, answer, no_steps, no_steps)
  reward = np.float32(answer if reward is None else reward)
  return Exploration(prompts, rollout, verdict, reward)


@functools.cache
def _step(module, config, setup):
  @quick_jit
  def run(state, batch, parent):
    with mock.patch.object(exploration, 'explore', lambda *args, **kwargs: batch):
      return module.step(state, Given(KEY, parent, {}, RATES), setup, config)

  return run


def step(module, config, setup, state, batch, parent=PARAMS):
  """One step on a made-up batch: (new state, metrics)."""
  return jax.device_get(_step(module, config, setup)(state, batch, parent))


def learn(module, config, batch, params=PARAMS, parent=PARAMS, setup=GRADIENT_DESCENT):
  """The first step on a made-up batch: (new state, metrics)."""
  return step(module, config, setup, create(setup, params), batch, parent)


def gradient_of(state, params=PARAMS):
  return jax.tree.map(np.subtract, params, state.params)


# Gradients of the formulas, written down a second time --------------------------------------------


@functools.cache
def _value_and_gradient(formula):
  return quick_jit(jax.value_and_grad(formula))


def _policy(params, e, advantage, mask):
  of_tokens, _ = log_probs(params, e.prompts, e.rollout.tokens, 0.7)
  return -jnp.sum(of_tokens * advantage[:, None] * mask) / jnp.sum(mask)


def _kl(params, parent, e):
  log_pi, log_parent = (log_probs(p, e.prompts, e.rollout.tokens, 0.7)[0] for p in (params, parent))
  k3 = jnp.exp(log_parent - log_pi) - (log_parent - log_pi) - 1
  return jnp.sum(k3 * e.rollout.mask) / jnp.sum(e.rollout.mask)


def _entropy(params, e):
  _, of_all = log_probs(params, e.prompts, e.rollout.tokens, 0.7)
  nats = -jnp.sum(jnp.exp(of_all) * of_all, axis=-1)
  return jnp.sum(nats * e.rollout.mask) / jnp.sum(e.rollout.mask)


def _cross_entropy(params, prompts, traces, weight):
  return -jnp.sum(log_probs(params, prompts, traces, 1.0)[0] * weight)


def policy(*args):
  """Minus the mean over tokens of advantage times log-probability, and its gradient."""
  return _value_and_gradient(_policy)(*args)


def kl(*args):
  """The mean over tokens of Schulman's k3, and its gradient."""
  return _value_and_gradient(_kl)(*args)


def entropy(*args):
  """The mean entropy over tokens, and its gradient."""
  return _value_and_gradient(_entropy)(*args)


def cross_entropy(*args):
  """Minus the weighted sum of log-probabilities at temperature 1, and its gradient."""
  return _value_and_gradient(_cross_entropy)(*args)


# Golden traces that are made up -------------------------------------------------------------------


def golden() -> tuple[Rendered, list[Rendered]]:
  """Golden traces of two sources of different width: as one batch, and source by source.

  The second problem of each source is dry, the first steps of the later ones are.
  """
  sources = []
  for seed, (n_trace, prompt, trace) in enumerate((([8, 5, 7], 6, 8), ([1, 3, 2, 2], 4, 3))):
    length, row = np.array(n_trace), np.arange(len(n_trace))
    dry_length = np.where(row == 1, length, row // 2)
    prompts = models.random_tokens(len(length), prompt, seed)
    prompts = models.pad_left(prompts, np.minimum(prompt, 2 + length))
    traces = models.random_tokens(len(length), trace, 7 + seed)
    traces = np.where(np.arange(trace) < length[:, None], traces, PAD)
    n_prompt = np.sum(prompts != PAD, axis=1)
    sources.append(Rendered(prompts, n_prompt, traces, length, dry_length))
  wide, narrow = sources
  prompt = np.pad(narrow.prompt, ((0, 0), (2, 0)), constant_values=PAD)
  trace = np.pad(narrow.trace, ((0, 0), (0, 5)), constant_values=PAD)
  narrow = narrow._replace(prompt=prompt, trace=trace)
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), wide, narrow), sources


def mean_over_golden_tokens(params, sources: list[Rendered]):
  """The SFT loss, token by token: of dry columns only markers count, chosen among markers."""
  total, n = 0.0, 0
  for source in sources:
    _, of_all = log_probs(params, source.prompt, source.trace, 1.0)
    rows = zip(source.trace, source.trace_length, source.dry_length)
    for row, (trace, length, dry_length) in enumerate(rows):
      for column, token in enumerate(trace[:length]):
        is_dry = column < dry_length
        if is_dry and token < N_CONTENT:
          continue
        choice = of_all[row, column]
        total -= choice[token] - (jax.nn.logsumexp(choice[N_CONTENT:]) if is_dry else 0.0)
        n += 1
  return total / n


@functools.cache
def golden_loss():
  """Loss and gradient of `golden` at PARAMS."""
  _, sources = golden()
  return quick_jit(jax.value_and_grad(lambda p: mean_over_golden_tokens(p, sources)))(PARAMS)


def drawing(batch: Rendered, seen: list | None = None):
  """Within this context, `batches.draw` gives `batch`; `seen` collects (key, sources)."""

  def draw(key, sources, samplers, setup):
    if seen is not None:
      seen.append((key, sources))
    return None, None, batch

  return mock.patch.object(batches, 'draw', draw)


# Comparing ----------------------------------------------------------------------------------------


def assert_same(got, want, atol=2e-6):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4), got, want)


def assert_equal(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def size(tree) -> float:
  return float(optax.tree.norm(tree))


# Steps on the task --------------------------------------------------------------------------------
#
# The smallest task there is, with sources of different depth and so of different width.

TASK = helpers.task(
  trace='compact',
  alphabet=6,
  width=4,
  min_input=2,
  max_input=2,
  max_depth=2,
  n_labels=4,
  skills=('reverse', 'successor'),
  routings=('previous', 'earlier'),
)


def _support(*depths) -> Support:
  pools = helpers.pools(sft=0.7, rl=0.1)
  return Support(helpers.support_config(depths=depths), TASK, pools, np.uint32(pools.salt))


SUPPORTS = {'atoms': _support(1), 'both': _support(1, 2)}
SAMPLERS = {name: support.sampler for name, support in SUPPORTS.items()}


def source(name: str, rows: int) -> Source:
  return Source(name, SUPPORTS[name].config, rows)


SFT_SETUP = Setup(
  TASK,
  Model(
    models.config(d_model=32, d_ff=64, tied=True),
    TASK.vocab_size,
    TASK.alphabet,
    TASK.width + 2,
    TASK.pad,
  ),
  optax.adamw(3e-3),
  (source('atoms', 16), source('both', 16)),
)
RL_SETUP = dataclasses.replace(SFT_SETUP, tx=optax.adamw(1e-3))
RL_ON_TASK = dataclasses.replace(RL, kl=0.01)
ON_TWO_DEVICES = dict(devices=Devices(2), microbatch_rows=(4, 1), rollout_rows=16)


def two_devices():
  """A mesh of two devices, as a context."""
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((2,), (DATA,), axis_types=auto, devices=jax.devices()[:2])
  return jax.set_mesh(mesh)


@functools.cache
def task_step(module, config, setup):
  """The compiled `(state, key, parent) -> (state, metrics)` of a kind of stage."""

  def run(state, key, parent):
    return module.step(state, Given(key, parent, SAMPLERS, RATES), setup, config)

  return quick_jit(setup.devices.shared(run))


def sft_step(state, key=KEY, setup=SFT_SETUP):
  return task_step(sft, SFTConfig(), setup)(state, key, state.params)


def rl_step(state, parent, setup=RL_SETUP, config=RL_ON_TASK):
  return task_step(policy_gradient, config, setup)(state, KEY, parent)


def fresh(setup=SFT_SETUP):
  return create(setup, models.params(setup.model))


@functools.cache
def half_trained():
  """Parameters that solve some problems and not others."""
  state = fresh()
  for _ in range(400):
    state, _ = sft_step(state)
  return state.params
