"""Problems as text: drawn, exported, read back, and put together by hand."""

import json

import numpy as np
import pytest

from compgen_jax import verifier
from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.experiment import problems
from compgen_jax.experiment.export import export
from compgen_jax.task import tables, text
from configs import default
from tests import helpers, reference
from tests.experiments import tiny

FIELDS = {
  'id', 'prompt', 'trace', 'answer', 'inputs', 'depth', 'modules', 'support',
  'alphabet', 'reserved',
}  # fmt: skip


def _config(**overrides):
  config = tiny(**overrides)
  config.supports.noise = default.support(depths=(1, 2), dry=True)
  config.supports.late = default.support(depths=(2,), prefix=1)
  return config


CONFIG = from_config_dict(_config())
TASK = CONFIG.task


def _lines(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """Support -> 300 lines, more than one call draws."""
  folder = tmp_path_factory.mktemp('export')
  names = [name for name, s in CONFIG.supports.items() if not (s.dry or s.prefix)]
  for name in names:
    export(_config(), name, 300, folder / name)
  return {name: _lines(folder / name) for name in names}


def test_lines_agree_with_the_reference(exported):
  """A field that does not describe its prompt, or a golden trace that is not the composition's."""
  want = helpers.reference_task(TASK)
  for name, lines in exported.items():
    assert [line['id'] for line in lines] == [f'{name}-{i}' for i in range(300)]
    for line in lines:
      assert set(line) == FIELDS and line['support'] == name
      assert line['depth'] == len(line['modules']) in CONFIG.supports[name].depths
      first_label = TASK.token_names().index(line['prompt'].split()[1]) - TASK.label_0
      steps = tuple(map(tuple, line['modules']))
      problem = reference.Problem(steps, tuple(line['inputs']), first_label)
      compact = ''.join
      assert compact(line['prompt'].split()) == compact(reference.prompt(problem, want))
      assert compact(line['trace'].split()) == compact(reference.trace(problem, want))
      assert line['trace'].endswith(f'= {line["answer"]} end')
      assert verifier.verify(line, line['trace'])['strict']


def test_lines_are_of_their_support(exported):
  """Problems of another pool, or beyond a finite support's table: held-out ones among them."""
  for name, lines in exported.items():
    built = tables.build(name, CONFIG.supports[name], TASK, CONFIG.pools)
    rows = [tuple(map(tuple, line['modules'])) for line in lines]
    assert built.contains_all(helpers.composition(rows, TASK, TASK.max_depth)).all()
    assert len(set(rows)) > (4 if name == 'sft' else 8)
    assert len({tuple(line['inputs']) for line in lines}) > 200


def test_lines_depend_on_seed_support_and_number_only(exported, tmp_path):
  """Lines that change with how many are asked for, or that do not change with the seed."""
  export(CONFIG, 'rl', 5, tmp_path / 'few')
  assert _lines(tmp_path / 'few') == exported['rl'][:5]
  export(_config(seed=1), 'rl', 5, tmp_path / 'other')
  assert _lines(tmp_path / 'other') != exported['rl'][:5]
  assert [p.depth for p in problems.draw(CONFIG, 'sft', 300, depth=2)] == [2] * 300
  for name in ('sft', 'rl'):
    assert problems.draw(CONFIG, name, 3, 2) == problems.draw(CONFIG, name, 300, 2)[:3]


@pytest.mark.parametrize('name, message', [
  ('noise', "support='noise': a dry support"), ('nope', "support='nope': no support"),
  ('late', "support='late': its problems begin with dry steps"),
])  # fmt: skip
def test_supports_without_solutions_are_refused(name, message, tmp_path):
  """Noise exported as golden traces, problems without the steps before them, or a traceback; the
  line says what is legal."""
  with pytest.raises(ConfigError) as error:
    export(CONFIG, name, 3, tmp_path / 'x')
  assert str(error.value).startswith(message)
  assert 'legal is sft | unseen | deeper | atoms | rl' in str(error.value)
  assert not (tmp_path / 'x').exists()


# By hand ------------------------------------------------------------------------------------------


def test_a_prompt_is_read_back():
  """Inputs, modules or labels mixed up on the way from a prompt to its golden trace."""
  for drawn in [*problems.draw(CONFIG, 'deeper', 100), *problems.draw(CONFIG, 'atoms', 20)]:
    read = problems.read(drawn.prompt, TASK)
    assert (read.prompt, read.trace, read.answer) == (drawn.prompt, drawn.trace, drawn.answer)
    assert (read.inputs, read.modules, read.depth) == (drawn.inputs, drawn.modules, drawn.depth)
    assert problems.read(drawn, TASK) == drawn


def test_three_ways_to_say_one_problem():
  """Two ways that mean different problems. (Worked example of `task/render.py`.)"""
  wanted = problems.read((('bca', 'dd'), [('earlier', 'reverse'), ('merge', 'successor')]), TASK)
  assert wanted.prompt == 'solve A bca B dd C earlier reverse D merge successor ='
  assert wanted.trace == 'C earlier reverse bca C acb D merge successor acbdd D bdcee = bdcee end'
  assert problems.read('bca dd: earlier reverse, merge successor', TASK) == wanted
  assert problems.read(' solve A b c a B dd\nC earlier reverse D merge successor =', TASK) == wanted
  assert repr(wanted).splitlines()[1:] == [
    '    C earlier reverse bca C acb',
    '    D merge successor acbdd D bdcee',
    '    = bdcee end',
  ]


def test_rewards_are_those_of_training():
  """A reward of another problem or label, or that takes a step that follows from a wrong one for a
  wrong step."""
  asked = problems.read('bca dd: earlier reverse, merge successor', TASK)
  asked = problems.by_hand(asked.inputs, asked.modules, TASK, first_label=3)
  one_off = asked.trace.replace('bca F acb', 'bca F acc').replace('acbdd', 'accdd')
  traces = [
    asked.trace,
    one_off.replace('bdcee', 'bddee'),
    one_off.replace('A bdcee', 'A bddee'),  # the answer is right, against what stands before it
    asked.trace.replace(' end', ''),
  ]
  assert len(set(traces)) == 4
  width = TASK.trace_width(3)
  tokens = np.full((4, width), TASK.pad, np.int32)
  for row, trace in zip(tokens, traces):
    parsed = text.parse(trace, TASK)
    row[: len(parsed)] = parsed
  assert problems.rewards(asked, tokens, 'answer', TASK) == [1.0, 0.0, 1.0, 0.0]
  assert problems.rewards(asked, tokens, 'strict', TASK) == [1.0, 0.0, 0.0, 0.0]
  got = problems.rewards(asked, tokens, 'steps', TASK)
  assert got == pytest.approx([1.0, 0.0, 0.2 + 0.8 / 2, 0.0])  # of two steps the second is right


@pytest.mark.parametrize('what, message', [
  ('solve A bca B dd C earlier revers =', "'revers' is no word of this task"),
  ('solve A bca B dd C earlier reverse', 'legal is a prompt such as'),
  ('solve A bca C dd D earlier reverse =', 'legal is a prompt such as'),
  ('solve A bca B dd D earlier reverse =', 'legal is a prompt such as'),
  ('solve A bca B dd C earlier reverse = = end', 'legal is a prompt such as'),
  ('solve A bca B dd C earlier reverse ab =', 'legal is a prompt such as'),
  ('a solve A bca B dd C earlier reverse =', 'legal is a prompt such as'),
  ('solve A bca B dd C reverse earlier =', "routing mechanism 'reverse': legal is previous | earl"),
  ('solve A bca B dd =', '0 steps; legal are 1 to task.max_depth=3'),
  ('', 'legal is a prompt such as'),
  ('bca dd: earlier reverse' + ', previous climb' * 3, 'legal are 1 to task.max_depth=3'),
  ('bca dd: earlier', "step 'earlier': legal is a routing mechanism and a skill"),
  ('bca dd: earlier fold', "skill 'fold': legal is reverse | successor"),
  ('bca: earlier reverse', '1 inputs; legal are two'),
  ('bca ddddd: earlier reverse', "input 'ddddd': legal are 1 to 4 letters"),
  ('bca xy: earlier reverse', "input 'xy': legal are letters of 'abcdefgh'"),
  ((('bca', ''), [('earlier', 'reverse')]), "input '': legal are 1 to 4 letters"),
  (3, '3: legal is a text, or (inputs, steps)'),
])  # fmt: skip
def test_what_is_no_problem_is_refused(what, message):
  """A golden trace for a problem that nobody posed, or a traceback."""
  with pytest.raises(ConfigError) as error:
    problems.read(what, TASK)
  assert message in str(error.value) and '\n' not in str(error.value)
