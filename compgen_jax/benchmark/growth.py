"""How the time of an SFT step grows with what one may want more of: one figure, log-log, beside proportional growth."""

import pathlib
from typing import Any

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import STEPS, Workload, at_shape
from compgen_jax.task import modules
from compgen_jax.task.routing import ROUTINGS
from compgen_jax.task.skills import SKILLS

D_MODEL, N_LAYERS = 64, 2  # everything else is as configured


def sweeps() -> dict[str, tuple[tuple[float, dict[str, Any]], ...]]:
  """Name of an axis -> (value, changes to the config), ... (dots in field names as `__`)."""
  skills, routings = modules.names(SKILLS), modules.names(ROUTINGS)
  inventories = ((6, 3), (12, 5), (len(skills), len(routings)))
  deeper = lambda n: dict(
    supports__dry__depths=tuple(range(1, n + 1)), supports__sft__depths=(n - 1, n)
  )
  only = lambda s, r: dict(
    task__skills=skills[:s], task__routings=routings[:r], supports__sft__compositions=40
  )
  return {
    'batch (problems)': tuple((n, dict(sft__batch=n)) for n in (16, 32, 64, 128, 256)),
    'depth cap (steps)': tuple((n, deeper(n)) for n in (2, 3, 4, 6)),
    'modules': tuple((s + r, only(s, r)) for s, r in inventories),
    'seeds': tuple((n, dict(seeds=tuple(range(n)))) for n in (1, 2, 5)),
    'width': tuple((d, dict(model__d_model=d, model__d_ff=4 * d)) for d in (32, 64, 128, 256)),
  }


def measure(config, repeats: int) -> list[dict[str, Any]]:
  """Milliseconds of an SFT step, and seconds to compile it, along every axis."""
  points = []
  for axis, values in sweeps().items():
    for value, changes in values:
      work = Workload(at_shape(config, D_MODEL, N_LAYERS, **changes), rows=512)
      points.append((axis, value, work.step('sft')))
  timing.in_turn([p for _, _, p in points], repeats)
  return [
    dict(axis=axis, value=value, milliseconds=1e3 * p.median / STEPS, compile_s=p.compile_s)
    for axis, value, p in points
  ]


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
  """One panel per axis: time of a step, and of compiling it, over that at the axis' first value."""
  from matplotlib.figure import Figure

  axes = list(dict.fromkeys(point['axis'] for point in result['growth']))
  figure = Figure(figsize=(2.4 * len(axes), 2.9), dpi=144, layout='constrained', facecolor='white')
  for i, (panel, axis) in enumerate(zip(figure.subplots(1, len(axes), sharey=True), axes)):
    points = [point for point in result['growth'] if point['axis'] == axis]
    x = [point['value'] for point in points]
    for name, colour, label in (
      ('milliseconds', '#1f5fa8', 'SFT step'),
      ('compile_s', '#b0661b', 'compiling it'),
    ):
      times = [point[name] / points[0][name] for point in points]
      panel.plot(x, times, 'o-', color=colour, markersize=4, linewidth=1.6, label=label)
    panel.plot(x, [v / x[0] for v in x], '--', color='#999999', linewidth=1, label='proportional')
    panel.set(xscale='log', yscale='log', title=axis)
    panel.set_xticks(x, [f'{v:g}' for v in x])
    panel.minorticks_off()
    panel.set_yticks([1, 2, 4, 8, 16, 32], ['1', '2', '4', '8', '16', '32'])
    panel.spines[['top', 'right']].set_visible(False)
    panel.grid(axis='y', color='#e6e6e6', linewidth=0.8)
    if i == 0:
      panel.set_ylabel('times as long as at the first value')
      panel.legend(frameon=False, fontsize=8)
  figure.suptitle(
    f'An SFT step at d = {D_MODEL}, {N_LAYERS} layers ({result["hardware"]})', fontsize=10
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)
