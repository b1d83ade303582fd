"""Rows of theory.json on what a stage that explores has to work with before it starts, and on the
gain that it then brings.

Samples are its parent's, on its own prompts and at its own temperature. Gains are differences of
greedy accuracy between it and its parent, on the same test problems, item by item: an item is a
module, a (routing, skill) pair, a (parent, routing) pair or an interface of one replicate.
"""

import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from compgen_jax.experiment import asking, files
from compgen_jax.experiment.asking import Writer
from compgen_jax.experiment.finished import Finished
from compgen_jax.experiment.scores import Traces
from compgen_jax.statistics import interval, mixed_groups_each, pass_at_k_each
from compgen_jax.task import tables as supports_tables
from compgen_jax.task.latent import Composition, with_cap
from compgen_jax.theory import enrichment, prediction, witnesses
from compgen_jax.theory.enrichment import Enrichment, Occasions

KS = (1, 4, 16, 64, 256)  # of pass@k
REACH = 64, 256  # prompts and samples of each, of a replicate: for pass@k
ENRICHED = 1024, 16  # the same for enrichment: many prompts, because items are many
LEAST = 8  # prompts of an item, and its steps in test problems: fewer are mostly noise
SHOWN = ('modules', 'pairs')  # kinds whose items theory.json lists


class Samples(NamedTuple):
  """What a parent earns on prompts: right_QxG, bool; depth_Q; occasions by kind, rows Q * G."""

  right_QxG: np.ndarray
  depth_Q: np.ndarray
  occasions: dict[str, Occasions]


def tables(
  run: Finished, writers: dict[str, dict[int, Writer]], traces: dict[str, list[Traces]]
) -> dict[str, Any]:
  """All rows, of arms that explore and whose parent could be asked."""
  found: dict[str, Any] = dict(reach=[], enrichment=[], gains=[])
  drawn: dict[tuple, Samples] = {}
  for arm in run.arms:
    parent = run.config.stages[arm].parent
    if not run.config.kind(arm).explores or parent not in writers:
      continue
    settings = run.config.settings(arm)
    seeds = [seed for seed in run.evaluations[arm] if seed in writers[parent]]
    many, few = [], []
    for seed in seeds:
      for parts, size in ((few, REACH), (many, ENRICHED)):
        key = parent, seed, _prompts_of(run, arm), settings.temperature, size
        if key not in drawn:  # arms that explore alike start alike
          drawn[key] = _sample(run, writers[parent][seed], *key[1:])
        parts.append(drawn[key])
    label = dict(arm=arm, parent=parent, temperature=settings.temperature, group=settings.group)
    found['reach'] += [label | row for row in _reach_rows(few, settings.group)]
    enriched = {kind: _enriched(many, kind) for kind in witnesses.KINDS}
    names = witnesses.module_names(run.config.task)
    pooled = _pooled(many, 'modules')
    found['enrichment'] += [
      dict(arm=arm, module=names[item]) | files.without_nan(e._asdict())
      for item, e in sorted(pooled.items())
    ]
    if traces.get(arm) and traces.get(parent):
      gain = {kind: _gains(traces[parent], traces[arm], seeds, kind) for kind in witnesses.KINDS}
      found['gains'] += [
        dict(arm=arm, kind=kind) | _gain_row(enriched[kind], gain[kind], kind in SHOWN)
        for kind in witnesses.KINDS
      ]
  return found


def _prompts_of(run: Finished, arm: str) -> tuple[str, ...]:
  """The supports of an arm's prompts; where some have no dry steps before them, those."""
  data = run.data(arm)
  return tuple(name for name in data if not run.config.supports[name].prefix) or data


def _sample(
  run: Finished,
  write: Writer,
  seed: int,
  data: tuple[str, ...],
  temperature: float,
  size: tuple[int, int],
) -> Samples:
  """Samples on prompts of some supports, equally many of each depth."""
  n_prompts, n_samples = size
  purpose = f'prompts of {" ".join(data)} {n_prompts}'
  key = jax.random.key(zlib.crc32(f'theory {purpose} {seed}'.encode()) >> 1)
  supports = [run.replicates[seed].supports[name] for name in data]
  cells = [(support, depth) for support in supports for depth in support.config.depths]
  cap = max(support.depth_cap for support in supports)
  parts = [
    supports_tables.sample_at_depth(
      support, jax.random.fold_in(key, i), depth, max(1, n_prompts // len(cells)), cap
    )
    for i, (support, depth) in enumerate(cells)
  ]
  prompts: Composition = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
  number = int(jax.random.randint(key, (), 0, 2**31 - 1))
  judged, _ = asking.ask(write, run.config.task, prompts, number, n_samples, temperature)
  repeated = jax.tree.map(lambda x: np.repeat(x, n_samples, axis=0), with_cap(prompts, cap))
  steps = witnesses.steps_of(repeated, run.config.task)
  return Samples(
    np.asarray(judged.verdict.answer).reshape(-1, n_samples),
    prompts.depth,
    enrichment.occasions(steps, judged.verdict, run.config.task),
  )


def _reach_rows(parts: list[Samples], group: int) -> list[dict[str, Any]]:
  """pass@k and informativeness: of all prompts (depth 0), and by depth; with 95 % intervals."""
  n_samples = parts[0].right_QxG.shape[1]
  rows = []
  for depth in (0, *np.unique(parts[0].depth_Q).tolist()):
    correct_SxQ = np.stack(
      [part.right_QxG[(part.depth_Q == depth) | (depth == 0)].sum(axis=1) for part in parts]
    )
    shares = {
      f'pass@{k}': np.stack([pass_at_k_each(correct_Q, n_samples, k) for correct_Q in correct_SxQ])
      for k in KS
      if k <= n_samples
    }
    shares['never'], shares['always'] = correct_SxQ == 0, correct_SxQ == n_samples
    shares['informative'] = np.stack(
      [mixed_groups_each(correct_Q, n_samples, group) for correct_Q in correct_SxQ]
    )
    row: dict[str, Any] = dict(depth=depth, prompts=correct_SxQ.size, samples=n_samples)
    row['intervals'] = {}
    for name, of_prompt_SxQ in shares.items():
      row[name], low, high, row['over'] = interval(of_prompt_SxQ.mean(axis=1), of_prompt_SxQ)
      row['intervals'][name] = (max(low, 0.0), min(high, 1.0))
    rows.append(row)
  return rows


def _enriched(parts: list[Samples], kind: str) -> dict[tuple[int, int], Enrichment]:
  """(replicate's place, item) -> its enrichment; items of fewer than LEAST prompts are left out."""
  found = {}
  for place, part in enumerate(parts):
    for item, e in _pooled([part], kind).items():
      if e.prompts >= LEAST:
        found[place, item] = e
  return found


def _pooled(parts: list[Samples], kind: str) -> dict[int, Enrichment]:
  """Item -> its enrichment in the samples of all replicates together."""
  item_N, happened_N, right_N, prompt_N, first = [], [], [], [], 0
  for part in parts:
    n_prompts, n_samples = part.right_QxG.shape
    occasions = part.occasions[kind]
    item_N.append(occasions.item)
    happened_N.append(occasions.happened)
    right_N.append(part.right_QxG.reshape(-1)[occasions.row])
    prompt_N.append(first + occasions.row // n_samples)
    first += n_prompts
  item_N, *others = map(np.concatenate, (item_N, happened_N, right_N, prompt_N))
  order_N = np.argsort(item_N, kind='stable')
  items, starts = np.unique(item_N[order_N], return_index=True)
  pieces = [np.split(x[order_N], starts[1:]) for x in others]
  return {item: enrichment.enrichment(*rows) for item, *rows in zip(items.tolist(), *pieces)}


def _gains(
  before: list[Traces], after: list[Traces], seeds: list[int], kind: str
) -> dict[tuple[int, int], float]:
  """(replicate's place, item) -> gain of accuracy, of items with LEAST test steps or more."""
  found = {}
  for place, seed in enumerate(seeds):
    if not all(any(part.seed == seed for part in traces) for traces in (before, after)):
      continue  # one of them has no checkpoint of this replicate
    rates = []
    for traces in (before, after):
      mine = [part.occasions[kind] for part in traces if part.seed == seed]
      item_N, happened_N = (
        np.concatenate([getattr(x, name) for x in mine]) for name in ('item', 'happened')
      )
      n = np.bincount(item_N)
      rates.append((n, np.bincount(item_N, weights=happened_N) / np.maximum(n, 1)))
    (n, old), (_, new) = rates
    found |= {
      (place, item): float(new[item] - old[item]) for item in np.flatnonzero(n >= LEAST).tolist()
    }
  return found


def _gain_row(
  enriched: dict[tuple[int, int], Enrichment], gain: dict[tuple[int, int], float], listed: bool
) -> dict[str, Any]:
  """Rank correlations, over items, of the gain with what was known before, with intervals over
  items. `headroom`, 1 - p0, is the control: what is wrong can be mended."""
  items = [key for key in enriched if key in gain and np.isfinite(enriched[key].value)]
  columns = dict(
    enrichment=[enriched[key].value for key in items],
    within=[enriched[key].within for key in items],
    headroom=[1.0 - enriched[key].p0 for key in items],
  )
  gains = [gain[key] for key in items]
  row: dict[str, Any] = dict(items=len(items))
  for name, values in columns.items():
    pairs = [prediction.Bin(x, y, 1) for x, y in zip(values, gains) if np.isfinite(x)]
    correlation = prediction.rank_correlation(pairs)
    row[name] = files.without_nan(correlation._asdict())
  if listed:
    row['points'] = [
      [e, None if np.isnan(w) else w, h, g] for e, w, h, g in zip(*columns.values(), gains)
    ]
  return row
