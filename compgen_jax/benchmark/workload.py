"""What is timed: the parts of training at one shape, with the work that each does.

GFLOP/s count the matrix products that the shapes ask for (2 operations per multiply-add; three forward passes a training step,
padding included, embeddings left out; Muon's iterations); softmax, norms, masks and AdamW are time without a count. `useful`
tokens leave out padding.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from compgen_jax import config as config_lib
from compgen_jax.benchmark.timing import Program, program
from compgen_jax.config import Config
from compgen_jax.experiment import run, stages
from compgen_jax.learning import exploration, optimizer
from compgen_jax.learning.state import Source, in_blocks, on_every_device, sample_problems, update
from compgen_jax.model.rollout import rollout
from compgen_jax.model.transformer import Model
from compgen_jax.task.verify import verify

RL = 'compound'  # the stage whose steps are those of RL
STEPS = 2  # updates a timed call
PROBLEMS = 4096  # at least, a timed call of the generator


@dataclasses.dataclass
class Part:
  """A program and the work of one call: `units` of `unit` (`useful` of them not padding), `flops` in matrix products."""

  part: str
  program: Program
  unit: str
  units: float
  useful: float
  flops: float
  calls: int = 1  # repetitions inside one call, e.g. updates
  optimizer_flops: float = 0.0  # the part of `flops` that is the optimizer's


def forward_flops(model: Model, rows: float, queries: int, keys: float, logits: int) -> float:
  """Operations in the matrix products of a forward pass: per row, `queries` columns that each meet `keys` columns."""
  c = model.config
  layer = 2 * queries * (4 * c.d_model**2 + 2 * c.d_model * c.d_ff) + 4 * queries * keys * c.d_model
  return float(rows * (c.n_layers * layer + 2 * logits * c.d_model * model.vocab_size))


def row_flops(model: Model, columns: int) -> float:
  """Of the forward pass of one packed row, whose attention is computed in chunks of queries."""
  met = sum(queries * keys for queries, keys in model.attended(columns)) / columns
  return forward_flops(model, 1, columns, met, columns)


def optimizer_flops(name: str, params: Any) -> float:
  """Operations in the matrix products of an update of the model's parameters: of `optimizer.orthogonalise`, for a matrix
  of a x b (a <= b) two products with all of it, and up to four of a x a for each polynomial."""
  matrices = [
    leaf.shape
    for path, leaf in jax.tree.leaves_with_path(params)
    if optimizer.is_matrix(path, leaf)
  ]
  n_square = 4 * len(optimizer.NEWTON_SCHULZ) - 3
  one = lambda a, b: 4 * a * a * b + n_square * 2 * a**3
  return (
    float(sum(n * one(min(i, o), max(i, o)) for n, i, o in matrices)) if name == 'muon' else 0.0
  )


def at_shape(
  config: ConfigDict, d_model: int, n_layers: int, rows: int = 512, **changes: Any
) -> Config:
  """The experiment's SFT and RL at another model shape, typed. `changes` by dotted field with `__` for the dot."""
  config = config.copy_and_resolve_references()
  config.model.update(d_model=d_model, n_layers=n_layers, d_ff=4 * d_model)
  # A trace of entropy bonus: else an untrained policy has no signal, and its updates would be skipped.
  config.rl.update(prompts=rows // config.rl.group, entropy=1e-6)
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return config_lib.from_config_dict(config)


class Workload:
  """The programs of one config on all devices of the current mesh. `rows`: rows of prefill, decode and RL.

  An untrained policy writes every trace to its last column, and here its every sample is learned from: RL at its most
  expensive. (In a run, rows stop at their `end`, blocks of rows stop together, and samples without signal are skipped.)
  """

  def __init__(self, config: Config, rows: int):
    self.config, self.rows = config, rows
    self.supports = run.build_supports(config)
    self.base = run.build_setup(config, jax.device_count())
    self.model, self.task = self.base.model, self.base.task
    self.key = jax.random.key(0)
    self.params = jax.jit(self.model.init_params)(jax.random.key(1))
    depth = self.supports['compounds'].depth_cap
    self.n_prompt, self.n_trace = self.task.prompt_width(depth), self.task.trace_width(depth)

  def _on_devices(self, function, *args, row_outputs: bool = True) -> Program:
    return program(on_every_device(function, self.base, row_outputs), *args)

  def stage(self, name: str) -> stages.Stage:
    return stages.build(name, self.config, self.base, self.supports, pathlib.Path())

  def batch(self, name: str):
    """A stage's whole batch, rendered, on one device."""
    setup = dataclasses.replace(self.stage(name).setup, shards=1)
    return jax.jit(lambda key: sample_problems(key, setup)[2])(self.key)

  # Parts ----------------------------------------------------------------------------------------------------------

  def generate(self) -> Part:
    """Sampling, rendering and verifying problems of the RL support, as many at a time as an SFT step takes."""
    block = self.config.sft.batch
    n_blocks = -(-PROBLEMS // block)
    setup = dataclasses.replace(self.base, sources=(Source(self.supports['compounds'], block),))

    def generate(key):
      def one(i):
        _, problems, rendered = sample_problems(jax.random.fold_in(key, i), setup)
        strict = jax.vmap(lambda p, t: verify(p, t, self.task))(problems, rendered.trace).strict
        return rendered.trace, strict

      out = jax.lax.map(one, jnp.arange(n_blocks))
      return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), out)

    part = self._on_devices(generate, self.key)
    assert np.all(jax.device_get(part.call()[1])), 'a golden trace did not pass verification'
    return Part('generate', part, 'problems', n_blocks * block, n_blocks * block, 0.0)

  def step(self, name: str) -> Program:
    """STEPS updates of a stage in one dispatch."""
    stage = self.stage(name)
    n_seeds = len(self.config.all_seeds)
    with_seeds = jax.tree.map(lambda x: jnp.stack([x] * n_seeds), self.params)
    state, parent = stages.initial_state(stage, with_seeds)
    return program(
      stages.updates(stage), state, jax.random.split(self.key, n_seeds), parent, STEPS, carry=True
    )

  def sft_step(self) -> Part:
    columns, useful, width = self._packed(self._sft_rows)
    flops = 3 * columns / width * row_flops(self.model, width)
    return self._step_part('sft_step', 'sft', columns, useful, flops, self.config.sft.optimizer)

  def rl_step(self) -> Part:
    columns, useful, width = self._packed(self._rl_rows)
    prefill = forward_flops(self.model, self.config.rl.prompts, self.n_prompt, self.n_prompt, 1)
    flops = 3 * columns / width * row_flops(self.model, width) + prefill + self._decode_flops
    return self._step_part('rl_step', RL, columns, useful, flops, self.config.rl.optimizer)

  def _step_part(
    self, part: str, stage: str, columns: float, useful: float, flops: float, optimizer_name: str
  ) -> Part:
    more = optimizer_flops(optimizer_name, self.params)
    units = [STEPS * x for x in (columns, useful, flops + more)]
    return Part(part, self.step(stage), 'tokens', *units, calls=STEPS, optimizer_flops=STEPS * more)

  def forward(self) -> Part:
    """The forward pass of SFT on packed rows, empty ones too, without gradients."""
    setup = self.stage('sft').setup

    def forward(params, key):
      rows, _ = self._sft_rows(key)
      params = self.model.unstack(params)
      logits = lambda block: self.model.apply(
        params, block['token'], document_BxT=block['document']
      )
      size = setup.blocks(rows['token'].shape[0], 0)[0][0]
      whole = jax.tree.map(lambda x: x[: x.shape[0] // size * size], rows)
      out = jax.lax.map(lambda block: jnp.max(logits(block), axis=-1), in_blocks(whole, size))
      return out.reshape(-1, out.shape[-1])

    part = self._on_devices(forward, self.params, self.key)
    n_rows, width = part.call().shape
    return Part(
      'sft_forward',
      part,
      'tokens',
      n_rows * width,
      n_rows * width,
      n_rows * row_flops(self.model, width),
    )

  def prefill(self) -> Part:
    def prefill(params, key):
      run_block = lambda p: self.model.prefill(params, p, self.n_prompt + self.n_trace)[0]
      return jax.lax.map(run_block, self._prompts(key)).reshape(-1, self.model.vocab_size)

    part = self._on_devices(prefill, self.params, self.key)
    columns = self.rows * self.n_prompt
    return Part('prefill', part, 'tokens', columns, columns, self._prefill_flops)

  def decode(self) -> Part:
    """A prefill, and then every column of the trace, sampled: no row ends."""

    def decode(params, key):
      def run_block(block):
        prompts, ids = block
        never = -1
        sampled = rollout(
          self.model, params, prompts, key, ids, n_tokens=self.n_trace, end=never, temperature=1.0
        )
        return sampled.tokens

      prompts = self._prompts(key)
      ids = jnp.arange(prompts.shape[0] * prompts.shape[1]).reshape(prompts.shape[:2])
      return jax.lax.map(run_block, (prompts, ids)).reshape(-1, self.n_trace)

    part = self._on_devices(decode, self.params, self.key)
    columns = self.rows * self.n_trace
    return Part(
      'decode', part, 'tokens', columns, columns, self._prefill_flops + self._decode_flops
    )

  def explore(self) -> Program:
    """Sampling problems, their rollouts and the verdicts of an RL step."""
    setup = self.stage(RL).setup
    rl = self.config.rl
    run = lambda params, key: exploration.explore(
      setup, params, key, group=rl.group, temperature=rl.temperature
    )
    return self._on_devices(run, self.params, self.key)

  def pieces(self) -> dict[str, Program]:
    """What the steps of SFT and RL are made of, for a breakdown: each does one of a step's pieces, or some of the first."""
    sft, rl = self.stage('sft').setup, self.stage(RL).setup
    state = stages.initial_state(self.stage('sft'), jax.tree.map(lambda x: x[None], self.params))[0]
    state = jax.tree.map(lambda x: x[0], state)
    return {
        'sft.sample': self._on_devices(lambda key: sample_problems(key, sft)[2].trace, self.key),
        'sft.sample+pack': self._on_devices(lambda key: self._sft_rows(key)[0], self.key),
        'update': self._on_devices(lambda s: update(s, s.params, sft)[0], state, row_outputs=False),
        'rl.sample': self._on_devices(lambda key: sample_problems(jax.random.split(key)[0], rl)[2].trace, self.key),
        'rl.explore': self.explore(),
    }  # fmt: skip

  # Their inputs and their work --------------------------------------------------------------------------------------

  def _prompts(self, key: jax.Array) -> jax.Array:
    """Prompts in blocks, this device's part of `rows`."""
    setup = dataclasses.replace(self.base, sources=(Source(self.supports['compounds'], self.rows),))
    return in_blocks(sample_problems(key, setup)[2].prompt, self.base.rollout_rows)

  def _sft_rows(self, key: jax.Array):
    setup = self.stage('sft').setup
    rendered = sample_problems(key, setup)[2]
    written = jnp.arange(rendered.trace.shape[1]) < rendered.trace_length[:, None]
    return setup.pack(
      rendered.prompt, rendered.trace, written, {'weight': written.astype(jnp.float32)}
    )

  def _rl_rows(self, key: jax.Array):
    setup, rl = self.stage(RL).setup, self.config.rl
    _, _, rendered = sample_problems(key, setup)
    prompts = jnp.repeat(rendered.prompt, rl.group, axis=0)
    written = jnp.ones((prompts.shape[0], rendered.trace.shape[1]), bool)
    return setup.pack(prompts, jnp.zeros(written.shape, jnp.int32), written, {})

  def _packed(self, rows_of) -> tuple[float, float, int]:
    """Columns worked off a step, those that are not padding, and the width of a row: means over some steps."""

    def count(key):
      rows, n_rows = rows_of(key)
      n, width = rows['document'].shape
      worked = width * sum(size * count for size, count in self.base.blocks(n, n_rows))
      return jnp.stack([worked, jnp.sum(rows['document'] > 0)])[None]

    count = jax.jit(on_every_device(count, self.base, row_outputs=True))
    # To the host one by one: sums over devices in flight at the same time can wait for each other for ever on CPU.
    counts = [jax.device_get(count(jax.random.fold_in(self.key, i))) for i in range(16)]
    worked, useful = np.mean([np.sum(c, axis=0) for c in counts], axis=0)
    shape = jax.eval_shape(
      on_every_device(lambda key: rows_of(key)[0]['document'], self.base, True), self.key
    )
    return float(worked), float(useful), shape.shape[1]

  @property
  def _prefill_flops(self) -> float:
    return forward_flops(self.model, self.rows, self.n_prompt, self.n_prompt, 1)

  @property
  def _decode_flops(self) -> float:
    room = (
      self.n_prompt + 0.75 * self.n_trace
    )  # every step meets the whole cache, which grows once, half-way
    return forward_flops(self.model, self.rows, self.n_trace, room, self.n_trace)
