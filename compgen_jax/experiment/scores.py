"""Rows of theory.json on a model's own traces: modules, entanglement, swaps, samples.

Intervals: shares are pooled over replicates (`statistics.pooled_share`; those of samples, where
there is one replicate, over prompts). A module's entanglement is
compared within replicates, with an interval over compositions. That of all modules is compared
within modules and replicates; with two replicates or more its interval is over replicates.
"""

from typing import Any, NamedTuple

import numpy as np

from compgen_jax.config import Config
from compgen_jax.experiment import files
from compgen_jax.statistics import interval, pooled_share, stratified_difference
from compgen_jax.theory import explanations, identification, witnesses
from compgen_jax.theory.enrichment import Occasions
from compgen_jax.theory.explanations import ERRORS, Judged
from compgen_jax.theory.identification import KINDS, SORTS, Effects, Executions, Swaps

LEAST = 20  # executions on each side of a module's entanglement


class Traces(NamedTuple):
  """An arm's traces on a split of a replicate.

  greedy: of all problems. executions, occasions: of these traces. swaps, effects,
  swap_is_witnessed: of some of them with a module swapped, and whether SFT witnessed the new
  (routing, skill) pair. depth, samples, tokens: of traces sampled of some problems, neighbours
  being of one problem.
  """

  split: str
  seed: int
  greedy: Judged
  executions: Executions
  occasions: dict[str, Occasions]
  swaps: Swaps
  effects: Effects
  swap_is_witnessed: np.ndarray
  depth: np.ndarray
  samples: Judged
  tokens: np.ndarray


def tables(
  config: Config, traces: dict[str, list[Traces]], n_samples: int, groups: list[np.ndarray]
) -> dict[str, Any]:
  """All rows, by table and then by arm; `n_samples` of each sampled problem. `groups` of modules,
  by index, have a mean entanglement of their own."""
  found: dict[str, Any] = dict(modules=[], entanglement=[], swaps=[], traces=[])
  for arm, parts in traces.items():
    e = _joined(parts)
    label = dict(arm=arm)
    found['modules'] += [label | row for row in _module_rows(e, config)]
    found['entanglement'] += [label | row for row in _entanglement_rows(e, config, groups)]
    for split in dict.fromkeys(part.split for part in parts):
      mine = [part for part in parts if part.split == split]
      place = label | dict(split=split)
      found['swaps'] += [place | row for row in _swap_rows(mine)]
      found['traces'].append(place | _trace_row(mine, n_samples))
  return found


def _joined(parts: list[Traces]) -> Executions:
  """All executions; compositions of different splits are different clusters."""
  shifted, shift = [], 0
  for part in parts:
    e = part.executions
    shifted.append(e._replace(cluster=e.cluster + shift))
    shift += 1 + int(e.cluster.max(initial=0))
  return identification.join(shifted)


def share(right_N: np.ndarray, cluster_N: np.ndarray) -> dict[str, Any]:
  """A share with its interval, and n; None in place of a share of nothing. Clusters: int, such as
  replicates."""
  if not len(right_N):
    return dict(n=0, value=None, low=None, high=None)
  _, cluster_N, n_C = np.unique(cluster_N, return_inverse=True, return_counts=True)
  right_C = np.bincount(cluster_N, weights=right_N)
  value, low, high, _ = pooled_share(right_C, n_C)
  return dict(n=len(right_N), value=value, low=low, high=high)


def _module_rows(e: Executions, config: Config) -> list[dict[str, Any]]:
  """(a) in witnessed contexts, (b) in others, (a) - (b), and (c) by position, of each module."""
  rows, task = [], config.task
  for module, name in enumerate(witnesses.module_names(task)):
    mine = Executions(*(x[e.module == module] for x in e))
    n_P = np.bincount(mine.position)
    right_P = np.bincount(mine.position, weights=mine.right)
    row: dict[str, Any] = dict(
      module=name,
      sort=SORTS[module >= task.n_routings],
      all=share(mine.right, mine.replicate),
      positions=dict(n=n_P.tolist(), accuracy=[r / n if n else None for r, n in zip(right_P, n_P)]),
    )
    for k, kind in enumerate(KINDS):
      is_seen_N = mine.witnessed_NxK[:, k]
      sides = [share(mine.right[x], mine.replicate[x]) for x in (is_seen_N, ~is_seen_N)]
      tally = identification.tally(mine, np.where(is_seen_N, 0, 1), mine.replicate)
      is_enough = min(side['n'] for side in sides) >= LEAST
      value = stratified_difference(*tally) if is_enough else (np.nan,) * 3
      row[kind] = dict(witnessed=sides[0], unwitnessed=sides[1], entanglement=_with_interval(value))
    rows.append(row)
  return rows


def _entanglement_rows(
  e: Executions, config: Config, groups: list[np.ndarray]
) -> list[dict[str, Any]]:
  """Mean entanglement of all modules of a sort, and of groups of them, each compared with itself.

  `modules`: the names of a group; [] is all of the sort. A kind by which all is witnessed, or
  nothing, has no row.
  """
  names = np.array(witnesses.module_names(config.task))
  wholes = np.split(np.arange(len(names)), [config.task.n_routings])
  rows = []
  for sort, whole in zip(SORTS, wholes):
    parts = [group for group in groups if group[0] in whole and len(group) < len(whole)]
    for shown, members in (([], whole), *((names[part].tolist(), part) for part in parts)):
      mine = Executions(*(x[np.isin(e.module, members)] for x in e))
      for kind, is_seen_N in zip(KINDS, mine.witnessed_NxK.T):
        if is_seen_N.any() and not is_seen_N.all():
          row = dict(sort=sort, modules=shown, kind=kind)
          rows.append(row | _mean_entanglement(mine, is_seen_N))
  return rows


def _mean_entanglement(e: Executions, is_seen_N: np.ndarray) -> dict[str, Any]:
  """Of all modules executed, with its interval, and over what that is."""
  values = []
  for seed in np.unique(e.replicate):
    at = e.replicate == seed
    part = Executions(*(x[at] for x in e))
    tally = identification.tally(part, np.where(is_seen_N[at], 0, 1), part.module)
    values.append(stratified_difference(*tally))
  kept = [value for value in values if not np.isnan(value[0])]
  if len(kept) < 2:
    return dict(over='compositions') | _with_interval(kept[0] if kept else (np.nan,) * 3)
  per_seed = np.array([value for value, _, _ in kept])
  *value, over = interval(per_seed, per_seed[:, None])
  return dict(over=over) | _with_interval(value)


def _with_interval(value) -> dict[str, float | None]:
  return files.without_nan(dict(zip(('value', 'low', 'high'), map(float, value))))


def _swap_rows(parts: list[Traces]) -> list[dict[str, Any]]:
  """What changes where one module is swapped: by sort, and whether the new pair is witnessed.

  Problems whose own trace has the wrong structure are left out.
  """
  effects = Effects(*map(np.concatenate, zip(*(part.effects for part in parts))))
  seed_N = np.concatenate([np.full(len(part.swaps.step), part.seed) for part in parts])
  sort_N = np.concatenate([part.swaps.sort for part in parts])
  seen_N = np.concatenate([part.swap_is_witnessed for part in parts])
  effects = effects._asdict()
  counted_N = effects.pop('counted')
  exact_N = effects['before'] & effects['there'] & effects['after']
  rows = []
  for which, sort in enumerate(SORTS):
    for is_seen in (True, False):
      mine_N = counted_N & (sort_N == which) & (seen_N == is_seen)
      row: dict[str, Any] = dict(sort=sort, witnessed=is_seen)
      for name, ok_N in (effects | dict(exact=exact_N)).items():
        row[name] = share(ok_N[mine_N], seed_N[mine_N])
      rows.append(row)
  return rows


def _trace_row(parts: list[Traces], n_samples: int) -> dict[str, Any]:
  """What sampled traces get right, where they first go wrong, and what is rewarded of them."""
  verdicts = [part.samples.verdict for part in parts]
  cluster_N = np.concatenate([np.full(len(part.depth), part.seed) for part in parts])
  if len(parts) == 1:  # samples of one prompt are alike, so with one replicate prompts are clusters
    cluster_N = np.arange(len(cluster_N)) // n_samples
  answer_N, strict_N = (
    np.concatenate([np.asarray(getattr(v, name)) for v in verdicts])
    for name in ('answer', 'strict')
  )
  wrong = [explanations.first_wrong(part.samples.verdict, part.depth) for part in parts]
  kind_N, step_N = (np.concatenate(x) for x in zip(*wrong))
  explored = [
    explanations.explored(
      *(x.reshape(-1, n_samples, x.shape[-1]) for x in (part.tokens, selection_of(part.samples))),
      np.asarray(part.samples.verdict.answer).reshape(-1, n_samples),
    )
    for part in parts
  ]
  rewarded_Q, traces_Q, selections_Q = (np.concatenate(x) for x in zip(*explored))
  some_Q = rewarded_Q > 0
  other_N = np.concatenate([_other_selection(part) for part in parts])
  in_step_N = step_N >= 0
  return dict(
    n=len(answer_N),
    samples=n_samples,
    answer=share(answer_N, cluster_N),
    strict=share(strict_N, cluster_N),
    answer_only=share(~strict_N[answer_N], cluster_N[answer_N]),
    first_wrong={kind: float(np.mean(kind_N == i)) for i, kind in enumerate(ERRORS)},
    first_wrong_step=np.bincount(step_N[in_step_N], minlength=1).tolist(),
    other_selection=share(other_N[in_step_N], cluster_N[in_step_N]),
    prompts=len(rewarded_Q),
    prompts_rewarded=int(some_Q.sum()),
    **{
      name: float(x[some_Q].mean()) if some_Q.any() else None
      for name, x in (
        ('rewarded', rewarded_Q),
        ('distinct_traces', traces_Q),
        ('distinct_selections', selections_Q),
      )
    },
  )


def selection_of(judged: Judged) -> np.ndarray:
  """int[B, L]: the selections that explain the steps."""
  return np.ascontiguousarray(judged.explained.selection)


def _other_selection(part: Traces) -> np.ndarray:
  """bool[B]: the first wrong step is what some other pair makes."""
  _, step_B = explanations.first_wrong(part.samples.verdict, part.depth)
  at = np.maximum(step_B, 0)[:, None]
  return np.take_along_axis(np.asarray(part.samples.explained.pairs), at, axis=1)[:, 0] > 0
