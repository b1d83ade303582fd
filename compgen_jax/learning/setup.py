"""What every learning step needs beside its state: task, model, optimizer, data, division of
work."""

import dataclasses

import optax

from compgen_jax.learning.devices import Devices
from compgen_jax.model.transformer import Model
from compgen_jax.task.support import SupportConfig
from compgen_jax.task.vocab import TaskConfig


@dataclasses.dataclass(frozen=True)
class Source:
  """A part of each batch: `rows` problems (over all devices) of the support called `name`.

  `config`: what all replicates' supports of this name have in common.
  """

  name: str
  config: SupportConfig
  rows: int


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a step needs besides arrays; static under jit.

  `sources`: what a batch is made of. `anchor`: the same for the auxiliary SFT loss of a stage that
  explores (see `anchor.py`); () is none.
  `row_columns`: about the width of the rows that traces are packed into (see `packing.py`).
  `microbatch_rows`: packed rows whose gradient is computed at a time; see `gradients.microbatches`.
  () is all at once. `rollout_rows`: samples drawn at a time; 0 is all at once.
  `evaluation_rows`: about so many rows are evaluated at a time; 0 is one (split, depth).
  Small microbatches stay in a CPU's cache, large ones keep an accelerator busy.
  """

  task: TaskConfig
  model: Model
  tx: optax.GradientTransformation | None
  sources: tuple[Source, ...]
  anchor: tuple[Source, ...] = ()
  devices: Devices = Devices()
  row_columns: int = 0
  microbatch_rows: tuple[int, ...] = ()
  rollout_rows: int = 0
  evaluation_rows: int = 0

  def rows_evaluated(self, n_problems: int, n_cells: int) -> int:
    """Rows of a call of the program that evaluates: whole cells, as many as suit the platform."""
    return n_problems * max(1, min(self.evaluation_rows // n_problems, n_cells))
