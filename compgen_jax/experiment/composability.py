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
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import files, run
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.record import Record
from compgen_jax.experiment.stages import Replicate
from compgen_jax.statistics import pooled_share
from compgen_jax.task import modules
from compgen_jax.task.latent import Composition
from compgen_jax.theory import closure, prediction, witnesses
from compgen_jax.theory.witnesses import KINDS, Witnesses

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


def of_run(workdir: str | os.PathLike, arms: tuple[str, ...] = ()) -> dict[str, Any]:
  """What theory.json holds: plain data.

  Args:
    workdir: the folder of a run. It may still be running: stages that have been evaluated count.
    arms: stages; () is all that have been evaluated.

  Raises:
    ConfigError: no run, no such stage, none of them has been evaluated, or one was evaluated on
      problems that this code does not draw.
  """
  folder, config = pathlib.Path(workdir), files.read_config(workdir)
  for arm in arms:
    if arm not in config.stages:
      raise ConfigError(f'arm={arm!r}: legal is {" | ".join(config.stages)}')
  asked = [arm for arm in config.stage_order if arm in (arms or config.stages)]
  setup = run.build_setup(config, n_devices=1)
  evaluations: dict[str, dict[int, Evaluation]] = {}
  replicates: dict[int, Replicate] = {}
  for seed in config.all_seeds:
    records = [Record(folder, config, arm, seed) for arm in asked]
    if not any((record.folder / 'evaluation.json').exists() for record in records):
      continue
    replicates[seed] = run.build_replicate(config, setup, seed)
    for record in records:
      evaluation = record.read_evaluation(replicates[seed].evaluator.settings)
      if evaluation is not None:
        _require_same_problems(record, evaluation, replicates[seed])
        evaluations.setdefault(record.stage, {})[seed] = evaluation
  if not evaluations:
    what = f'none of {", ".join(asked)} has been evaluated under its config.json'
    raise ConfigError(f'workdir={str(workdir)!r}: {what}; legal is the folder of a finished run')
  return _found(config, replicates, evaluations)


def _require_same_problems(record: Record, evaluation: Evaluation, replicate: Replicate) -> None:
  """Raises ConfigError where the evaluation counts more steps of a skill than its problems have.

  (It counts those of traces with the right structure, nearly all once a model knows the format. An
  older version of the code may have drawn other problems.)
  """
  task = next(iter(replicate.supports.values())).task
  skills = modules.names(task.skill_inventory)
  for (split, depth), (steps, dry_B) in replicate.evaluator.steps.items():
    used_BxM = witnesses.times_used(witnesses.steps_of(steps, task, dry_B), task)
    has = dict(zip(skills, used_BxM.sum(axis=0)[task.n_routings :]))
    for row in evaluation.rows:
      is_mine = (row['split'], row['depth'], row['metric']) == (split, depth, 'skill_accuracy')
      if is_mine and row['n'] > has[row['module']]:
        what = f'was evaluated on other problems of {split}/{depth} than this code draws'
        raise ConfigError(f'{record.folder}: {what}; legal is a run of the same code')


def _found(
  config: Config, replicates: dict[int, Replicate], evaluations: dict[str, dict[int, Evaluation]]
) -> dict[str, Any]:
  arms = [arm for arm in config.stage_order if arm in evaluations]
  roots = {arm: _data(config, _root(config, arm)) for arm in arms}
  witnessed = {
    (data, seed): _witnesses(replicate, data)
    for data in dict.fromkeys(roots.values())
    for seed, replicate in replicates.items()
  }
  shown = dict.fromkeys([*roots.values(), *(_data(config, arm) for arm in arms)])
  found: dict[str, Any] = dict(
    experiment=config.experiment,
    stages=list(config.stage_order),
    trained=list(config.eval.trained),
    arms=arms,
    seeds={arm: sorted(evaluations[arm]) for arm in arms},
    witnessed_by={arm: list(roots[arm]) for arm in arms},
    supports=[_support_row(r, data) for data in shown if data for r in replicates.values()],
    accuracy=[],
    predictions=[],
  )
  for arm in arms:
    mine = {seed: witnessed[roots[arm], seed] for seed in evaluations[arm]}
    for split in config.ordered_splits:
      answers = _answers(replicates, evaluations[arm], mine, split)
      found['accuracy'] += [dict(arm=arm, split=split) | row for row in _accuracy_rows(answers)]
      if split not in config.eval.trained:
        rows = [_prediction(answers, model) for model in MODELS]
        found['predictions'] += [dict(arm=arm, split=split) | row for row in rows]
  return found


def _root(config: Config, stage: str) -> str:
  """The stage at the start of a stage's line."""
  while config.stages[stage].init_from:
    stage = config.stages[stage].init_from
  return stage


def _data(config: Config, stage: str) -> tuple[str, ...]:
  """The supports that a stage trains on, without those whose steps are all dry."""
  return tuple(name for name in config.stages[stage].data if not config.supports[name].dry)


def _compositions(replicate: Replicate, data: tuple[str, ...]) -> Composition:
  return witnesses.join([witnesses.compositions_of(replicate.supports[name]) for name in data])


def _witnesses(replicate: Replicate, data: tuple[str, ...]) -> Witnesses:
  task = replicate.supports[data[0]].task
  return witnesses.of_steps(witnesses.steps_of(_compositions(replicate, data), task), task)


def _support_row(replicate: Replicate, data: tuple[str, ...]) -> dict[str, Any]:
  """What some supports of a replicate witness together."""
  supports = [replicate.supports[name] for name in data]
  task, compositions = supports[0].task, _compositions(replicate, data)
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
    seed=replicate.seed,
    sampled=any(support.table is None for support in supports),
    compositions=len(compositions.depth),
    witnessed=seen.counts(),
    entangled=named(witnesses.entangled(used_ZxM)),
    components=named(witnesses.components(used_ZxM)),
    closure=dict(depths=list(CLOSURE_DEPTHS)) | closures,
  )


def _answers(
  replicates: dict[int, Replicate],
  evaluations: dict[int, Evaluation],
  witnessed: dict[int, Witnesses],
  split: str,
) -> Answers:
  """An arm's answers on a split, those of all replicates one behind the other."""
  parts = []
  for seed, evaluation in evaluations.items():
    seen = witnessed[seed]
    for (name, depth), (steps, dry_B) in replicates[seed].evaluator.steps.items():
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


def _features(answers: Answers, terms: tuple[str, ...]) -> np.ndarray:
  """float[B, F]: an indicator of each depth but the first, then the terms of a model.

  A kind's term is depth - W(c), the steps that are *not* witnessed: at a given depth it says what
  W(c) says, and where all steps are witnessed it is zero at every depth.
  """
  parts = [answers.depth_B[:, None] == np.unique(answers.depth_B)[1:]]
  unwitnessed_BxK = answers.depth_B[:, None] - answers.coverage_BxK
  for term in terms:
    parts.append(answers.used_BxM if term == 'used' else unwitnessed_BxK[:, [KINDS.index(term)]])
  return np.concatenate(parts, axis=1).astype(float)


def _prediction(answers: Answers, model: str) -> dict[str, Any]:
  """A regression fitted on the problems of even number, and how well it does on the others."""
  terms = MODELS[model]
  features_BxF, right_B = _features(answers, terms), answers.right_B
  fitted_B = answers.index_B % 2 == 0
  regression = prediction.fit(features_BxF[fitted_B], right_B[fitted_B])
  predicted_B, right_B = regression.predict(features_BxF[~fitted_B]), right_B[~fitted_B]
  depth_B, coverage_BxK = answers.depth_B[~fitted_B], answers.coverage_BxK[~fitted_B]
  class_BxC = np.concatenate([depth_B[:, None], coverage_BxK], axis=1)
  classes = prediction.by_class(class_BxC, predicted_B, right_B)
  by_depth = {}
  for depth in np.unique(depth_B).tolist():
    at = depth_B == depth
    of_depth = prediction.by_class(coverage_BxK[at], predicted_B[at], right_B[at])
    by_depth[str(depth)] = _plain(prediction.rank_correlation(of_depth))
  kinds = [term for term in terms if term in KINDS]  # they are the last features
  log_odds = regression.per_unit_F[len(regression.per_unit_F) - len(kinds) :].tolist()
  return dict(
    model=model,
    n_fitted=int(fitted_B.sum()),
    n_measured=len(right_B),
    log_loss=prediction.log_loss(predicted_B, right_B),
    log_odds_per_unwitnessed_step=dict(zip(kinds, log_odds)),
    rank_correlation=_plain(prediction.rank_correlation(classes)),
    rank_correlation_by_depth=by_depth,
    calibration=[b._asdict() for b in prediction.calibration(predicted_B, right_B)],
    classes=[b._asdict() for b in classes],
  )


def _plain(correlation: prediction.Correlation) -> dict[str, float | None]:
  """As JSON has it: it knows no NaN."""
  return {k: None if np.isnan(v) else v for k, v in correlation._asdict().items()}


def write(workdir: str | os.PathLike, found: dict[str, Any]) -> pathlib.Path:
  """Writes theory.json; returns its path."""
  path = pathlib.Path(workdir) / 'theory.json'
  files.write_json(path, found)
  return path
