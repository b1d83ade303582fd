"""Figures: arms can be told apart, and text is drawn as it stands."""

import numpy as np
import pytest

from compgen_jax.report import looks, words
from compgen_jax.report.curves import PANELS, Line
from compgen_jax.report.digest import digest
from tests.reports import ARMS, make_config, make_run

pytest.importorskip('matplotlib')

from compgen_jax.report import axes, figures, lines  # noqa: E402  they need matplotlib

MANY = ('sft', *(f'arm_{i:02}' for i in range(13)))


@pytest.fixture(scope='module')
def many(tmp_path_factory):
  """The digest of a run with 14 arms."""
  folder = tmp_path_factory.mktemp('run')
  config = make_config(arms=MANY, contrasts=())
  return digest(folder, config, *make_run(folder, config, levels=dict.fromkeys(MANY, 0.5)))


def test_arms_can_be_told_apart():
  """Two arms of one look; two arms of one colour in a plot of lines, or of points."""
  first = [looks.look(i) for i in range(36)]
  assert len({a.colour for a in first}) >= 12
  assert len({(a.colour, a.marker) for a in first}) == 36
  assert len({(a.colour, a.line) for a in first}) == 36
  assert len({(a.colour, a.filled) for a in first[:24]}) == 24


def test_legend_names_every_arm_with_its_look(many):
  """An arm that the legend leaves out, or shows as another one."""
  (legend,) = lines.accuracy(many).legends
  assert [text.get_text() for text in legend.get_texts()] == list(MANY)
  for arm, handle in zip(MANY, legend.get_lines()):
    look = many.look(arm)
    assert (handle.get_color(), handle.get_marker()) == (look.colour, look.marker)
    assert handle.get_linestyle() == look.line
    assert (handle.get_markerfacecolor() == 'white') == (not look.filled)


def test_each_arm_has_a_line_over_depth(many):
  """Points of one arm at the depth of another place, shares drawn as percentages, or a rate that is
  not the accuracy's root."""
  seen, unseen, seen_rate, unseen_rate = lines.accuracy(many).axes
  for profile, ax, rate_ax in zip(many.profiles, (seen, unseen), (seen_rate, unseen_rate)):
    for arm, line, rate in zip(MANY, ax.get_lines(), rate_ax.get_lines(), strict=True):
      depths = [depth for _, depth in profile.places]
      assert np.abs(line.get_xdata() - depths).max() <= lines.DODGE + 1e-9
      values = [many.accuracy[arm, *place].value for place in profile.places]
      np.testing.assert_allclose(line.get_ydata(), 100 * np.array(values))
      want = [100 * value ** (1 / depth) for value, depth in zip(values, depths)]
      np.testing.assert_allclose(rate.get_ydata(), want)
      assert line.get_color() == rate.get_color() == many.look(arm).colour


def test_passes_are_drawn_where_nothing_was_trained(many):
  """pass@4 drawn at k = 1, or a split that was trained on."""
  axes_ = [ax for ax in lines.passes(many).axes if ax.get_lines()]
  assert [ax.get_title('left') for ax in axes_] == [
    f'{split}, depth {depth}' for split, depth in many.profiles[1].places
  ]
  (line, *_) = axes_[0].get_lines()
  estimates = [many.others[f'pass@{k}']['sft', 'unseen', 2].value for k in (1, 4)]
  assert line.get_xdata().tolist() == [1, 4]
  np.testing.assert_allclose(line.get_ydata(), 100 * np.array(estimates))


def test_axis_is_logarithmic_only_where_values_span_much():
  """A logarithmic axis for a loss that hardly moves, or for a reward."""
  loss, reward = (next(p for p in PANELS if p.metric == name) for name in ('loss', 'reward'))

  def scale(panel, low, high):
    ends = np.array([low, high])
    _, (ax,) = axes.grid(1, 1, 1.0)
    lines._scale(ax, panel, [Line(ends, ends, ends, ends)])
    return ax.get_yscale()

  assert scale(loss, 0.01, 2.0) == 'log'
  assert scale(loss, 0.5, 2.0) == scale(loss, 0.0, 2.0) == scale(reward, 0.01, 1.0) == 'linear'


def test_bands_of_many_arms_are_left_out(tmp_path, many):
  """Bands that cover each other and all lines, or a caption of bands that are not there."""
  few = digest(tmp_path, make_config(), *make_run(tmp_path, make_config()))
  for of, n_bands in ((few, len(few.arms)), (many, 0)):
    drawing = next(d for d in figures.draw_curves(of) if d.name == 'curves')
    assert ('band' in drawing.caption) == bool(n_bands)
    n = [len(ax.collections) for ax in drawing.figure.axes]
    assert max(n) == n_bands


def test_dollars_are_no_formula(tmp_path, monkeypatch):
  """A name with two dollar signs that is drawn as TeX, or that stops the report."""
  terms = ((1, 'rft', 'unseen', 3), (-1, 'sft', 'unseen', 3))
  config = make_config(contrasts=(('gain', terms),))
  monkeypatch.setattr(words, '_arm', lambda config, name: {'rft': 'a $\\frac$ b'}.get(name, 'SFT'))
  drawn = figures.contrasts(digest(tmp_path, config, *make_run(tmp_path, config)))
  drawn.canvas.draw()
  name = drawn.axes[0].get_yticklabels()[0]
  assert name.get_text().startswith('a \\$\\frac\\$ b − SFT')


def test_contrasts_of_many_terms_keep_apart(tmp_path):
  """Words of one contrast that are written over those of the next."""
  arms = ((1, 'compound'), (-1, 'sft'))
  one = tuple((weight / 4, arm, 'unseen', depth) for depth in (2, 3) for weight, arm in arms)
  short = ((1, 'compound', 'unseen', 3), (-1, 'sft', 'unseen', 3))
  named = tuple((f'many_{i}', 3 * one) for i in range(4)) + (('short', short),)
  config = make_config(contrasts=named)
  drawn = figures.contrasts(digest(tmp_path, config, *make_run(tmp_path, config)))
  drawn.canvas.draw()
  labels = drawn.axes[0].get_yticklabels()
  boxes = [label.get_window_extent() for label in labels]
  assert all(below.y1 <= above.y0 for above, below in zip(boxes, boxes[1:]))
  assert [label.get_text() for label in labels[:4]] == [f'many_{i}' for i in range(4)]
  assert labels[4].get_text().startswith('RL on')


def test_captions_count_problems_per_seed(tmp_path):
  """n of all seeds together, or a figure without a caption."""
  config = make_config(seeds=(0, 1))
  drawings = figures.draw(digest(tmp_path, config, *make_run(tmp_path, config)))
  assert [d.name for d in drawings] == [
    'accuracy', 'contrasts', 'passes', 'why', 'modules', 'curves', 'learning',
  ]  # fmt: skip
  assert 'n = 200 problems per seed' in drawings[0].caption
  assert all(d.caption.endswith('.') for d in drawings)
  assert len(ARMS) == len(drawings[0].figure.legends[0].get_texts())
