"""Problems and traces as a person reads them."""

from compgen_jax import show
from compgen_jax.config import from_config_dict
from tests.experiments import tiny

TASK = from_config_dict(tiny()).task
NAMES = TASK.token_names()
GOLDEN = 'C merge reverse a b c C c b a D previous successor c b a D d c b = d c b end'


def _tokens(text):
  return [NAMES.index(word) for word in text.split()]


def test_letters_run_together_and_modules_are_words():
  """Output in token ids, or letters and labels run into one another."""
  assert (
    show.spell(_tokens(GOLDEN), TASK)
    == 'C merge reverse abc C cba D previous successor cba D dcb = dcb end'
  )


def test_a_right_trace_has_no_mark():
  """A mark on a step that is right."""
  text = show.compare(_tokens(GOLDEN), _tokens(GOLDEN), TASK)
  assert 'wrong' not in text and len(text.splitlines()) == 3


def test_the_first_wrong_step_is_marked_once():
  """The mark at a later step, on each wrong step, or at none."""
  said = GOLDEN.replace('successor c b a D d c b = d c b', 'successor c b a D d c c = d c c')
  lines = show.compare(_tokens(said), _tokens(GOLDEN), TASK).splitlines()
  assert [i for i, line in enumerate(lines) if 'first wrong step' in line] == [1]
  assert (
    lines[1].strip().startswith('x D previous')
    and 'golden: D previous successor cba D dcb' in lines[2]
  )


def test_garbage_and_missing_steps_are_shown():
  """A crash on what no golden trace has."""
  assert 'golden' in show.compare([], _tokens(GOLDEN), TASK)
  assert '<-1>' in show.compare([-1, 10**6], _tokens(GOLDEN), TASK)
  assert '... and 38 more' in show.compare(_tokens('= ' * 40), _tokens('= a end'), TASK)


def test_problems_of_every_split(capsys):
  """A split or depth left out."""
  text = show.show(from_config_dict(tiny()), None, None, None, 1, 0.0)
  for title in (
    'atoms, depth 1',
    'seen, depth 1',
    'seen, depth 2',
    'unseen, depth 2',
    'deeper, depth 3',
  ):
    assert f'--- {title}' in text
