"""Evaluation: fixed problems, what is given of them, and no problem that training can show."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.errors import LeakError
from compgen_jax.experiment import attempts, run
from compgen_jax.experiment.evaluate import Evaluator
from compgen_jax.experiment.supports import build_supports
from compgen_jax.learning import exploration
from compgen_jax.model.rollout import Rollout
from configs import default
from tests import helpers
from tests.experiments import tiny


def _config(splits=None, others=None):
  """`tiny` with further supports (name -> fields), of which `splits` are evaluated."""
  config = tiny(eval__pass_k=(), contrasts=())
  for name, fields in ((splits or {}) | (others or {})).items():
    config.supports[name] = default.support(**fields)
  for name in splits or {}:
    config.eval.splits[name] = name
  return from_config_dict(config)


def _evaluator(config, training=(), **work):
  setup = dataclasses.replace(run.build_setup(config, 1), rollout_rows=0, **work)
  return Evaluator(config, setup, 0, build_supports(config, 0), training)


LATE = dict(pool='test', depths=(1, 2), prefix=1)


def test_cells_evaluated_together_are_measured_as_alone():
  """Catches a cell that gets another's problems, parameters or randomness in a joint call."""
  config = _config({'late': LATE})
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, pass_k=(1, 2)))
  alone = _evaluator(config)
  together = _evaluator(config, evaluation_rows=3 * config.eval.problems)
  assert alone.rows == config.eval.problems and together.rows == 3 * alone.rows
  params = alone._setup.model.init_params(jax.random.key(0))
  for final in (True, False):
    want, got = (evaluator(params, 'sft', 1, final) for evaluator in (alone, together))
    assert got.rows == want.rows and got.items == want.items
    assert list(got.traces) == list(want.traces)


def test_given_steps_are_part_of_what_is_judged():
  """Catches dry steps that the model has to write, that its trace is judged without, or that count
  for a module: who writes the golden rest of each trace gets everything right."""
  evaluator = _evaluator(_config({'late': LATE}))
  keep = [('late', 1), ('late', 2)]
  problems = {cell: evaluator.problems[cell] for cell in keep}
  prompts, rest = (
    jnp.concatenate([getattr(rendered, name) for _, rendered in problems.values()])
    for name in ('prompt', 'trace')
  )
  pad = evaluator._config.task.pad

  def write(model, params, prompts_BxP, key, row_id, *, n_tokens, **_):
    assert prompts_BxP.shape[1] == prompts.shape[1]
    at = jnp.argmax(jnp.all(prompts_BxP[:, None] == prompts, axis=-1), axis=1)
    tokens = rest[at][:, :n_tokens]
    tokens = jnp.pad(tokens, ((0, 0), (0, n_tokens - tokens.shape[1])), constant_values=pad)
    return Rollout(tokens, jnp.zeros(tokens.shape), tokens != pad, tokens[:, 0])

  plainly = mock.patch.object(attempts, 'attempt', attempts.attempt.__wrapped__)
  only_late = mock.patch.dict(evaluator.__dict__, problems=problems)
  with plainly, only_late, mock.patch.object(exploration, 'rollout', write):
    evaluation = evaluator(None, 'sft', 12, final=True)
  for split, depth in keep:
    rows = [row for row in evaluation.rows if (row['split'], row['depth']) == (split, depth)]
    assert all(row['value'] == (not row['metric'].startswith('wrong_')) for row in rows)
    assert {'accuracy', 'strict_accuracy', 'structure_accuracy'} < {row['metric'] for row in rows}
    n_steps = sum(row['n'] for row in rows if row['metric'] == 'skill_accuracy')
    assert n_steps == 16 * depth
    assert set(np.asarray(problems[split, depth][0].dry).tolist()) == {0, 1}
    assert evaluation.items[f'{split}/{depth}'] == [True] * 16


def test_a_split_with_a_prefix_changes_no_other():
  """Catches problems of a split that depend on which other splits there are."""
  plain, more = _evaluator(_config()), _evaluator(_config({'late': LATE}))
  assert set(plain.problems) < set(more.problems)
  for (split, depth), (problems, _) in plain.problems.items():
    got, _ = more.problems[split, depth]
    steps = helpers.steps(problems.composition, plain._config.task)
    assert helpers.steps(got.composition, plain._config.task) == steps
    np.testing.assert_array_equal(got.first_label, problems.first_label)
    np.testing.assert_array_equal(got.dry, 0)


# A split and what is trained on, both as fields of a support; whether the one shows the other.
PAIRS = {
  'the same compositions': (dict(pool='rl', depths=(2,)), dict(pool='rl', depths=(2,)), True),
  'other depths': (dict(pool='rl', depths=(2,)), dict(pool='rl', depths=(3,)), False),
  'a whole list in training is a composition of the split': (
    dict(pool='rl', depths=(3,)),
    dict(pool='rl', depths=(2,), prefix=1),
    True,
  ),
  'a whole list of the split is a composition of training': (
    dict(pool='rl', depths=(2,), prefix=1),
    dict(pool='rl', depths=(3,)),
    True,
  ),
  'a whole list of both': (
    dict(pool='rl', depths=(2,), prefix=1),
    dict(pool='rl', depths=(1,), prefix=2),
    True,
  ),
  'other pools': (
    dict(pool='test', depths=(2,), prefix=1),
    dict(pool='rl', depths=(1, 2), prefix=1),
    False,
  ),
}


@pytest.mark.parametrize('name', PAIRS)
def test_leaks(name):
  """Catches a list of steps that is trained on and reported as unseen, whichever part of it is
  dry; and one that is refused though training can't show it."""
  split, trained, leaks = PAIRS[name]
  config = _config({'split': split}, {'trained': trained})
  if leaks:
    message = r'eval.splits.split: \d+ of its compositions are in training data trained'
    with pytest.raises(LeakError, match=message):
      _evaluator(config, ['trained'])
  else:
    _evaluator(config, ['trained'])
