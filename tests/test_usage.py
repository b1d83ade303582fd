"""--help: whatever can be set is listed, as it stands in configs/default.py."""

import subprocess
import sys

from compgen_jax import usage
from compgen_jax.config import from_config_dict, to_dict
from configs import default

KNOBS = {knob.path: knob for knob in usage.knobs(usage.DEFAULTS.read_text())}


def _paths(node, path=''):
  for name, value in node.items():
    if isinstance(value, dict):
      yield from _paths(value, f'{path}{name}.')
    else:
      yield f'{path}{name}'


def test_every_knob_is_listed_with_a_comment():
  """A knob that nobody can find, or of which nobody says what it does."""
  named = ('supports.', 'stages.', 'eval.splits.')
  wanted = [
    p for p in _paths(to_dict(from_config_dict(default.get_config()))) if not p.startswith(named)
  ]
  assert len(wanted) > 70 and set(wanted) <= set(KNOBS)
  for section, made in (
    ('supports', default.support()),
    ('stages', default.stage('sft', '', 1, ())),
  ):
    assert {f'{section}.NAME.{field}' for field in made} <= set(KNOBS)
  assert all(knob.comment for knob in KNOBS.values()), [k for k in KNOBS.values() if not k.comment]


def test_comments_are_those_of_their_knob():
  """A comment of the line above or below, or half of one."""
  source = (
    'def get_config():\n'
    '  config = ConfigDict()\n'
    '  config.a = ConfigDict()\n'
    '  config.a.x = 3  # in the line\n'
    '  config.a.y = (\n'
    "    'wide'  # inside\n"
    '  )\n'
    '  # above,\n'
    '  # and on\n'
    '  config.z = ()\n'
    '  config.none = 1\n'
  )
  assert usage.knobs(source) == [
    ('a.x', '3', 'in the line'), ('a.y', "'wide'", 'inside'), ('z', '()', 'above, and on'),
    ('none', '1', ''),
  ]  # fmt: skip


def test_help_lists_commands_flags_and_knobs():
  """A traceback, an exit status, or a help without what was asked for."""
  command = [sys.executable, '-m', 'compgen_jax.show', '--help']
  result = subprocess.run(command, capture_output=True, text=True)
  assert (result.returncode, result.stderr) == (0, '')
  text = ' '.join(result.stdout.split())
  assert 'python -m compgen_jax.main Runs an experiment.' in text
  assert 'python -m compgen_jax.theory' in text
  assert '--workdir Folder of checkpoints' in text and '--samples 1 Traces of the model' in text
  assert 'rl.group 4 sampled traces a problem' in text
  assert max(map(len, result.stdout.splitlines())) <= 100
