"""The report: true to its numbers, self-contained, and written whatever the numbers are."""

import dataclasses
import html
import os
import re
import sys

import pytest

from compgen_jax.config import from_config_dict
from compgen_jax.report import page, tables
from tests.experiments import tiny
from tests.reports import ARMS, KEPT, make_config, make_run

WRONG = KEPT['trace'].replace('acbdd D bdcee', 'acbdd D bdcef')
# Of `sft` and of the first arm that explores: problem 0 is fixed, 1 is never right.
TRACES = {
  'sft': [KEPT | {'problem': i, 'written': WRONG.replace('= bdcee', '= b')} for i in range(2)],
  'atomic': [
    KEPT | {'problem': 0, 'written': KEPT['trace']},
    KEPT | {'problem': 1, 'written': WRONG.replace('= bdcee', '= bdcef')},
  ],
}


def written(folder, config, rows, result):
  """Writes the report; returns it unescaped, without the places where names may break."""
  page.write(folder, config, rows, result, TRACES)
  return html.unescape((folder / 'report.html').read_text().replace('<wbr>', ''))


@pytest.fixture(scope='module')
def user_settings():
  """Matplotlib's settings before anything was drawn."""
  return dict(pytest.importorskip('matplotlib').rcParams)


@pytest.fixture(scope='module')
def run(tmp_path_factory, user_settings):
  """One run with one seed, reported: (folder, config, rows, result, text of the page)."""
  folder = tmp_path_factory.mktemp('run')
  config = make_config()
  rows, result = make_run(folder, config)
  return folder, config, rows, result, written(folder, config, rows, result)


@pytest.fixture
def no_matplotlib(monkeypatch):
  """As on a machine without the extra; also makes a report quick where figures don't matter."""
  monkeypatch.setitem(sys.modules, 'matplotlib', None)


# The file -----------------------------------------------------------------------------------------


def test_page_needs_nothing_but_itself(run):
  """A script, font or picture from elsewhere."""
  raw = (run[0] / 'report.html').read_text()
  raw = re.sub(r'src="data:image/png;base64,[A-Za-z0-9+/=]*"', '', raw)
  assert not re.search(r'\b(src|srcset|href|action|data|poster)\s*=', raw)
  assert not re.search(r'https?://|@import|url\(|<script|<link', raw)
  assert raw.isascii()


def test_all_figures_are_files_and_embedded(run):
  """A figure that is only a file, or only in the page."""
  folder, *_, text = run
  names = {path.stem for path in (folder / 'figures').iterdir()}
  assert names == {'accuracy', 'contrasts', 'curves', 'passes', 'why', 'modules', 'learning'}
  assert text.count('src="data:image/png;base64,') == len(names)
  for name in names:
    assert (folder / 'figures' / f'{name}.png').read_bytes().startswith(b'\x89PNG')
    assert f'<figure id="{name}"><div class="wide"><img alt="' in text


def test_files_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
  """Half a figure after a crash; here the crash comes before a file gets its name."""

  def crash(*_):
    raise KeyboardInterrupt

  figures = pytest.importorskip('compgen_jax.report.figures')
  monkeypatch.setattr(figures, 'draw', lambda d: [figures.Drawing('why', figures.why(d), '')])
  config = make_config()
  rows, result = make_run(tmp_path, config)
  monkeypatch.setattr(os, 'replace', crash)
  with pytest.raises(KeyboardInterrupt):
    page.write(tmp_path, config, rows, result, TRACES)
  assert not list(tmp_path.rglob('*.png')) and not list(tmp_path.rglob('*.html'))


def test_drawing_leaves_the_users_matplotlib_alone(run, user_settings):
  """An import of pyplot, which picks a backend for the whole program and piles up figures."""
  assert dict(sys.modules['matplotlib'].rcParams) == user_settings
  pyplot = sys.modules.get('matplotlib.pyplot')
  assert pyplot is None or pyplot.get_fignums() == []


def test_without_matplotlib_there_are_tables_and_one_hint(tmp_path, no_matplotlib):
  """A run that fails at its end for want of an extra."""
  config = make_config()
  text = written(tmp_path, config, *make_run(tmp_path, config))
  assert text.count('pip install matplotlib') == 1
  assert '<img' not in text and not (tmp_path / 'figures').exists()
  assert 'sft_continued' in text and 'ex.compound_minus_atomic' in text


def test_theory_of_an_older_version_is_named(tmp_path, no_matplotlib):
  """A finished run that fails at its report, because of a file that another version left there."""
  config = make_config()
  rows, result = make_run(tmp_path, config)
  assert 'compgen_jax.theory' not in written(tmp_path, config, rows, result)
  (tmp_path / 'theory.json').write_text('{"accuracy": []}')
  text = written(tmp_path, config, rows, result)
  assert 'theory.json is of an older version: python -m compgen_jax.theory again.' in text


# Its numbers --------------------------------------------------------------------------------------


def test_every_number_stands_with_its_interval_and_n(run):
  """A number alone, or with the interval of another."""
  *_, result, text = run
  for entry in result['table']:
    value, low, high = (f'{100 * entry[name]:.1f}' for name in ('accuracy', 'low', 'high'))
    assert f'{value}<small>[{low}, {high}]</small>' in text, entry
  for c in result['contrasts'][:2]:
    value, low, high = (f'{c[name]:+.1f}'.replace('-', '−') for name in ('value', 'low', 'high'))
    assert f'<small>{c["name"]}</small>' in text
    assert f'<td>{value}</td><td>[{low}, {high}]</td>' in text
  assert all(f'</span>{arm}<small>' in text for arm in ARMS)
  assert 'n = 200' in text and 'pass@4' in text and 'swap_ends' in text


def test_several_seeds_are_named(tmp_path, no_matplotlib):
  """A reader who takes intervals over seeds for intervals over problems."""
  config = make_config(seeds=(3, 4, 5))
  text = written(tmp_path, config, *make_run(tmp_path, config))
  assert '3 seeds (3, 4, 5): intervals are over seeds' in text and 'One seed' not in text


@pytest.mark.parametrize('seeds', [(), (0, 1)])
def test_all_zero_results_have_honest_intervals(tmp_path, monkeypatch, seeds):
  """A formula from the spread alone says 0.0 [0.0, 0.0] here, as if nothing could be surer."""
  if seeds:  # drawing zeros once is enough
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
  config = make_config(seeds)
  text = written(tmp_path, config, *make_run(tmp_path, config, levels=dict.fromkeys(ARMS, 0.0)))
  assert '0.0<small>[0.0, 1.9]</small>' in text and '[0.0, 0.0]</small>' not in text
  assert '2 have an interval without width, from which nothing follows.' in text
  assert 'not clearly more or less than RL on sft (atomic) (0.0 %): 0.0 points, an interval' in text


# Its order ----------------------------------------------------------------------------------------


def test_sections_come_in_the_order_of_questions(run):
  """A figure far from its section, or a section that is missing."""
  *_, text = run
  marks = [
    '<p class="lead">', '<h2>What was trained, and on what', 'Arms, in the order of the config',
    'Supports: sets of', '<h2>Accuracy by depth', '<figure id="accuracy">', '<h2>Contrasts',
    '<figure id="contrasts">', '<h2>During training', '<figure id="curves">', '<h2>Before and',
    '<figure id="passes">', '<h2>Why traces fail', '<figure id="why">', '<h2>Modules',
    '<figure id="modules">', '<h2>One problem', '<h2>What training reports',
    '<figure id="learning">', '<h2>How it was made', 'The resolved config',
  ]  # fmt: skip
  places = [text.index(mark) for mark in marks]
  assert places == sorted(places)


def test_supports_are_told_apart(run):
  """Supports without their size, an example, or what they share with training data."""
  *_, text = run
  assert '<td class="text">pool sft, 2 and 3 steps</td>' in text
  assert (
    '<td class="text">about 25 of 2 steps, 4,800 of 3 steps</td><td class="text">sft 50 %</td>'
    in text
  )
  assert '<td class="text">earlier reverse, merge fold</td>' in text
  assert '<td class="text">compositions never trained on</td>' in text


def test_what_limits_a_support_is_said():
  """A balanced table that reads like one drawn at random."""
  config = from_config_dict(tiny(supports__sft__balanced=True))
  held = dict(compositions={'2': 8}, is_exact=True, shown={}, example='-')
  text = tables.supports_table(config, {'sft': held, 'rl': held})
  assert text.count('all modules about equally often') == 1


def test_problems_before_and_after(run):
  """A fate that is not the problem's, the sides swapped, or a wrong step without its mark."""
  *_, text = run
  assert 'Fixed by RL on sft (atomic): 1 of 2, of which the first: problem 0 of unseen' in text
  assert 'None of 2 was broken by RL on sft (atomic).' in text
  assert 'Never right: 1 of 2, of which the first: problem 1 of unseen, 2 steps' in text
  assert text.count('before: first wrong step: 2 of 2 (result of successor)') == 2
  assert text.count('after: every step right') == 1
  wrong = '<mark>  x D merge successor acbdd D bdcef   <-- first wrong step</mark>'
  assert text.count(wrong) == 3


# Text from outside --------------------------------------------------------------------------------


def _renamed(value, names):
  """The value with every string, key or not, replaced where `names` has it."""
  if isinstance(value, dict):
    return {_renamed(k, names): _renamed(v, names) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_renamed(v, names) for v in value)
  return names.get(value, value) if isinstance(value, str) else value


def test_every_name_is_escaped(tmp_path, no_matplotlib):
  """A name that ends a tag, an attribute or the page, wherever the report shows it.

  The config refuses such names for stages and splits today; the report relies on nobody.
  """
  config = make_config()
  rows, result = make_run(tmp_path, config)
  kinds = ('arm', 'split', 'skill', 'routing', 'contrast', 'experiment', 'metric')
  names = dict(zip(kinds, ('sft', 'unseen', 'swap_ends', 'first', 'ex.gain', 'example', 'pass@4')))
  names = {name: f'<i title="{kind}">&\'' for kind, name in names.items()}
  stages = {
    names.get(name, name): dataclasses.replace(
      s, init_from=names.get(s.init_from, s.init_from), data=_renamed(s.data, names)
    )
    for name, s in config.stages.items()
  }
  config = dataclasses.replace(
    config,
    experiment=names['example'],
    stages=stages,
    contrasts=_renamed(config.contrasts, names),
    supports={names.get(name, name): support for name, support in config.supports.items()},
    eval=dataclasses.replace(config.eval, curve=(), splits=_renamed(config.eval.splits, names)),
  )
  supports = {names.get(name, name): held for name, held in result['supports'].items()}
  result = _renamed(result, names) | dict(
    supports=supports,
    command='<i title="command">',
    hardware='<i title="hardware">',
    commit='<i title="commit">',
  )
  page.write(tmp_path, config, _renamed(rows, names), result, _renamed(TRACES, names))
  raw = (tmp_path / 'report.html').read_text()
  assert '<i' not in raw.replace('<img', '')
  for kind in (*kinds, 'command', 'hardware', 'commit'):
    assert f'&lt;i title=&quot;{kind}&quot;&gt;' in raw, kind
  assert '&amp;&#x27;' in raw


def test_captions_of_figures_are_escaped(tmp_path, monkeypatch):
  """A split or an arm that ends the attribute which holds a caption."""
  figures = pytest.importorskip('compgen_jax.report.figures')
  config = make_config()
  rows, result = make_run(tmp_path, config)

  def draw(d):
    return [figures.Drawing('why', figures.why(d), 'a "><i> b')]

  monkeypatch.setattr(figures, 'draw', draw)
  page.write(tmp_path, config, rows, result, TRACES)
  raw = (tmp_path / 'report.html').read_text()
  assert '<i>' not in raw and raw.count('a &quot;&gt;&lt;i&gt; b') == 2
