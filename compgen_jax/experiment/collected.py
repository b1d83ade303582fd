"""Several workdirs put together: replicates of one experiment pooled, experiments side by side.

Two runs are replicates of one *variant* where their configs agree in all that can change a number:
all but the seeds, the section `run` (how work is cut and saved) and how often curves are measured.
Variants of one experiment are told apart by what their configs differ in. Only results.jsonl,
config.json and summary.json are read, so folders of committed results will do.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from compgen_jax.config import Config, to_dict
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import evaluate, files, summary, workdirs
from compgen_jax.experiment.evaluate import Evaluation, Pooled
from compgen_jax.schema import RunConfig

# Names of a variant's fields in summary.json and the tables: fields that differ, by path.
Values = dict[str, Any]


class FinishedRun(NamedTuple):
  """What a workdir holds: its resolved config, the rows of results.jsonl, and summary.json."""

  folder: pathlib.Path
  config: Config
  rows: list[dict[str, Any]]
  summary: dict[str, Any]


class Variant(NamedTuple):
  """Replicates of one experiment, pooled.

  `values`: field -> value, for the fields in which the collected configs differ. `summary` is as in
  summary.json, with `folders`; where runs have several commits, commands or machines, all of them.
  """

  name: str
  values: Values
  config: Config
  runs: tuple[FinishedRun, ...]
  rows: list[dict[str, Any]]
  summary: dict[str, Any]


def read_run(folder: str | os.PathLike) -> FinishedRun:
  """A finished run.

  Raises:
    ConfigError: the folder holds none; one line that says what it lacks.
  """
  path = pathlib.Path(folder)
  config = workdirs.read_config(path)
  rows = workdirs.results_in(path)
  if not rows.is_file() or not (path / 'summary.json').is_file():
    raise ConfigError(
      f'workdir={str(folder)!r}: not finished (no results.jsonl and summary.json); legal is a '
      'finished run: give its command once more, or leave the folder out'
    )
  held = files.read_json(path / 'summary.json')
  if not isinstance(held, dict):
    raise ConfigError(
      f'{path / "summary.json"} is not readable; legal is to give the command of the run once more'
    )
  return FinishedRun(path, config, files.read_jsonl(rows), held)


def collect(folders: Sequence[str | os.PathLike]) -> list[Variant]:
  """Pools the runs of each variant; variants in the order in which they are first met.

  Raises:
    ConfigError: a folder holds no finished run; experiments differ in name, or have no arm, split
      and depth in common; or one replicate comes twice.
  """
  runs = [read_run(folder) for folder in folders]
  if not runs:
    raise ConfigError('no folders were given; legal are the workdirs of finished runs')
  names = {run.config.experiment: run.folder for run in runs}
  if len(names) > 1:
    places = ', '.join(f'{name!r} in {folder}' for name, folder in names.items())
    raise ConfigError(f'not one experiment: {places}; legal are runs of one experiment')
  groups: dict[str, list[FinishedRun]] = {}
  for run in runs:
    groups.setdefault(repr(_identity(run.config)), []).append(run)
  grouped = list(groups.values())
  for group in grouped:
    _require_distinct(group)
  _require_common([group[0] for group in grouped])
  named = _names([group[0].config for group in grouped])
  return [_variant(*name, group) for name, group in zip(named, grouped)]


def write(folder: pathlib.Path, variant: Variant) -> None:
  """Writes a variant as a run writes its results: config, rows, summary, curves."""
  files.write_json(folder / 'config.json', to_dict(variant.config))
  files.write_jsonl(folder / 'results.jsonl', variant.rows)
  files.write_json(folder / 'summary.json', variant.summary)
  for run in variant.runs:
    for path in sorted(run.folder.glob('stages/*/seed-*/metrics.jsonl')):
      copy = folder / path.relative_to(run.folder)
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(path, copy)


def tidy(variants: Sequence[Variant]) -> list[dict[str, Any]]:
  """The table of all variants, one flat dict per variant, arm, split, depth and metric.

  Contrasts are rows too, in accuracy points, with `contrast` in place of the other three.
  """
  rows = []
  for variant in variants:
    own = {'variant': variant.name} | variant.values | {'n_seeds': len(variant.summary['seeds'])}
    for entry in variant.summary['table']:
      place = {name: entry[name] for name in ('arm', 'split', 'depth')}
      others = {'low', 'high', 'interval', 'n', 'accuracy', *place}
      ends = {name: entry[name] for name in ('low', 'high', 'interval')}
      rows.append(
        own | place | {'metric': 'accuracy', 'value': entry['accuracy'], 'n': entry['n']} | ends
      )
      rows += [
        own | place | {'metric': metric, 'value': entry[metric], 'n': entry['n']}
        for metric in entry
        if metric not in others
      ]
    for c in variant.summary['contrasts']:
      ends = {name: c[name] for name in ('low', 'high', 'interval')}
      value = {'metric': 'contrast', 'value': c['value'], 'n': c['n_problems']}
      rows.append(own | {'contrast': c['name']} | value | ends)
  return rows


def overview(variants: Sequence[Variant]) -> dict[str, Any]:
  """What summary.json holds where there are several variants."""
  fields = tuple(variants[0].values)
  return dict(
    experiment=variants[0].config.experiment,
    differs=list(fields),
    variants=[
      {'name': v.name, 'values': {name: v.values[name] for name in fields}} | v.summary
      for v in variants
    ],
  )


def _identity(config: Config) -> dict[str, Any]:
  """All of a config that can change a number of its results, as plain data."""
  same = dataclasses.replace(
    config,
    seed=0,
    seeds=(),
    run=RunConfig(),
    eval=dataclasses.replace(config.eval, every=0, curve=(), curve_problems=0),
  )
  return to_dict(same)


def _require_distinct(group: list[FinishedRun]) -> None:
  held: dict[int, pathlib.Path] = {}
  for run in group:
    for seed in run.config.all_seeds:
      if seed in held:
        raise ConfigError(
          f'seed {seed} is in {held[seed]} and in {run.folder}: one replicate twice; '
          'legal is each once'
        )
      held[seed] = run.folder


def _cells(run: FinishedRun) -> set[tuple[str, str, int]]:
  return {(e['arm'], e['split'], e['depth']) for e in run.summary['table']}


def _require_common(runs: list[FinishedRun]) -> None:
  if not set.intersection(*map(_cells, runs)):
    folders = ', '.join(str(run.folder) for run in runs)
    raise ConfigError(
      f'nothing to compare: {folders} have no arm, split and depth in common; '
      'legal are runs that share some'
    )


def _names(configs: list[Config]) -> list[tuple[str, Values]]:
  """(name, values) of each variant: what it has where the configs differ."""
  flat = [dict(_flat(_identity(config))) for config in configs]
  paths = list(dict.fromkeys(path for values in flat for path in values))
  differing = [p for p in paths if len({repr(values.get(p)) for values in flat}) > 1]
  named = []
  for values in flat:
    own = {path: values.get(path) for path in differing}
    named.append((', '.join(f'{p}={_written(v)}' for p, v in own.items()), own))
  return named


def _flat(value: Any, path: str = '') -> list[tuple[str, Any]]:
  """(path, value) of all that is no dict; an empty dict counts as a value."""
  if not isinstance(value, dict) or not value:
    return [(path, value)]
  dot = f'{path}.' if path else ''
  return [pair for key, inner in value.items() for pair in _flat(inner, f'{dot}{key}')]


def _written(value: Any) -> str:
  return f'{value:g}' if isinstance(value, float) else str(value)


def _variant(name: str, values: Values, group: list[FinishedRun]) -> Variant:
  """Runs of one variant, their replicates in the order of their seeds."""
  if len(group) == 1:  # what it says of itself also has intervals over problems
    (run,) = group
    result = run.summary | {'folders': [str(run.folder)]}
    return Variant(name, values, run.config, (run,), run.rows, result)
  seeds = tuple(sorted(seed for run in group for seed in run.config.all_seeds))
  config = dataclasses.replace(group[0].config, seed=seeds[0], seeds=seeds)
  rows = [row for run in group for row in run.rows]
  rows.sort(key=lambda row: (config.stage_order.index(row['arm']), seeds.index(row['seed'])))
  pooled = {arm: _pooled(config, arm, rows) for arm in config.stage_order}
  pooled = {arm: measured for arm, measured in pooled.items() if measured.items}
  first = group[0].summary
  wall_s = sum(run.summary['wall_time_s'] for run in group)
  result = summary.summarise(config, pooled, wall_s)
  result |= {name: _joined(group, name) for name in ('commit', 'command', 'hardware')}
  result |= {name: first[name] for name in ('versions', 'supports', 'starts_from') if name in first}
  result['folders'] = [str(run.folder) for run in group]
  return Variant(name, values, config, tuple(group), rows, result)


def _joined(group: list[FinishedRun], name: str) -> str:
  """What the runs say, each different answer once."""
  return '; '.join(dict.fromkeys(str(run.summary[name]) for run in group))


def _pooled(config: Config, arm: str, rows: list[dict[str, Any]]) -> Pooled:
  """What was measured of an arm at its end.

  Rows hold shares, not single problems. Intervals are over replicates here, for which shares are
  enough: so the right answers of a cell stand first, and say nothing of which problems they are.
  """
  own = [row for row in rows if row['arm'] == arm and row['step'] == config.stages[arm].steps]
  evaluations = []
  for seed in config.all_seeds:
    of_seed = [row for row in own if row['seed'] == seed]
    items = {}
    for row in of_seed:
      if row['metric'] == 'accuracy' and 'module' not in row:
        right = round(row['value'] * row['n'])
        items[f'{row["split"]}/{row["depth"]}'] = [i < right for i in range(row['n'])]
    evaluations.append(Evaluation(of_seed, items))
  return evaluate.pool(evaluations)
