"""Batches: problems are functions of their row's number, in whatever company."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.learning import batches, gradients
from compgen_jax.learning.devices import Devices
from compgen_jax.learning.setup import Setup, Source
from tests import made_up as m
from tests.made_up import GRADIENT_DESCENT, KEY, MODEL, SAMPLERS, SUPPORTS, TASK
from tests.models import quick_jit


def test_problems_depend_on_their_row_alone():
  """Catches problems drawn by place in the batch: the same row ids give the same problems in any
  place."""

  def sample(ids):
    setup = Setup(TASK, MODEL, None, (m.source('both', len(ids)),))
    with mock.patch.object(Devices, 'row_ids', lambda self, first, rows: jnp.asarray(ids)):
      return quick_jit(lambda: batches.draw(KEY, setup.sources, SAMPLERS, setup)[1:])()

  whole, other = sample(range(8)), sample([7, 3, 100, 5, 101, 102, 0, 103])
  place, row = np.array([0, 1, 3, 6]), np.array([7, 3, 5, 0])
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[place], b[row]), other, whole)
  assert len({tokens.tobytes() for tokens in np.asarray(whole[1].prompt)}) == 8


def test_rows_are_numbered_through():
  """Catches sources that start at row 0 each, and so would see the same random numbers; a dry
  source whose neighbours are dry."""
  both = SUPPORTS['both']
  dry = dataclasses.replace(both, config=dataclasses.replace(both.config, dry=True))
  sources = m.source('atoms', 4), m.source('both', 2), Source('dry', dry.config, 8)
  setup = Setup(TASK, MODEL, None, ())
  ids, problems, rendered = quick_jit(
    lambda: batches.draw(KEY, sources, SAMPLERS | {'dry': dry.sampler}, setup)
  )()
  assert ids.tolist() == list(range(14))
  assert problems.dry.tolist() == [0] * 6 + problems.composition.depth[6:].tolist()
  assert rendered.dry_length.tolist() == [0] * 6 + rendered.trace_length[6:].tolist()
  assert problems.composition.depth[:4].tolist() == [1] * 4


def test_a_prefix_stays_in_its_source():
  """Catches dry steps in a neighbour, or a prefix that is not drawn; and other problems beside a
  prefix: what is not dry is what it would be without."""
  late = dataclasses.replace(
    SUPPORTS['atoms'], config=dataclasses.replace(SUPPORTS['atoms'].config, prefix=1)
  )
  sources = Source('late', late.config, 8), m.source('both', 8)
  setup = Setup(TASK, MODEL, None, ())

  def draw(sources):
    samplers = SAMPLERS | {'late': late.sampler}
    return quick_jit(lambda: batches.draw(KEY, sources, samplers, setup)[1:])()

  problems, rendered = draw(sources)
  assert set(problems.dry[:8].tolist()) == {0, 1} and not np.any(problems.dry[8:])
  assert (problems.composition.depth[:8] - problems.dry[:8]).tolist() == [1] * 8
  assert np.all((rendered.dry_length > 0) == (problems.dry > 0))
  plain, _ = draw((m.source('atoms', 8), m.source('both', 8)))
  same = np.asarray(problems.dry == 0)
  m.assert_equal(
    jax.tree.map(lambda x: x[same], problems.composition),
    jax.tree.map(lambda x: x[same], plain.composition),
  )


def test_dryness_of_all_is_dryness_of_each():
  """Catches a batch whose problems depend on whether its sources agree on being dry."""
  keys = jax.random.split(KEY, 4)
  compositions = jax.vmap(SAMPLERS['both'].sample_composition)(keys)
  for dry in (0, 2):
    one, each = (
      quick_jit(lambda d=d: batches.make(keys, compositions, d, TASK, 2))()
      for d in (dry, jnp.full(4, dry))
    )
    m.assert_equal(one, each)


def test_a_microbatch_is_not_larger_than_the_batch_asks_for():
  """Catches a batch of 64 that is packed into, and worked off as, the 256 rows that an accelerator
  takes at a time."""
  setup = dataclasses.replace(GRADIENT_DESCENT, microbatch_rows=(256,))
  prompt, trace = np.full((64, 6), 6, np.int32), np.full((64, 8), 7, np.int32)
  rows, n_rows = batches.pack(setup, prompt, trace, np.ones((64, 8), bool), {})
  assert len(rows['token']) == 64 and n_rows == 64

  def loss(params, part):
    return jnp.sum(params['ends']), {'calls': 1, 'rows': len(part)}

  params = {'ends': jnp.ones(()), 'blocks': {}}
  _, metrics = gradients.gradient(loss, params, jnp.zeros((64, 3)), setup, jnp.int32(17))
  assert metrics == {'calls': 2, 'rows': 32}
