"""Batches of problems: drawn, rendered and packed on the device that learns from them."""

from typing import Any

import jax
import jax.numpy as jnp

from compgen_jax.learning import gradients, packing
from compgen_jax.learning.setup import Setup, Source
from compgen_jax.task import latent, render
from compgen_jax.task.latent import Composition, Problem
from compgen_jax.task.render import Rendered
from compgen_jax.task.support import Support, with_cap
from compgen_jax.task.vocab import TaskConfig


def make(
  key_B: jax.Array, composition: Composition, dry: Any, task: TaskConfig, depth_cap: int
) -> tuple[Problem, Rendered]:
  """Problems of given compositions, and their tokens; leading axis B.

  Args:
    key_B: a random key per problem.
    composition: leading axis B, arrays of `depth_cap` steps.
    dry: bool for all of them, or bool[B]: whether strings are noise (see `latent.sample`).
    task: the task.
    depth_cap: decides how wide the tokens are.
  """

  def one(key, composition, dry):
    problem = latent.sample(key, composition, task, dry)
    return problem, render.render(problem, task, depth_cap)

  if isinstance(dry, bool):
    return jax.vmap(lambda key, c: one(key, c, dry))(key_B, composition)
  return jax.vmap(one)(key_B, composition, dry)


def draw(
  key: jax.Array, sources: tuple[Source, ...], supports: dict[str, Support], setup: Setup
) -> tuple[jax.Array, Problem, Rendered]:
  """This device's part of a batch: `(row_ids, problems, rendered)`, leading axis B, by source.

  Row i's keys are folded with its global index i, so problems do not depend on the number of
  devices. All sources go through one program, as wide as the deepest of them asks for.
  """
  composition_key, problem_key = jax.random.split(key)
  depth_cap = max(max(source.config.depths) for source in sources)
  ids, compositions, first = [], [], 0
  for source in sources:
    ids.append(setup.devices.row_ids(first, source.rows))
    first += source.rows

    def compose(i, support=supports[source.name]):
      return with_cap(support.sample_composition(jax.random.fold_in(composition_key, i)), depth_cap)

    compositions.append(jax.vmap(compose)(ids[-1]))
  row_id_B = jnp.concatenate(ids)
  composition = jax.tree.map(lambda *xs: jnp.concatenate(xs), *compositions)
  dry = [source.config.dry for source in sources]
  if len(set(dry)) == 1:
    is_dry = dry[0]
  else:
    is_dry = jnp.concatenate([jnp.full(i.shape, d) for i, d in zip(ids, dry)])
  key_B = jax.vmap(lambda i: jax.random.fold_in(problem_key, i))(row_id_B)
  return row_id_B, *make(key_B, composition, is_dry, setup.task, depth_cap)


def pack(
  setup: Setup,
  prompt_BxP: jax.Array,
  trace_BxC: jax.Array,
  mask_BxC: jax.Array,
  features: dict[str, jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array]:
  """`packing.pack_traces` of all devices' examples together; returns this device's share of rows.

  If each device packed its own examples, the number of rows, and so the time, would differ between
  devices, and all but one would wait.
  """
  examples = setup.devices.gather((prompt_BxP, trace_BxC, mask_BxC, features))
  multiple = gradients.smallest_microbatch(setup, trace_BxC.shape[0])
  return packing.pack_traces(
    *examples,
    setup.model.pad,
    setup.row_columns,
    multiple,
    shard=setup.devices.index,
    n_shards=setup.devices.n,
  )
