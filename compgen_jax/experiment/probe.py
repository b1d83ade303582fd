"""Asks the models of a finished run about single modules: what theory.json holds of their traces.

No training is needed. Compositions are those of the splits that no arm was trained on and whose
problems have no dry steps; inputs are new. Every arm is asked the same, so arms can be compared.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from compgen_jax.errors import CheckpointError
from compgen_jax.experiment import asking, scores, stages, terms, trained
from compgen_jax.experiment.asking import Writer
from compgen_jax.experiment.finished import Finished
from compgen_jax.experiment.record import Record
from compgen_jax.experiment.scores import Traces
from compgen_jax.task.latent import Composition, with_cap
from compgen_jax.theory import enrichment, explanations, identification, witnesses
from compgen_jax.theory.identification import Swaps

SWAPPED = 1024  # problems of a split and replicate that are asked once more, a module swapped
CANDIDATES = 32  # swaps that are drawn of each, because the new composition is wanted in the split
PROMPTS, SAMPLES = 128, 16  # of a split and replicate: problems, and sampled traces of each
TEMPERATURE = 1.0  # of these samples
GOLDEN = 2048  # golden traces of SFT's data, of a replicate


class Question(NamedTuple):
  """What is asked of every arm on a split of a replicate.

  compositions: leading axis B, sorted by depth. swapped_B: int, the rows that `swaps` are of.
  sampled_B: int, the rows of which several traces are sampled.
  """

  split: str
  seed: int
  compositions: Composition
  swapped_B: np.ndarray
  swaps: Swaps
  sampled_B: np.ndarray


def of_run(run: Finished, writer_of: Callable[[str, int], Writer] | None = None) -> dict[str, Any]:
  """Rows by table: plain data.

  Args:
    run: the run.
    writer_of: (stage, seed) -> who writes its traces; None is its model. A CheckpointError leaves
      the stage out.
  """
  writers = _writers(run, writer_of or (lambda arm, seed: _model(run, arm, seed)))
  splits = [split for split in run.config.ordered_splits if _is_asked(run, split)]
  questions = [_question(run, split, seed) for split in splits for seed in run.replicates]
  traces = {
    stage: [_ask(run, by_seed[q.seed], stage, q) for q in questions if q.seed in by_seed]
    for stage, by_seed in writers.items()
  }
  asked = {arm: traces[arm] for arm in run.arms if traces.get(arm)}
  return dict(
    asked=list(asked),
    golden=_golden_rows(run),
    **scores.tables(run.config, asked, SAMPLES, run.groups_of_modules()),
    **terms.tables(run, writers, traces),
  )


def _model(run: Finished, arm: str, seed: int) -> Writer:
  record = Record(run.folder, run.config, arm, seed)
  if stages.newest_checkpoint(record) != run.config.stages[arm].steps:
    raise CheckpointError(f'{record.folder}: no checkpoint of its end')
  model = trained.restore(run.config, run.folder, arm, seed)
  return asking.of_model(run.setup, model.params)


def _writers(
  run: Finished, writer_of: Callable[[str, int], Writer]
) -> dict[str, dict[int, Writer]]:
  """By stage and seed, of evaluated stages and those that they start from."""
  wanted = {
    (stage, seed): None
    for arm, by_seed in run.evaluations.items()
    for seed in by_seed
    for stage in (arm, run.config.stages[arm].parent)
    if stage
  }
  writers: dict[str, dict[int, Writer]] = {}
  for stage, seed in wanted:
    try:
      writers.setdefault(stage, {})[seed] = writer_of(stage, seed)
    except CheckpointError:
      continue
  return {stage: by_seed for stage, by_seed in writers.items() if by_seed}


def _is_asked(run: Finished, split: str) -> bool:
  support = run.config.supports[run.config.eval.splits[split]]
  return split not in run.config.eval.trained and not (support.prefix or support.dry)


def seed_of(purpose: str, seed: int) -> int:
  """A seed for a purpose and a replicate."""
  return zlib.crc32(f'theory {purpose} {seed}'.encode()) >> 1


def _question(run: Finished, split: str, seed: int) -> Question:
  replicate, task = run.replicates[seed], run.config.task
  support = replicate.supports[run.config.eval.splits[split]]
  cells = [steps for (name, _), (steps, _) in replicate.evaluator.steps.items() if name == split]
  cells = [with_cap(steps, support.depth_cap) for steps in cells]
  compositions = jax.tree.map(lambda *xs: np.concatenate(xs), *cells)
  swapped_B, sampled_B = (_spread(cells, n) for n in (SWAPPED, PROMPTS))
  picked = jax.tree.map(lambda x: x[swapped_B], compositions)
  swaps = identification.draw_swaps(picked, task, CANDIDATES, seed_of(split, seed))
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), swaps.compositions)
  inside_BxK = support.contains_all(flat).reshape(swaps.step.shape)
  has_one_B = inside_BxK.any(axis=1)
  at = np.flatnonzero(has_one_B), np.argmax(inside_BxK, axis=1)[has_one_B]
  swaps = jax.tree.map(lambda x: x[at], swaps)
  return Question(split, seed, compositions, swapped_B[has_one_B], swaps, sampled_B)


def _spread(cells: list[Composition], n: int) -> np.ndarray:
  """Rows of the first compositions of each cell, n in all or fewer."""
  sizes = [len(cell.depth) for cell in cells]
  first = np.cumsum([0, *sizes[:-1]])
  return np.concatenate(
    [start + np.arange(min(size, n // len(cells))) for start, size in zip(first, sizes)]
  )


def _ask(run: Finished, write: Writer, arm: str, question: Question) -> Traces:
  """An arm's traces on a split of a replicate."""
  task, compositions, seed = run.config.task, question.compositions, question.seed
  inputs = seed_of(f'inputs of {question.split}', seed)
  greedy, _ = asking.ask(write, task, compositions, inputs)
  swapped_B, sampled_B = question.swapped_B, question.sampled_B
  # The same inputs as where nothing is swapped: a problem's number decides them.
  old = jax.tree.map(lambda x: x[swapped_B], greedy)
  new, _ = asking.ask(write, task, question.swaps.compositions, inputs, numbers=swapped_B)
  picked = jax.tree.map(lambda x: x[sampled_B], compositions)
  samples, tokens = asking.ask(
    write, task, picked, seed_of(f'samples of {question.split}', seed), SAMPLES, TEMPERATURE
  )
  seen, own = run.witnessed(arm, seed), run.own_witnesses(arm, seed)
  steps = witnesses.steps_of(compositions, task)
  swapped_steps = witnesses.steps_of(question.swaps.compositions, task)
  at = np.arange(len(swapped_B)), question.swaps.step
  ids = identification.composition_ids(compositions)
  return Traces(
    split=question.split,
    seed=seed,
    greedy=greedy,
    executions=identification.executions(steps, greedy, seen, own, ids, seed),
    occasions=enrichment.occasions(steps, greedy.verdict, task),
    swaps=question.swaps,
    effects=identification.effects(old, new, question.swaps),
    swap_is_witnessed=seen.of_steps('pairs', swapped_steps)[at],
    depth=np.repeat(picked.depth, SAMPLES),
    samples=samples,
    tokens=tokens,
  )


def _golden_rows(run: Finished) -> list[dict[str, Any]]:
  """How often golden traces of SFT's data leave a module ambiguous, pooled over replicates."""
  task, rows = run.config.task, []
  names = witnesses.module_names(task)
  for data in dict.fromkeys(run.root_data(arm) for arm in run.arms):
    total = np.zeros((2, len(names)), int)
    for seed in run.replicates:
      compositions = run.compositions(data, seed)
      index = np.arange(GOLDEN) % len(compositions.depth)
      if len(compositions.depth) > GOLDEN:  # all depths of a sampled support
        index = np.random.default_rng(seed).permutation(len(compositions.depth))[:GOLDEN]
      asked = jax.tree.map(lambda x, index=index: x[index], compositions)
      explained = asking.golden(task, asked, seed_of('golden', seed))
      total += np.stack(explanations.golden_ambiguity(explained, asked, task))
    for module, (n, ambiguous) in enumerate(total.T.tolist()):
      sort = identification.SORTS[module >= task.n_routings]
      row = dict(data=list(data), module=names[module], sort=sort, n=n)
      rows.append(row | dict(ambiguous=ambiguous / n if n else None))
  return rows
