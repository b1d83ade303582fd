"""How arms look: the same in every table and figure. Needs no matplotlib."""

from typing import NamedTuple

# Okabe and Ito's palette (colour-blind safe), in an order that keeps neighbours apart also in grey;
# its yellow is too pale for points. Then five of Paul Tol's "muted", darker or browner than these.
COLOURS = (
  *('#666666', '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9'),
  *('#332288', '#999933', '#882255', '#117733', '#ddaa88'),
)
MARKERS = ('o', 's', 'D', '^', 'v', 'P', 'X')
LINES = ('-', '--', ':')


class Look(NamedTuple):
  """Colour, plot marker (filled or hollow) and line style of an arm, as matplotlib names them."""

  colour: str
  marker: str
  filled: bool
  line: str


def look(i: int) -> Look:
  """The look of arm i.

  Where there are more arms than colours, the next round of them has hollow markers and dashed
  lines. The marker changes from round to round, so colour and marker together are unique among the
  first 84 arms.
  """
  n_rounds = i // len(COLOURS)
  return Look(
    colour=COLOURS[i % len(COLOURS)],
    marker=MARKERS[(i + n_rounds) % len(MARKERS)],
    filled=n_rounds % 2 == 0,
    line=LINES[n_rounds % len(LINES)],
  )
