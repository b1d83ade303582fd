"""The compiled programs of an evaluation: problems to be solved, and a model's attempts at them."""

import functools

import jax

from compgen_jax.learning import batches, exploration
from compgen_jax.learning.setup import Setup
from compgen_jax.model.rollout import Rollout
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.render import Rendered
from compgen_jax.task.verify import Verdict
from compgen_jax.task.vocab import TaskConfig


@functools.partial(jax.jit, static_argnames=('prefix', 'task', 'step_cap'))
def posed(
  key: jax.Array,
  steps: Composition,
  dry_B: jax.Array,
  prefix: int,
  task: TaskConfig,
  step_cap: int,
) -> tuple[Problem, Rendered]:
  """Problems to be solved: their dry steps, `prefix` at most, are given."""
  key_B = jax.random.split(key, steps.depth.shape[0])
  dry = dry_B if prefix else 0
  problems, rendered = batches.make(key_B, steps, dry, task, step_cap)
  return problems, exploration.give(rendered, prefix, step_cap, task)


@functools.partial(jax.jit, static_argnames=('setup', 'n_tokens', 'given_width'))
def attempt(
  params,
  problems: Problem,
  rendered: Rendered,
  sample_id_B: jax.Array,
  key,
  temperature,
  setup: Setup,
  n_tokens: int,
  given_width: int,
) -> tuple[Rollout, Verdict]:
  """A trace and a verdict per row, the rows split over the devices."""

  def mine(params, problems, rendered, sample_id_B, key, temperature):
    here = setup.devices.row_ids(0, rendered.trace_length.shape[0])
    problems, rendered, ids = jax.tree.map(lambda x: x[here], (problems, rendered, sample_id_B))
    return exploration.attempt(
      setup,
      params,
      problems,
      rendered,
      key,
      ids[:, None],
      n_tokens=n_tokens,
      temperature=temperature,
      given_width=given_width,
    )

  on_all = setup.devices.shared(mine, row_outputs=True)
  return on_all(params, problems, rendered, sample_id_B, key, temperature)
