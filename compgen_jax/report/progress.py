"""progress.html: how far a run has come, drawn from what it writes as it goes.

Only files of the workdir are read, so the run itself spends nothing on it.
"""

import dataclasses
import pathlib
import time
from typing import Any

from compgen_jax.config import Config
from compgen_jax.errors import DamageError
from compgen_jax.experiment import files, workdirs
from compgen_jax.report import page, tables
from compgen_jax.report.curves import accuracy_curves, learning_curves
from compgen_jax.report.digest import Digest

NAME = 'progress.html'


def write(folder: pathlib.Path, config: Config, every_s: int) -> bool:
  """Writes progress.html and its figures, which ask to be loaded again every so many seconds.

  Once the run has its report, the page leads there instead.

  Returns:
    Whether the run has its report.
  """
  is_done = (folder / 'report.html').exists()
  text = _leave() if is_done else _page(folder, config, every_s)
  files.write_bytes(folder / NAME, text.encode('ascii', 'xmlcharrefreplace'))
  return is_done


def _leave() -> str:
  parts = ['<p>The run has finished: <a href="report.html">its report</a>.</p>']
  return page.document(
    'finished', parts, '<meta http-equiv="refresh" content="0; url=report.html">'
  )


def _page(folder: pathlib.Path, config: Config, every_s: int) -> str:
  done = updates_done(folder, config)
  current = current_seeds(folder, config, done)
  # A mean over replicates that have come differently far would jump whenever one begins.
  shown = dataclasses.replace(config, seeds=current)
  arms = tuple(config.stage_order)
  begun = tuple(arm for arm in arms if all(done[arm][seed] for seed in current))
  d = Digest(
    arms=arms,  # all of them, so that each has its colour of the report
    places=(),
    profiles=(),
    updates={arm: config.stages[arm].steps for arm in arms},
    accuracy={},
    others={},
    outcomes={},
    contrasts=(),
    modules={},
    unseen=(),
    curves=learning_curves(folder, shown, begun),
    accuracy_curves=accuracy_curves(shown, _measured(folder, shown), begun),
  )
  seeds = ', '.join(map(str, current))
  at = time.strftime('%Y-%m-%d %H:%M:%S %Z')
  of = f'Curves are of the replicates at work (seed {seeds})' if begun else 'Nothing is trained yet'
  again = f'this page is made anew every {every_s} s while compgen_jax.watch runs'
  title = tables.escape(f'{config.experiment}: running')
  parts = [
    f'<h1>{title}</h1>',
    tables.note(f'As of {at}. {of}; {again}.'),
    _stages_table(config, done),
    *_drawn(d),
  ]
  return page.document(title, parts, f'<meta http-equiv="refresh" content="{every_s}">')


def updates_done(folder: pathlib.Path, config: Config) -> dict[str, dict[int, int]]:
  """Stage -> seed -> the last update that a row of metrics stands for; 0 where there is none."""

  def last(stage: str, seed: int) -> int:
    path = workdirs.stage_folder(folder, stage, seed) / 'metrics.jsonl'
    return max((row['step'] for row in files.read_sealed_jsonl(path)), default=0)

  return {arm: {seed: last(arm, seed) for seed in config.all_seeds} for arm in config.stage_order}


def current_seeds(
  folder: pathlib.Path, config: Config, done: dict[str, dict[int, int]]
) -> tuple[int, ...]:
  """The replicates that train now: as far as the one whose metrics were written last."""

  def written(seed: int) -> float:
    paths = (workdirs.stage_folder(folder, arm, seed) / 'metrics.jsonl' for arm in config.stages)
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)

  def progress(seed: int) -> list[int]:
    return [done[arm][seed] for arm in config.stage_order]

  newest = max(config.all_seeds, key=written)
  return tuple(seed for seed in config.all_seeds if progress(seed) == progress(newest))


def _measured(folder: pathlib.Path, config: Config) -> list[dict[str, Any]]:
  """Rows of the curves so far, and of the evaluation at the end of each finished stage."""
  rows: list[dict[str, Any]] = []
  for arm in config.stage_order:
    for seed in config.all_seeds:
      kept = workdirs.stage_folder(folder, arm, seed)
      rows += files.read_sealed_jsonl(kept / 'curve.jsonl')
      try:
        rows += (files.read_sealed(kept / 'evaluation.json') or {}).get('rows', [])
      except DamageError:
        pass  # the run finds out by itself, and says so
  return rows


def _stages_table(config: Config, done: dict[str, dict[int, int]]) -> str:
  """Updates done of those to do; a row an arm, a column a replicate."""
  seeds = ''.join(f'<th scope="col">seed {seed}</th>' for seed in config.all_seeds)
  body = ''.join(
    tables.row(
      tables.breakable(arm),
      [f'{n:,} of {config.stages[arm].steps:,}' if n else '-' for n in done[arm].values()],
    )
    for arm in config.stage_order
  )
  return tables.table('Updates done', f'<tr><th class="first">arm</th>{seeds}</tr>', body)


def _drawn(d: Digest) -> list[str]:
  """The figures of the curves, as HTML; a line where they can't be drawn."""
  if not page.has_matplotlib():
    return [tables.note(page.NO_FIGURES)]
  from compgen_jax.report import figures

  return list(page.embedded(None, figures.draw_curves(d)).values())
