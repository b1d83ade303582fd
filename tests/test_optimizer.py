"""Schedules at literal updates, and what the optimizer does to which parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from compgen_jax.learning import optimizer
from compgen_jax.learning.optimizer import OPTIMIZERS, OptimizerConfig
from tests import models
from tests.models import quick_jit

LR, MUON_SCALE = 0.1, 5.0
MUON_LEAVES = {'qkv', 'attention_out', 'ff_in', 'ff_out'}


def config(**changes) -> OptimizerConfig:
  fields = dict(b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.0, clip_norm=1.0, muon_scale=MUON_SCALE)
  return OptimizerConfig(**{**fields, **changes})


def run(tx, params, gradients, rates=None):
  """The updates that a sequence of gradients gives, by default all at the learning rate LR."""
  tx = optax.with_extra_args_support(tx)
  state = tx.init(params)
  step = quick_jit(lambda g, state, rate: tx.update(g, state, params, learning_rate=rate))
  updates = []
  for g, rate in zip(gradients, rates or [LR] * len(gradients)):
    update, state = step(g, state, rate)
    updates.append(update)
  return updates


# Schedule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'shape,warmup,steps,want',
  [
    ('constant', 0, 100, {0: 1.0, 1: 1.0, 99: 1.0}),
    ('constant', 10, 100, {0: 0.0, 5: 0.5, 10: 1.0, 99: 1.0}),
    ('cosine', 0, 100, {0: 1.0, 50: 0.55, 100: 0.1, 200: 0.1}),
    (
      'cosine',
      20,
      100,
      {0: 0.0, 10: 0.5, 20: 1.0, 60: 0.55, 100: 0.1},
    ),  # 60 is halfway between 20 and 100
    ('cosine', 20, 10, {0: 0.0, 5: 0.25, 10: 0.5}),  # a stage that is shorter than its warm-up
  ],
)
def test_schedule(shape, warmup, steps, want):
  """Catches a first update that is lost without warm-up, a cosine over the wrong span (the warm-up
  counted twice would give 0.78 at update 60), one that falls to 0, and one that fails on a short
  stage."""
  rate = optimizer.schedule(2.0, warmup, steps, shape)
  for step, value in want.items():
    assert float(rate(step)) == pytest.approx(2.0 * value, abs=1e-6), step


# Which parameter gets what ------------------------------------------------------------------------


@pytest.mark.parametrize(
  'kind', [dict(positions='segment', tied=True), dict(positions='none', tied=False)], ids=str
)
def test_muon_takes_just_the_layer_matrices(kind):
  """Catches an embedding, head, scale or convolution given to Muon, a matrix given to Adam, and
  layers that are orthogonalised together: Adam's first update has one size in all entries; Muon's
  has singular values of about `muon_scale` * lr in every layer, however different the layers'
  gradients are."""
  params = models.params(models.model(**kind))
  rng = np.random.default_rng(0)

  def size(path):
    return np.array([1.0, 1e-3])[:, None, None] if path[-1].key in MUON_LEAVES else 1.0

  gradient = jax.tree.map_with_path(
    lambda path, p: np.float32(size(path) * rng.standard_normal(p.shape)), params
  )
  tx = optimizer.make(config(), 'muon')
  (update,) = run(tx, params, [gradient])
  taken = set()
  for path, u in jax.tree.leaves_with_path(update):
    u = np.abs(np.asarray(u))
    if np.max(u) < 1.001 * np.min(u):
      assert np.max(u) == pytest.approx(LR, rel=0.6)  # with Nesterov momentum 1.47 * LR
      continue
    taken.add(path[-1].key)
    singular = np.linalg.svd(np.asarray(update['blocks'][path[-1].key]), compute_uv=False)
    singular /= MUON_SCALE * LR * max(1.0, u.shape[2] / u.shape[1]) ** 0.5
    assert np.all((0.6 < singular[:, 0]) & (singular[:, 0] < 1.3)) and np.all(
      np.median(singular, axis=1) > 0.6
    )
  assert taken == MUON_LEAVES


def test_orthogonalise():
  """Catches a polynomial that is left out or applied to another matrix, and rounding that grows
  where singular values are tiny or zero: against the polynomials of the singular values in float64,
  for matrices of all shapes side by side."""
  rng = np.random.default_rng(0)
  matrices, wanted = [], []
  for shape in ((24, 24), (24, 96), (96, 24), (16, 24), (24, 16)):
    n = min(shape)
    for spectrum in (np.ones(n), np.logspace(0, -9, n), 1.0 * (np.arange(n) < 2)):
      u, _, vt = np.linalg.svd(rng.standard_normal((2, *shape)), full_matrices=False)
      s = spectrum / np.linalg.norm(spectrum)
      matrices.append(np.float32((u * s) @ vt))
      for a, b, c in optimizer.NEWTON_SCHULZ:
        s = a * s + b * s**3 + c * s**5
      wanted.append((u * s) @ vt)
  for got, want in zip(quick_jit(optimizer.orthogonalise)(matrices), wanted):
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_muon_is_that_of_optax():
  """Catches momentum, a scale by shape, a learning rate or a decay that differ from the
  library's."""
  params = models.params(models.model())
  rng = np.random.default_rng(0)
  gradients = [
    jax.tree.map(lambda p: np.float32(1e-2 * rng.standard_normal(p.shape)), params)
    for _ in range(3)
  ]
  rate = optimizer.schedule(LR, 2, 100, 'constant')

  def dimensions(params):
    def of(path, _):
      return contrib.MuonDimensionNumbers(1, 2) if path[-1].key in MUON_LEAVES else None

    return jax.tree.map_with_path(of, params)

  whole = contrib.muon(
    lambda step: MUON_SCALE * rate(step),
    weight_decay=0.1,
    muon_weight_dimension_numbers=dimensions,
    adam_b1=0.9,
    adam_b2=0.98,
    adam_weight_decay=0.1,
    adam_learning_rate=rate,
  )
  ours = optimizer.make(config(weight_decay=0.1, clip_norm=1e9), 'muon')
  rates = [float(rate(i)) for i in range(3)]
  for got, want in zip(run(ours, params, gradients, rates), run(whole, params, gradients)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), got, want)


def test_updates_go_downhill():
  """Catches a sign that is lost between the parts of the chain."""
  params = models.params(models.model())
  for name in OPTIMIZERS:
    tx = optimizer.make(config(), name)
    (update,) = run(tx, params, [params])  # the gradient of sum(p ** 2) / 2
    for u, p in zip(jax.tree.leaves(update), jax.tree.leaves(params)):
      assert np.sum(u * p) < 0.0


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_weight_decay(name):
  """Catches a decay that is not applied, not scaled by the learning rate, or that goes through the
  moments; and NaN from a gradient that is zero, which is what a batch without signal has."""
  params = models.params(models.model())
  tx = optimizer.make(config(weight_decay=0.5), name)
  (update,) = run(tx, params, [jax.tree.map(np.zeros_like, params)])
  for (path, u), p in zip(jax.tree.leaves_with_path(update), jax.tree.leaves(params)):
    scale = MUON_SCALE if name == 'muon' and path[-1].key in MUON_LEAVES else 1.0
    np.testing.assert_allclose(u, -scale * LR * 0.5 * p, rtol=1e-5, atol=1e-7)


def test_clip_by_global_norm():
  """Catches a clip that is missing, per leaf, or after Adam (whose first update hides any scale, so
  that it takes a second, huge gradient to see it), and one that touches gradients below the
  bound."""
  params = {
    'blocks': {'a': np.zeros((1, 2), np.float32)},
    'ends': {'b': np.zeros((2,), np.float32)},
  }

  def gradient(a, b):
    return {'blocks': {'a': np.float32([a])}, 'ends': {'b': np.float32(b)}}

  small, huge = gradient([0.3, -0.1], [0.2, 0.1]), gradient([3e6, 0.0], [0.0, -4e6])
  clipped = gradient([0.6, 0.0], [0.0, -0.8])
  plain = optax.adamw(LR, 0.9, 0.98, 1e-8, weight_decay=0.0)
  got = run(optimizer.make(config(), 'adamw'), params, [small, huge])
  for u, v in zip(jax.tree.leaves(got), jax.tree.leaves(run(plain, params, [small, clipped]))):
    np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-7)
  unclipped = run(plain, params, [small, huge])
  assert np.max(np.abs(got[1]['ends']['b'] - unclipped[1]['ends']['b'])) > 0.005


def test_adamw_is_adamw_with_these_settings():
  """Catches b1, b2 or eps that do not reach the optimizer: two updates of one number, by hand."""
  tx = optimizer.make(config(b1=0.5, b2=0.75, eps=0.1), 'adamw')
  params = {'ends': {'x': np.float32([1.0])}}
  first, second = run(tx, params, [{'ends': {'x': np.float32([g])}} for g in (0.4, -0.8)])
  # m = 0.2, v = 0.04, corrected 0.4, 0.16; then m = -0.3, v = 0.19, corrected by 3 / 4 and 7 / 16.
  assert float(first['ends']['x'][0]) == pytest.approx(-LR * 0.4 / (0.4 + 0.1), rel=1e-5)
  assert float(second['ends']['x'][0]) == pytest.approx(
    LR * 0.4 / ((0.19 * 16 / 7) ** 0.5 + 0.1), rel=1e-5
  )


def test_an_update_is_told_its_learning_rate():
  """Catches a learning rate that is that of another update."""
  params = {'ends': {'x': jnp.ones((1,))}}
  rates = [0.0, LR / 2, LR, LR]
  updates = run(optimizer.make(config(), 'adamw'), params, [params] * 4, rates)
  np.testing.assert_allclose([-float(u['ends']['x'][0]) for u in updates], rates, atol=1e-6)
