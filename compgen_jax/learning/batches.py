"""Batches of problems: drawn, rendered and packed on the device that learns from them."""

import jax
import jax.numpy as jnp

from compgen_jax.learning import gradients, packing
from compgen_jax.learning.setup import Setup, Source
from compgen_jax.task import latent, render
from compgen_jax.task.latent import Composition, Problem, with_cap
from compgen_jax.task.render import Rendered
from compgen_jax.task.sampler import Sampler
from compgen_jax.task.vocab import TaskConfig


def make(
  key_B: jax.Array,
  composition: Composition,
  dry: jax.Array | int,
  task: TaskConfig,
  step_cap: int,
) -> tuple[Problem, Rendered]:
  """Problems of given lists of steps, and their tokens; leading axis B.

  Args:
    key_B: a random key per problem.
    composition: leading axis B, arrays of `step_cap` steps.
    dry: int32[B], the number of leading dry steps; 0 where it is known that there are none.
    task: the task.
    step_cap: decides how wide the tokens are.
  """

  def one(key, composition, dry):
    problem = latent.sample(key, composition, task, dry)
    return problem, render.render(problem, task, step_cap)

  if isinstance(dry, int):
    return jax.vmap(lambda key, c: one(key, c, dry))(key_B, composition)
  return jax.vmap(one)(key_B, composition, dry)


def draw(
  key: jax.Array, sources: tuple[Source, ...], samplers: dict[str, Sampler], setup: Setup
) -> tuple[jax.Array, Problem, Rendered]:
  """This device's part of a batch: `(row_ids, problems, rendered)`, leading axis B, by source.

  Row i's keys are folded with its global index i, so problems do not depend on the number of
  devices. All sources go through one program, as wide as the longest of them asks for.
  """
  composition_key, problem_key = jax.random.split(key)
  drawn_from = [samplers[source.name] for source in sources]
  widest = max(sampler.step_cap for sampler in drawn_from)
  ids, drawn, first = [], [], 0
  for source, sampler in zip(sources, drawn_from):
    ids.append(setup.devices.row_ids(first, source.rows))
    first += source.rows

    def steps(i, sampler=sampler):
      composition, n_dry = sampler.sample_steps(jax.random.fold_in(composition_key, i))
      return with_cap(composition, widest), jnp.int32(widest) if sampler.dry else n_dry

    drawn.append(jax.vmap(steps)(ids[-1]))
  row_id_B, (composition, dry_B) = setup.devices.joined(list(zip(ids, drawn)))
  key_B = jax.vmap(lambda i: jax.random.fold_in(problem_key, i))(row_id_B)
  some_dry = any(sampler.dry or sampler.prefix for sampler in drawn_from)
  dry = dry_B if some_dry else 0
  return row_id_B, *make(key_B, composition, dry, setup.task, widest)


def pack(
  setup: Setup,
  prompt_BxP: jax.Array,
  trace_BxC: jax.Array,
  mask_BxC: jax.Array,
  features: dict[str, jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array]:
  """`packing.pack_traces` of all devices' examples together; returns this device's share of rows,
  and how many of them are in use; with a leading axis where it has several parts.

  If each device packed its own examples, the number of rows, and so the time, would differ between
  devices, and all but one would wait.
  """
  devices = setup.devices
  examples = devices.gather((prompt_BxP, trace_BxC, mask_BxC, features))
  multiple = gradients.smallest_microbatch(setup, trace_BxC.shape[0] // devices.lanes)

  def of_part(i):
    widths = setup.model.pad, setup.row_columns, multiple
    return packing.pack_traces(*examples, *widths, shard=i, n_shards=devices.n * devices.lanes)

  return devices.of_parts(of_part)
