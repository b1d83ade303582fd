"""What the data of a finished run witness, and whether that predicts what its arms answer right.

No model is run. A stage's evaluation.json says which problems were answered right, and a replicate
draws the same problems again. "Witnessed" always means by the data of the first stage that an arm
goes back to, its SFT parent, so that an arm can be compared with what it started from.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import exposure, files, finished
from compgen_jax.experiment.finished import Finished
from compgen_jax.statistics import pooled_share
from compgen_jax.theory import closure, prediction, witnesses
from compgen_jax.theory.witnesses import KINDS

CLOSURE_DEPTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64)
# What a regression may know of a composition. The first is the control. `used` is how often it uses
# each module: what is left for witnesses then is not that some modules are easy.
MODELS = {
  'depth': (),
  'depth, pairs': ('pairs',),
  'depth, parents': ('parents',),
  'depth, interfaces': ('interfaces',),
  'depth, witnesses': KINDS,
  'depth, used': ('used',),
  'depth, used, witnesses': ('used', *KINDS),
}


class Answers(NamedTuple):
  """Problems of one arm on one split, of all its replicates.

  seed_B, depth_B, index_B: int; depth is that of the composition without dry steps, index the
  problem's number in its (split, depth). right_B: bool. coverage_BxK: int, W(c) of each of KINDS.
  used_BxM: int, how many steps use each module.
  """

  seed_B: np.ndarray
  depth_B: np.ndarray
  index_B: np.ndarray
  right_B: np.ndarray
  coverage_BxK: np.ndarray
  used_BxM: np.ndarray


def of_run(
  workdir: str | os.PathLike, arms: tuple[str, ...] = (), config: Config | None = None
) -> dict[str, Any]:
  """What theory.json holds without asking a model: plain data. See `finished.open_run`."""
  return of_finished(finished.open_run(workdir, arms, config))


def of_finished(run: Finished) -> dict[str, Any]:
  """The same of a run that has been read."""
  config, arms = run.config, run.arms
  roots = {arm: run.root_data(arm) for arm in arms}
  shown = dict.fromkeys([*roots.values(), *map(run.data, arms)])
  found: dict[str, Any] = dict(
    experiment=config.experiment,
    stages=list(config.stage_order),
    trained=list(config.eval.trained),
    arms=arms,
    seeds={arm: sorted(run.evaluations[arm]) for arm in arms},
    witnessed_by={arm: list(roots[arm]) for arm in arms},
    supports=[_support_row(run, data, seed) for data in shown if data for seed in run.replicates],
    accuracy=[],
    exposure=[],
    predictions=[],
  )
  for arm in arms:
    found['exposure'] += [dict(arm=arm) | row for row in exposure.rows(run, arm)]
    for split in config.ordered_splits:
      if config.pool_of(split) == 'validation':
        continue  # regressions are fitted there
      answers = answers_of(run, arm, split)
      found['accuracy'] += [dict(arm=arm, split=split) | row for row in _accuracy_rows(answers)]
      if split not in config.eval.trained:
        fitted_on = _validation_split(config, split)
        fitted = answers_of(run, arm, fitted_on) if fitted_on else None
        label = dict(arm=arm, split=split, fitted_on=fitted_on)
        rows = [_prediction(answers, fitted, model) for model in MODELS]
        found['predictions'] += [label | row for row in rows]
  return found


def _validation_split(config: Config, split: str) -> str | None:
  """The evaluated split of the validation pool that has problems as this one's, if there is one."""
  here = config.supports[config.eval.splits[split]]
  for other in config.ordered_splits:
    there = config.supports[config.eval.splits[other]]
    is_like = there.prefix == here.prefix and set(there.depths) >= set(here.depths)
    if there.pool == 'validation' and is_like:
      return other
  return None


def _support_row(run: Finished, data: tuple[str, ...], seed: int) -> dict[str, Any]:
  """What some supports of a replicate witness together."""
  supports = [run.replicates[seed].supports[name] for name in data]
  task, compositions = run.config.task, run.compositions(data, seed)
  steps = witnesses.steps_of(compositions, task)
  seen = witnesses.of_steps(steps, task)
  used_ZxM = witnesses.times_used(steps, task)
  names = np.array(witnesses.module_names(task))

  def named(classes: list[tuple[int, ...]]) -> list[list[str]]:
    return [names[list(members)].tolist() for members in classes]

  depths = np.array(CLOSURE_DEPTHS)
  closures = {kind: closure.shares(seen, kind)[depths - 1].tolist() for kind in KINDS}
  return dict(
    data=list(data),
    seed=seed,
    sampled=any(support.table is None for support in supports),
    compositions=len(compositions.depth),
    witnessed=seen.counts(),
    entangled=named(witnesses.entangled(used_ZxM)),
    components=named(witnesses.components(used_ZxM)),
    closure=dict(depths=list(CLOSURE_DEPTHS)) | closures,
  )


def answers_of(run: Finished, arm: str, split: str) -> Answers:
  """An arm's answers on a split, those of all replicates one behind the other. (With them, accuracy
  can be asked for of any group of problems, such as those that use no module of a list.)"""
  parts = []
  for seed, evaluation in run.evaluations[arm].items():
    seen = run.witnessed(arm, seed)
    for (name, depth), (steps, dry_B) in run.replicates[seed].evaluator.steps.items():
      if name != split:
        continue
      right_B = np.array(evaluation.items[f'{split}/{depth}'])
      real = witnesses.steps_of(steps, seen.task, dry_B)
      part = Answers(
        seed_B=np.full(len(right_B), seed),
        depth_B=real.used.sum(axis=1),
        index_B=np.arange(len(right_B)),
        right_B=right_B,
        coverage_BxK=np.stack([seen.coverage(kind, real) for kind in KINDS], axis=1),
        used_BxM=witnesses.times_used(real, seen.task),
      )
      parts.append(part)
  return Answers(*map(np.concatenate, zip(*parts)))


def _accuracy_rows(answers: Answers) -> list[dict[str, Any]]:
  """Accuracy by depth, kind and number of witnessed steps; nothing where there are no problems."""
  rows = []
  for depth in np.unique(answers.depth_B).tolist():
    for kind, coverage_B in zip(KINDS, answers.coverage_BxK.T):
      for n_witnessed in range(depth + 1):
        inside_B = (answers.depth_B == depth) & (coverage_B == n_witnessed)
        if inside_B.any():
          label = dict(depth=depth, kind=kind, witnessed=n_witnessed, n=int(inside_B.sum()))
          rows.append(label | _accuracy(answers, inside_B))
  return rows


def _accuracy(answers: Answers, inside_B: np.ndarray) -> dict[str, Any]:
  """Accuracy of some of the problems, pooled over seeds, with its interval."""
  inside_SxB = inside_B & (answers.seed_B == np.unique(answers.seed_B)[:, None])
  right_S, n_S = (inside_SxB & answers.right_B).sum(axis=1), inside_SxB.sum(axis=1)
  share, low, high, over = pooled_share(right_S, n_S)
  return dict(accuracy=share, low=low, high=high, interval=over)


def _features(answers: Answers, terms: tuple[str, ...], depths: np.ndarray) -> np.ndarray:
  """float[B, F]: an indicator of each of `depths` but the first, then the terms of a model.

  A kind's term is depth - W(c), the steps that are *not* witnessed: at a given depth it says what
  W(c) says, and where all steps are witnessed it is zero at every depth.
  """
  parts = [answers.depth_B[:, None] == depths[1:]]
  unwitnessed_BxK = answers.depth_B[:, None] - answers.coverage_BxK
  for term in terms:
    parts.append(answers.used_BxM if term == 'used' else unwitnessed_BxK[:, [KINDS.index(term)]])
  return np.concatenate(parts, axis=1).astype(float)


def _where(answers: Answers, inside_B: np.ndarray) -> Answers:
  return Answers(*(x[inside_B] for x in answers))


def _prediction(answers: Answers, fitted: Answers | None, model: str) -> dict[str, Any]:
  """A regression, and how well it does on problems that it was not fitted on.

  It is fitted on `fitted`, of the validation pool; where that is None, on the answers to problems
  of even number, and measured on the others.
  """
  terms, depths = MODELS[model], np.unique(answers.depth_B)
  if fitted is None:
    is_even_B = answers.index_B % 2 == 0
    fitted, answers = _where(answers, is_even_B), _where(answers, ~is_even_B)
  fitted = _where(fitted, np.isin(fitted.depth_B, depths))
  regression = prediction.fit(_features(fitted, terms, depths), fitted.right_B)
  predicted_B, right_B = regression.predict(_features(answers, terms, depths)), answers.right_B
  depth_B, coverage_BxK = answers.depth_B, answers.coverage_BxK
  class_BxC = np.concatenate([depth_B[:, None], coverage_BxK], axis=1)
  classes = prediction.by_class(class_BxC, predicted_B, right_B)
  by_depth = {}
  for depth in np.unique(depth_B).tolist():
    at = depth_B == depth
    of_depth = prediction.by_class(coverage_BxK[at], predicted_B[at], right_B[at])
    by_depth[str(depth)] = _ranks(of_depth)
  kinds = [term for term in terms if term in KINDS]  # they are the last features
  log_odds = regression.per_unit_F[len(regression.per_unit_F) - len(kinds) :].tolist()
  return dict(
    model=model,
    n_fitted=len(fitted.right_B),
    n_measured=len(right_B),
    log_loss=prediction.log_loss(predicted_B, right_B),
    log_odds_per_unwitnessed_step=dict(zip(kinds, log_odds)),
    rank_correlation=_ranks(classes),
    rank_correlation_by_depth=by_depth,
    calibration=[b._asdict() for b in prediction.calibration(predicted_B, right_B)],
    classes=[b._asdict() for b in classes],
  )


def _ranks(bins: list[prediction.Bin]) -> dict[str, float | None]:
  return files.without_nan(prediction.rank_correlation(bins)._asdict())


def write(workdir: str | os.PathLike, found: dict[str, Any]) -> pathlib.Path:
  """Writes theory.json; returns its path."""
  path = pathlib.Path(workdir) / 'theory.json'
  files.write_json(path, found)
  return path
