"""Lists as a notebook shows them."""

from compgen_jax.experiment.rows import Rows, Texts


def _row(metric, value, step, **more):
  row = dict(
    arm='sft', seed=0, split='unseen', depth=2, step=step, metric=metric, value=value, n=16
  )
  return row | dict(low=value / 2, high=value) | more


def test_rows_are_a_table_of_the_end():
  """Accuracy in the middle of training shown as the result, or modules among whole traces."""
  rows = Rows(
    [
      _row('accuracy', 0.25, 5),
      _row('accuracy', 0.5, 12),
      _row('pass@4', 0.75, 12),
      _row('skill_accuracy', 0.1, 12, module='reverse'),
      _row('accuracy', 0.125, 12, split='deeper', depth=13),
    ]
  )
  assert repr(rows).splitlines() == [
    'arm  seed  split   depth  accuracy, %  95 % interval   n  pass@4',
    'sft     0  unseen      2         50.0   [25.0, 50.0]  16    75.0',
    'sft     0  deeper     13         12.5    [6.2, 12.5]  16',
  ]
  assert repr(Rows()) == '0 rows'
  assert rows == list(rows)  # still what a table takes


def test_texts_stand_below_each_other():
  """Objects of several lines in one line of commas."""
  assert repr(Texts([1, 2])) == '1\n\n2'
