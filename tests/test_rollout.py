"""Sampling: from the model's distribution, with the log-probabilities of teacher forcing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.model.rollout import rollout
from compgen_jax.model.transformer import Model
from tests import models
from tests.models import END, PAD, VOCAB, quick_jit

ROWS, PROMPT, TOKENS = 16, 6, 10
MODEL = models.model()


def prompts() -> np.ndarray:
  return models.pad_left(models.random_tokens(ROWS, PROMPT), 3 + np.arange(ROWS) % 4)


def sampler(model, temperature=1.0, n_tokens=TOKENS, scan_length=4):
  """(params, prompts, key, row_id) -> Rollout, not compiled."""
  return functools.partial(
    rollout, model, n_tokens=n_tokens, end=END, temperature=temperature, scan_length=scan_length
  )


@functools.cache
def _compiled(scan_length):
  def run(params, prompts, key, row_id, temperature):
    return sampler(MODEL, temperature, scan_length=scan_length)(params, prompts, key, row_id)

  return quick_jit(run)


def sample(prompts, row_id=None, seed=0, temperature=1.0, scan_length=4):
  """As numpy. One program a scan length: the temperature is traced. (4 does not divide TOKENS.)"""
  row_id = np.arange(ROWS) if row_id is None else row_id
  run, key = _compiled(scan_length), jax.random.key(seed)
  return jax.device_get(run(models.params(MODEL), prompts, key, row_id, jnp.float32(temperature)))


@functools.cache
def _teacher_forced():
  return quick_jit(lambda p, tokens: MODEL.apply(p, tokens[:, :-1], start=PROMPT - 1))


def teacher_forced_logits(prompts, sampled) -> np.ndarray:
  tokens = np.concatenate([prompts, sampled.tokens], axis=1)
  return np.asarray(_teacher_forced()(models.params(MODEL), tokens))


def log_softmax(logits):
  return np.asarray(jax.nn.log_softmax(logits))


# What is sampled ----------------------------------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_log_probs_equal_teacher_forced_ones(temperature):
  """Catches log-probabilities of another distribution than the tempered one that was sampled.

  Also catches other columns than learning evaluates, and padding among what is said.
  """
  got = sample(prompts(), temperature=temperature)
  log_probs = log_softmax(teacher_forced_logits(prompts(), got) / temperature)
  want = np.take_along_axis(log_probs, got.tokens[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(got.log_probs[got.mask], want[got.mask], atol=1e-4)
  drawn = got.tokens[got.mask]
  assert not np.any(drawn == PAD) and np.any(drawn == END) and np.any(got.mask[:, -1])
  assert np.max(np.abs(got.log_probs[got.mask] + np.log(VOCAB))) > 0.5


def test_greedy_takes_the_most_probable_token():
  """Catches noise, or a division by zero, at temperature 0.

  Log-probabilities are those at temperature 1.
  """
  got = sample(prompts(), temperature=0.0)
  logits = teacher_forced_logits(prompts(), got)
  np.testing.assert_array_equal(got.tokens[got.mask], np.argmax(logits, axis=-1)[got.mask])
  want = np.max(log_softmax(logits), axis=-1)
  np.testing.assert_allclose(got.log_probs[got.mask], want[got.mask], atol=1e-4)
  other_seed = sample(prompts(), temperature=0.0, seed=1)
  np.testing.assert_array_equal(got.tokens, other_seed.tokens)


def test_sampling_follows_softmax():
  """Catches a temperature on the wrong side, and noise that is not Gumbel or that rows share.

  A chi-square test of the first two tokens of many rows against softmax(logits / 0.7).
  """
  n, temperature = 20_000, 0.7
  prompt, params = prompts()[:1], models.params(MODEL)

  @quick_jit
  def draw(key):
    sample_two = sampler(MODEL, temperature, n_tokens=2, scan_length=2)
    return sample_two(params, jnp.tile(prompt, (n, 1)), key, jnp.arange(n)).tokens

  first_two = np.concatenate([np.tile(prompt, (VOCAB, 1)), np.arange(VOCAB)[:, None]], axis=1)
  logits = quick_jit(lambda tokens: MODEL.apply(params, tokens, start=PROMPT - 1))(first_two)
  log_probs = log_softmax(logits / temperature)
  joint = np.exp(log_probs[0, 0, :, None] + log_probs[:, 1])
  # All that follows `end` is padding.
  joint[END] = np.where(np.arange(VOCAB) == PAD, np.sum(joint[END]), 0.0)
  tokens = np.asarray(draw(jax.random.key(0)))
  seen = np.zeros((VOCAB, VOCAB))
  np.add.at(seen, tuple(tokens.T), 1)
  assert np.all(seen[joint == 0.0] == 0)
  frequent = n * joint >= 5
  seen = np.append(seen[frequent], n - np.sum(seen[frequent]))
  expected = np.append(n * joint[frequent], n * (1 - np.sum(joint[frequent])))
  chi_square, freedom = np.sum((seen - expected) ** 2 / expected), len(seen) - 1
  assert freedom > 50
  assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


# Rows ---------------------------------------------------------------------------------------------


def test_rows_do_not_depend_on_their_batch():
  """Catches randomness by place in the batch.

  The same row id, prompt and key give the same tokens in another place among other rows.
  """
  before = sample(prompts())
  others = models.random_tokens(ROWS, PROMPT, seed=5)
  place = np.arange(ROWS)[::-1]
  stays = np.arange(ROWS) % 3 == 0
  after = sample(
    np.where(stays[:, None], prompts(), others)[place],
    np.where(stays, np.arange(ROWS), 100 + np.arange(ROWS))[place],
  )
  back = jax.tree.map(lambda x: x[place], after)
  np.testing.assert_array_equal(back.tokens[stays], before.tokens[stays])
  np.testing.assert_array_equal(back.mask[stays], before.mask[stays])
  np.testing.assert_allclose(back.log_probs[stays], before.log_probs[stays], atol=1e-5)


def test_row_ids_and_keys_make_a_difference():
  """Catches rows of one prompt, or calls with different keys, that share their noise."""
  same_prompt = np.tile(prompts()[:1], (ROWS, 1))
  got = sample(same_prompt)
  assert len({row.tobytes() for row in got.tokens}) == ROWS
  for other in (sample(same_prompt, row_id=1000 + np.arange(ROWS)), sample(same_prompt, seed=1)):
    assert np.sum(np.all(other.tokens == got.tokens, axis=1)) < 2


def test_columns_do_not_share_their_noise():
  """Catches one draw of noise for all columns: under it, a high temperature repeats one token."""
  got = sample(prompts(), temperature=100.0)
  long = np.sum(got.mask, axis=1) >= 4
  assert np.any(long)
  assert all(len(set(row[:4])) > 1 for row in got.tokens[long])


# The end ------------------------------------------------------------------------------------------


def test_after_the_end():
  """Catches a mask without the end token, which would then never be learnt.

  Also catches tokens or log-probabilities after it.
  """
  got = sample(prompts())
  ended = np.any(got.tokens == END, axis=1)
  assert np.any(ended) and not np.all(ended)
  for tokens, log_probs, mask in zip(got.tokens, got.log_probs, got.mask):
    n = list(tokens).index(END) + 1 if END in tokens else TOKENS
    np.testing.assert_array_equal(mask, np.arange(TOKENS) < n)
    assert np.all(tokens[n:] == PAD)
    assert np.all(log_probs[n:] == 0.0) and np.all(log_probs[:n] < 0.0)


@pytest.mark.parametrize('scan_length', [1, 16])
def test_scans_do_not_show(scan_length):
  """Catches a scan whose tokens go to the wrong columns, and columns beyond the last token."""
  want, got = sample(prompts()), sample(prompts(), scan_length=scan_length)
  assert got.tokens.shape == (ROWS, TOKENS)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_array_equal(got.mask, want.mask)
  np.testing.assert_allclose(got.log_probs, want.log_probs, atol=1e-5)


def test_samples_of_a_prompt_share_its_prefill():
  """Catches samples that get another prompt's cache.

  Three samples of a prompt are those of the prompt written three times.
  """
  once, ids = prompts()[:4], jnp.arange(12)
  run = quick_jit(sampler(MODEL))
  got = run(models.params(MODEL), once, jax.random.key(0), ids)
  want = run(models.params(MODEL), np.repeat(once, 3, axis=0), jax.random.key(0), ids)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  assert len({row.tobytes() for row in np.asarray(got.tokens)}) > 4


class EndsOnTime(Model):
  """Row i's token number ends_at[i] is `end`, and no token before it; decode steps are counted."""

  count = 0

  def _certain(self, logits_BxV, ends_at_B, n_decoded):
    return logits_BxV.at[:, END].set(jnp.where(ends_at_B == n_decoded, 1e9, -1e9))

  def unstack(self, params):
    return params | {'model': super().unstack(params['model'])}

  def prefill(self, params, tokens_BxP, capacity):
    logits, cache = super().prefill(params['model'], tokens_BxP, capacity)
    return self._certain(logits, params['ends_at'], 0), cache

  def decode_step(self, params, cache, token_B):
    def counted():
      EndsOnTime.count += 1

    jax.debug.callback(counted)
    n_decoded = cache.column - PROMPT + 1
    logits, cache = super().decode_step(params['model'], cache, token_B)
    return self._certain(logits, params['ends_at'], n_decoded), cache


def test_stops_when_all_rows_have_ended():
  """Catches a rollout that always runs to its last column, or stops before the slowest row ends.

  It runs as many scans of 4 columns as the longest row needs.
  """
  m = EndsOnTime(MODEL.config, VOCAB, MODEL.n_content, MODEL.n_indices, PAD)

  @quick_jit
  def run(ends_at):
    params = {'model': models.params(MODEL), 'ends_at': ends_at}
    return sampler(m, n_tokens=24)(params, prompts()[:4], jax.random.key(0), jnp.arange(4))

  cases = (
    ([0, 0, 0, 0], 1),
    ([3, 0, 1, 2], 1),
    ([1, 0, 4, 0], 2),
    ([0, 9, 5, 0], 3),
    ([23, 0, 0, 0], 6),
  )
  for ends_at, n_scans in cases:
    EndsOnTime.count = 0
    got = run(jnp.asarray(ends_at))
    jax.effects_barrier()
    np.testing.assert_array_equal(np.argmax(got.tokens == END, axis=1), ends_at)
    np.testing.assert_array_equal(np.sum(got.mask, axis=1), 1 + np.array(ends_at))
    assert 4 * (n_scans - 1) < EndsOnTime.count <= 4 * n_scans
    assert got.decoded.tolist() == [4 * n_scans] * 4


def test_vmap_over_seeds():
  """Catches a stop that one seed's rows cause for all.

  Under vmap each seed's rows are those of that seed alone.
  """
  params = [models.params(MODEL, seed) for seed in (0, 1)]
  keys = jax.random.split(jax.random.key(0))

  def run(params, key):
    return sampler(MODEL, scan_length=2)(params, prompts()[:2], key, jnp.arange(2))

  together = quick_jit(jax.vmap(run))(jax.tree.map(lambda *x: np.stack(x), *params), keys)
  alone = quick_jit(run)
  assert not np.all(np.asarray(together.mask[0]) == np.asarray(together.mask[1]))
  for i in range(2):
    np.testing.assert_array_equal(together.tokens[i], alone(params[i], keys[i]).tokens)
