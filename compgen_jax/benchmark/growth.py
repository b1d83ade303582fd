"""How the time of an SFT step grows with what one may want more of.

One figure with logarithmic axes: each curve beside one that grows proportionally.
"""

import io
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from compgen_jax import config as config_lib
from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import ROWS, STEPS, Workload, at_shape, choose
from compgen_jax.config import Config
from compgen_jax.experiment import files
from compgen_jax.task import modules
from compgen_jax.task.routing import ROUTINGS
from compgen_jax.task.skills import SKILLS

D_MODEL, N_LAYERS = 64, 2  # everything else is as configured
_COMPOSITIONS = 40  # of a finite support, when there are few modules


class Point(NamedTuple):
  """A step that is timed: `value` of an axis, and the config at it."""

  axis: str
  value: int
  config: Config
  n_seeds: int = 1


def points(config: ConfigDict) -> list[Point]:
  """What is timed, axis after axis.

  Raises:
    ConfigError: the config can't be changed along an axis.
  """
  typed = config_lib.from_config_dict(config)
  data = typed.stages[choose(typed).sft].data

  def changed(**changes):
    return at_shape(config, **(dict(d_model=D_MODEL, n_layers=N_LAYERS) | changes))

  def deepest(n):
    depths = {}
    for name in data:
      shallowest = 1 if typed.supports[name].dry else n - 1
      depths[f'supports__{name}__depths'] = tuple(range(shallowest, n + 1))
      depths[f'supports__{name}__prefix'] = 0  # so that n is the depth cap
    return depths

  def only(n_skills, n_routings):
    finite = [name for name in data if typed.supports[name].compositions]
    return {f'supports__{name}__compositions': _COMPOSITIONS for name in finite} | dict(
      task__skills=modules.names(SKILLS)[:n_skills],
      task__routings=modules.names(ROUTINGS)[:n_routings],
    )

  found = [Point('batch (problems)', n, changed(sft={'batch': n})) for n in (16, 32, 64, 128, 256)]
  found += [Point('depth cap (steps)', n, changed(**deepest(n))) for n in (2, 3, 4, 6)]
  for n_skills, n_routings in ((6, 3), (12, 5), (len(SKILLS), len(ROUTINGS))):
    at = changed(**only(n_skills, n_routings))
    found.append(Point('modules', n_skills + n_routings, at))
  found += [Point('seeds side by side', n, changed(), n) for n in (1, 2, 5)]
  return found + [Point('width', n, changed(d_model=n)) for n in (32, 64, 128, 256)]


def measure(todo: list[Point], repeats: int) -> list[dict[str, Any]]:
  """Milliseconds of an SFT step, and seconds to compile it, at every point."""
  programs = []
  for point in todo:
    work = Workload(point.config, ROWS)
    programs.append(work.step(work.chosen.sft, point.n_seeds))
  timing.in_turn(programs, repeats)
  return [
    dict(
      axis=point.axis,
      value=point.value,
      milliseconds=1e3 * program.median / STEPS,
      compile_s=program.compile_s,
    )
    for point, program in zip(todo, programs)
  ]


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """Draws `result['growth']`, one panel an axis: times over those at the axis' first value."""
  from matplotlib.figure import Figure

  axes = list(dict.fromkeys(point['axis'] for point in result['growth']))
  figure = Figure(figsize=(2.4 * len(axes), 2.9), dpi=144, layout='constrained', facecolor='white')
  panels = figure.subplots(1, len(axes), sharey=True)
  for panel, axis in zip(panels, axes):
    _draw_panel(panel, axis, [point for point in result['growth'] if point['axis'] == axis])
  panels[0].set_ylabel('times as long as at the first value')
  panels[0].legend(frameon=False, fontsize=8)
  title = f'An SFT step at d = {D_MODEL}, {N_LAYERS} blocks ({result["hardware"]})'
  figure.suptitle(title, fontsize=10)
  buffer = io.BytesIO()
  figure.savefig(buffer, format=path.suffix.removeprefix('.') or 'png')
  files.write_bytes(path, buffer.getvalue())


def _draw_panel(panel, axis: str, of_axis: list[dict[str, Any]]) -> None:
  """The times of one axis, each over that at the first value."""
  x = [point['value'] for point in of_axis]
  for name, colour, label in (
    ('milliseconds', '#1f5fa8', 'SFT step'),
    ('compile_s', '#b0661b', 'compiling it'),
  ):
    times = [point[name] / of_axis[0][name] for point in of_axis]
    panel.plot(x, times, 'o-', color=colour, markersize=4, linewidth=1.6, label=label)
  panel.plot(x, [v / x[0] for v in x], '--', color='#999999', linewidth=1, label='proportional')
  panel.set(xscale='log', yscale='log', title=axis)
  panel.set_xticks(x, [f'{v:g}' for v in x])
  panel.minorticks_off()
  panel.set_yticks([1, 2, 4, 8, 16, 32], ['1', '2', '4', '8', '16', '32'])
  panel.spines[['top', 'right']].set_visible(False)
  panel.grid(axis='y', color='#e6e6e6', linewidth=0.8)
