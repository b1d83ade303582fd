"""Where a run's numbers go besides its own files: TensorBoard, Weights & Biases.

To add one: a class with `scalars`, an entry of `WRITERS`, and its name in schema.py. It gets the
rows of metrics.jsonl and curve.jsonl as they come, and nothing depends on it.
"""

import importlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

from compgen_jax.errors import ConfigError


class Writer(Protocol):
  """Takes in numbers of one replicate of a stage."""

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Numbers of an update, by names such as `reward` or `accuracy/unseen/3`."""


class TensorBoard:
  """Event files in WORKDIR/tensorboard/STAGE/seed-S."""

  def __init__(self, workdir: pathlib.Path, experiment: str, stage: str, seed: int):
    del experiment
    from tensorboardX import SummaryWriter

    folder = workdir / 'tensorboard' / stage / f'seed-{seed}'
    self._writer = SummaryWriter(str(folder), flush_secs=5)

  def scalars(self, step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)
    self._writer.flush()


class WeightsAndBiases:
  """A run of Weights & Biases in WORKDIR/wandb, a group a workdir.

  It is offline unless WANDB_MODE says otherwise: `wandb sync` sends it later.
  """

  def __init__(self, workdir: pathlib.Path, experiment: str, stage: str, seed: int):
    import wandb

    self._run = wandb.init(
      project=experiment,
      group=workdir.name,
      name=f'{workdir.name}/{stage}/seed-{seed}',
      dir=str(workdir),
      mode=os.environ.get('WANDB_MODE', 'offline'),
      reinit='create_new',
      settings=wandb.Settings(silent=True),
    )

  def scalars(self, step: int, values: dict[str, float]) -> None:
    # With a step of our own: rows of the curve come after later rows of metrics.
    self._run.log(values | {'update': step})


# Name -> (class, package that it needs, extra of setup.py that installs it).
WRITERS: dict[str, tuple[Callable[..., Writer], str, str]] = {
  'tensorboard': (TensorBoard, 'tensorboardX', 'tb'),
  'wandb': (WeightsAndBiases, 'wandb', 'wandb'),
}


def require(names: tuple[str, ...]) -> None:
  """Raises ConfigError where the package of a writer is not there, or does not work."""
  for name in names:
    _, package, extra = WRITERS[name]
    try:
      importlib.import_module(package)
    except ImportError as e:
      what = f'it needs the package {package} ({e})'
      legal = f"pip install -e '.[{extra}]' first, or to leave it out"
      raise ConfigError(f'run.writers={name!r}: {what}; legal is {legal}') from e


def made(
  names: tuple[str, ...], workdir: pathlib.Path, experiment: str, stage: str, seed: int
) -> list[Writer]:
  """The writers of these names, for one replicate of a stage."""
  return [WRITERS[name][0](workdir, experiment, stage, seed) for name in names]


def numbers(kind: str, row: dict[str, Any]) -> dict[str, float]:
  """What a row of metrics.jsonl (`kind` metrics) or curve.jsonl (curve) says, by name."""
  if kind == 'curve':
    return {f'{row["metric"]}/{row["split"]}/{row["depth"]}': row['value']}
  return {name: value for name, value in row.items() if name != 'step'}
