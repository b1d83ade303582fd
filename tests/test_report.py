"""The report: true to its numbers, self-contained, and written whatever the numbers are."""

import dataclasses
import html
import re
import sys

import numpy as np
import pytest

from compgen_jax import config as config_lib
from compgen_jax.experiment import digest, files, report, summary
from compgen_jax.experiment.evaluate import Evaluation, wilson
from configs import default

ARMS = {'sft': 0.30, 'atomic': 0.36, 'compound': 0.62, 'sft_continued': 0.33, 'rft': 0.41}
MODULES = {
  'skill_accuracy': ('reverse', 'rotate', 'swap_ends'),
  'routing_accuracy': ('previous', 'first'),
}


def make_config(seeds=(), contrasts=None):
  config = default.get_config()
  config.experiment, config.seeds = 'example', seeds
  for arm in ARMS:
    if arm != 'sft':
      kind = {'rft': 'rft', 'sft_continued': 'sft'}.get(arm, 'rl')
      config.stages[arm] = default.stage(kind, 'sft', 300, ('sft',))
  gain = (
    (1, 'compound', 'deeper', 0),
    (-1, 'sft', 'deeper', 0),
    (-0.5, 'rft', 'seen', 2),
    (0.5, 'sft', 'seen', 2),
  )
  config.contrasts = contrasts or (
    ('ex.compound_minus_atomic', ((1, 'compound', 'unseen', 3), (-1, 'atomic', 'unseen', 3))),
    ('ex.gain', gain),
    ('ex.level', ((1, 'sft', 'unseen', 3),)),
  )
  return config_lib.from_config_dict(config)


def make_run(folder, config, levels=ARMS, n=200):
  """(rows, result) as a run makes them, with accuracies drawn about `levels`; also writes the learning curves."""
  rng = np.random.default_rng(0)
  evaluations, rows = {}, []
  for arm in config_lib.stage_order(config):
    stage = config.stages[arm]
    steps = {
      'loss': (2.0, 0.1),
      'reward': (0.2, 0.6),
      'structure': (0.6, 0.9),
      'entropy': (0.5, 0.2),
    }
    wave = lambda a, b, t: [a + (b - a) * t + 0.02 * float(rng.normal()) for _ in config.all_seeds]
    measured = lambda s: {k: wave(a, b, s / stage.steps) for k, (a, b) in steps.items()}
    history = [{'step': s} | measured(s) for s in range(20, stage.steps + 1, 20)]
    files.write_jsonl(folder / 'stages' / arm / 'metrics.jsonl', history)
    evaluations[arm] = Evaluation([], {})
    for split in config.ordered_splits:
      for depth in config.supports[config.eval.splits[split]].depths:
        p = levels[arm] if depth == 1 else levels[arm] ** (depth / 2)
        for seed in config.all_seeds:
          label = dict(
            experiment=config.experiment,
            arm=arm,
            stage=stage.kind,
            seed=seed,
            split=split,
            depth=depth,
          )
          more = lambda k, n: dict(zip(('low', 'high'), wilson(k, n))) | dict(value=k / n, n=n)
          for at in (0.4, 0.8) if split in config.eval.curve else ():
            rows.append(
              label | dict(step=int(at * stage.steps), metric='accuracy') | more(int(at * p * n), n)
            )
          items = rng.random(n) < p
          evaluations[arm].items.setdefault(f'{split}/{depth}', []).append([bool(x) for x in items])
          k = int(items.sum())
          final = dict(
            accuracy=k, strict_accuracy=int(0.9 * k), structure_accuracy=(k + n) // 2 if p else 0
          )
          label |= dict(step=stage.steps)
          evaluations[arm].rows.extend(
            label | dict(metric=metric) | more(value, n) for metric, value in final.items()
          )
          evaluations[arm].rows.extend(
            label | dict(metric=f'pass@{q}', value=1 - (1 - p) ** q, n=12) for q in (1, 4)
          )
          for metric, names in MODULES.items() if p else ():
            for i, name in enumerate(names):
              k = int(40 * p ** (i % 7 / 5))
              evaluations[arm].rows.append(label | dict(metric=metric, module=name) | more(k, 40))
    rows += evaluations[arm].rows
  return rows, summary.summarise(config, evaluations, 75.0)


def written(folder, config, rows, result):
  report.write(folder, config, rows, result)
  return html.unescape((folder / 'report.html').read_text())


@pytest.fixture(scope='module')
def user_settings():
  """Matplotlib's settings before anything was drawn."""
  return dict(pytest.importorskip('matplotlib').rcParams)


@pytest.fixture(scope='module')
def run(tmp_path_factory, user_settings):
  """One run with one seed, reported: (folder, config, rows, result, page)."""
  folder = tmp_path_factory.mktemp('run')
  config = make_config()
  rows, result = make_run(folder, config)
  return folder, config, rows, result, written(folder, config, rows, result)


@pytest.fixture
def no_matplotlib(monkeypatch):
  """As on a machine without the extra; also makes a report quick where the figures don't matter."""
  monkeypatch.setitem(sys.modules, 'matplotlib', None)


# The file -----------------------------------------------------------------------------------------------------


def test_page_needs_nothing_but_itself(run):
  raw = re.sub(
    r'src="data:image/png;base64,[A-Za-z0-9+/=]*"', '', (run[0] / 'report.html').read_text()
  )
  assert not re.search(r'\b(src|srcset|href|action|data|poster)\s*=', raw)
  assert not re.search(r'https?://|@import|url\(|<script|<link', raw)
  assert raw.isascii()


def test_all_figures_are_files_and_embedded(run):
  folder, page = run[0], run[-1]
  names = {path.stem for path in (folder / 'figures').iterdir()}
  assert names == {'accuracy', 'contrasts', 'learning', 'modules', 'why'}
  assert page.count('src="data:image/png;base64,') == len(names)
  for name in names:
    assert (folder / 'figures' / f'{name}.png').read_bytes().startswith(b'\x89PNG')
    assert f'<figure id="{name}"><img alt="' in page


def test_drawing_leaves_the_users_matplotlib_alone(run, user_settings):
  """A library that imports pyplot picks a backend for the whole program, and its figures pile up."""
  assert dict(sys.modules['matplotlib'].rcParams) == user_settings
  assert (
    'matplotlib.pyplot' not in sys.modules or sys.modules['matplotlib.pyplot'].get_fignums() == []
  )


def test_without_matplotlib_there_are_tables_and_one_hint(tmp_path, no_matplotlib):
  config = make_config()
  rows, result = make_run(tmp_path, config)
  page = written(tmp_path, config, rows, result)
  assert page.count('pip install matplotlib') == 1
  assert '<img' not in page and not (tmp_path / 'figures').exists()
  assert 'sft_continued' in page and 'ex.compound_minus_atomic' in page


# Its numbers --------------------------------------------------------------------------------------------------


def test_every_number_stands_with_its_interval_and_n(run):
  _, _, _, result, page = run
  for entry in result['table']:
    value = f'{100 * entry["accuracy"]:.1f}<small>[{100 * entry["low"]:.1f}, {100 * entry["high"]:.1f}]</small>'
    assert value in page, entry
  for c in result['contrasts'][:2]:
    row = f'<td>{c["value"]:+.1f}</td><td>[{c["low"]:+.1f}, {c["high"]:+.1f}]</td>'.replace(
      '-', '−'
    )
    assert f'{c["name"]}<small>' in page and row in page
  assert all(f'</span>{arm}<small>' in page for arm in ARMS)
  assert 'n = 200' in page and 'pass@4' in page and 'swap_ends' in page


def test_contrast_is_spelled_out_and_a_level_is_not_judged(run):
  d = digest.digest(*run[:4])
  assert [c.formula for c in d.contrasts] == [
    'compound − atomic, on unseen 3',
    'compound (deeper, mean over depths) − sft (deeper, mean over depths) − 0.5 × rft (seen 2) + 0.5 × sft (seen 2)',
    'sft, on unseen 3',
  ]
  assert [c.is_difference for c in d.contrasts] == [True, True, False]
  assert 'ex.level' not in report.headline(d.contrasts)
  assert report.headline(d.contrasts[2:]) == report.headline([])


def test_curve_rows_do_not_leak_into_the_final_tables(run):
  """Rows of results.jsonl from the middle of training have the same fields as those of its end."""
  folder, config, rows, result, _ = run
  middle = [row for row in rows if row['step'] != config.stages[row['arm']].steps]
  middle = [row | dict(metric='strict_accuracy', value=0.0) for row in middle]
  assert middle
  with_them, without = (digest.digest(folder, config, r, result) for r in (rows + middle, rows))
  assert with_them.others == without.others


def test_a_stages_accuracy_curve_starts_where_its_parent_ended(run):
  lines = digest.digest(*run[:4]).accuracy_curves['unseen', 3]
  assert lines['sft'].x[0] > 0 and lines['compound'].x[0] == 0
  assert lines['compound'].mean[0] == lines['sft'].mean[-1] and lines['compound'].x[-1] == 100


def test_modules_pool_unseen_splits_by_their_n():
  row = dict(metric='skill_accuracy', module='reverse', seed=0)
  e = digest.estimate([row | dict(value=1.0, n=30), row | dict(value=0.5, n=10)], 'steps')
  assert (e.value, e.n, e.over) == (0.875, 40, 'steps')  # a mean of means would be 0.75
  assert (e.low, e.high) == wilson(35, 40)


def test_outcomes_add_up_even_where_answers_outnumber_structures():
  """An answer can be right in a trace of wrong structure, so structure - accuracy can be negative."""
  for answer, strict, structure in (
    (0.5, 0.4, 0.7),
    (0.5, 0.1, 0.2),
    (0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0),
  ):
    shares = digest._outcomes(
      dict(accuracy=answer, strict_accuracy=strict, structure_accuracy=structure)
    )
    assert min(shares) >= 0 and abs(sum(shares) - 1) < 1e-12
    assert abs(shares.strict + shares.answer_only - answer) < 1e-12


def test_routing_is_left_out_where_traces_do_not_show_it(run):
  folder, config, rows, result, _ = run
  compact = dataclasses.replace(config, task=dataclasses.replace(config.task, trace='compact'))
  assert list(digest.digest(folder, compact, rows, result).modules) == ['skill_accuracy']


def test_several_seeds_give_intervals_over_seeds(tmp_path, no_matplotlib):
  config = make_config(seeds=(3, 4, 5))
  rows, result = make_run(tmp_path, config)
  page = written(tmp_path, config, rows, result)
  assert '3 seeds (3, 4, 5): intervals are over seeds' in page and 'One seed' not in page
  strict = digest.digest(tmp_path, config, rows, result).others['strict_accuracy'][
    'sft', 'unseen', 3
  ]
  wanted = dict(arm='sft', split='unseen', depth=3, metric='strict_accuracy')
  values = [row['value'] for row in rows if wanted.items() <= row.items()]
  assert (strict.n, strict.over) == (200, 'seeds') and len(values) == 3
  assert strict.high - strict.value == pytest.approx(
    4.302653 * np.std(values, ddof=1) / np.sqrt(3), rel=1e-5
  )


@pytest.mark.parametrize('seeds', [(), (0, 1)])
def test_all_zero_results_have_honest_intervals(tmp_path, monkeypatch, seeds):
  """A formula from the spread alone says 0.0 [0.0, 0.0] here, as if nothing could be surer."""
  if seeds:  # drawing zeros once is enough
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
  config = make_config(seeds)
  rows, result = make_run(tmp_path, config, levels=dict.fromkeys(ARMS, 0.0))
  page = written(tmp_path, config, rows, result)
  assert '0.0<small>[0.0, 1.9]</small>' in page and '[0.0, 0.0]</small>' not in page
  assert (
    '2 have an interval without width, from which nothing follows (ex.compound_minus_atomic 0.0'
    in page
  )


# Its words ----------------------------------------------------------------------------------------------------


def make_contrast(name, value, low, high):
  return digest.Contrast(name, value, low, high, 'problems', 100, '', True)


def test_headline_sorts_contrasts_by_side():
  up, down, around = (
    make_contrast('up', 5, 1, 9),
    make_contrast('down', -5, -9, -1),
    make_contrast('around', 2, -1, 5),
  )
  assert report.headline([up, down, around]) == (
    'Of 3 differences in accuracy, 1 has a 95 % interval above zero (up +5.0), '
    '1 has a 95 % interval below zero (down −5.0), and 1 has a 95 % interval that includes zero (around +2.0).'
  )


def test_headline_is_the_same_sentence_for_bad_news():
  """Negative results read as soberly as positive ones: only name, sign and side change."""
  good, bad = (
    report.headline([make_contrast('c', 5, 1, 9)]),
    report.headline([make_contrast('c', -5, -9, -1)]),
  )
  assert '1 has a 95 % interval above zero (c +5.0), none has a 95 % interval below zero' in good
  assert 'none has a 95 % interval above zero, 1 has a 95 % interval below zero (c −5.0)' in bad
  for text in (good, bad):
    assert not re.search(r'improv|success|better|great|only|fail|unfortunately|significant|!', text)


def test_an_interval_without_width_claims_nothing():
  """Two seeds that happen to agree would otherwise look like certainty."""
  text = report.headline([make_contrast('lucky', 5, 5 - 1e-15, 5)])
  assert 'none has a 95 % interval above zero' in text
  assert '1 has an interval without width, from which nothing follows (lucky' in text


def test_text_from_outside_is_escaped(tmp_path, no_matplotlib):
  config = make_config(
    contrasts=(('<b>&"c"', ((1, 'rft', 'unseen', 3), (-1, 'sft', 'unseen', 3))),)
  )
  config = dataclasses.replace(config, experiment='</title><script>alert(1)</script>')
  rows, result = make_run(tmp_path, config)
  report.write(
    tmp_path, config, rows, result | dict(command='run <img src=x>', hardware='a & b', commit=None)
  )
  raw = (tmp_path / 'report.html').read_text()
  assert '<script' not in raw and '<img' not in raw and '<b>' not in raw
  for text in (
    '&lt;script&gt;',
    'a &amp; b',
    'run &lt;img src=x&gt;',
    '&lt;b&gt;&amp;&quot;c&quot;',
  ):
    assert text in raw
