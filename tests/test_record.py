"""A workdir can grow; what has begun in it is what its config says, or the run is refused."""

import copy
import json
import shutil

import pytest

import compgen_jax
from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.experiment import files, run
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.record import Record
from configs import default
from tests.experiments import history, tiny, trained_files


def config_of(**changes):
  return from_config_dict(tiny(**changes))


def copied(workdir, tmp_path):
  shutil.copytree(workdir, tmp_path / 'w')
  return tmp_path / 'w'


# Growth -------------------------------------------------------------------------------------------


def _add_stage(config):
  config.stages.more = default.stage('sft', 'sft', 2, ('sft',), lr=1e-3)


def _add_split(config):
  config.supports.probe = default.support(pool='validation', depths=(2,))
  config.eval.splits.probe = 'probe'


def _add_contrast(config):
  terms = (1, 'rft', 'deeper', 0), (-1, 'sft', 'deeper', 3)
  config.contrasts = (*config.contrasts, ('tiny.deeper.rft_minus_sft', terms))


def _add_problems(config):
  config.eval.problems = 24


def _add_seed(config):
  config.seeds = (0, 1)


GROWTH = {
  'stage': _add_stage,
  'split': _add_split,
  'contrast': _add_contrast,
  'problems': _add_problems,
  'seed': _add_seed,
}


@pytest.fixture(scope='module')
def grown(finished, tmp_path_factory):
  """The finished run, grown by one thing after the other: (config, workdir, by what was added).

  By what was added: files of training before and after, rows, and names of contrasts.
  """
  workdir = copied(finished[0], tmp_path_factory.mktemp('grown'))
  config, by_name = tiny(), {}
  for name, add in GROWTH.items():
    add(config)
    before = trained_files(workdir)
    rows = compgen_jax.run(config, workdir)
    summary = json.loads((workdir / 'summary.json').read_text())
    contrasts = [contrast['name'] for contrast in summary['contrasts']]
    by_name[name] = before, trained_files(workdir), rows, contrasts
  return config, workdir, by_name


@pytest.mark.parametrize('name', GROWTH)
def test_what_is_finished_stays(grown, name):
  """Checkpoints, origins or metrics of a finished stage that are written again."""
  before, after, _, _ = grown[2][name]
  assert len(before) > 12 and before.items() <= after.items()
  assert (len(after) > len(before)) == (name in ('stage', 'seed'))


def _ends(rows, **where):
  """Accuracies at the ends of stages."""
  ends = {'sft': 12, 'rl': 4, 'rft': 2, 'more': 2}
  rows = [row for row in rows if row['metric'] == 'accuracy' and row['step'] == ends[row['arm']]]
  return [row for row in rows if all(row[k] == v for k, v in where.items())]


def test_what_is_new_is_run(grown):
  """A stage, split, contrast or seed that is accepted and left out; accuracies over as many
  problems as before."""
  _, _, by_name = grown
  arms = {'sft', 'rl', 'rft'}
  assert {row['arm'] for row in by_name['stage'][2]} == arms | {'more'}
  assert {row['arm'] for row in _ends(by_name['split'][2], split='probe')} == arms | {'more'}
  assert 'tiny.deeper.rft_minus_sft' not in by_name['split'][3]
  assert 'tiny.deeper.rft_minus_sft' in by_name['contrast'][3]
  assert {row['n'] for row in _ends(by_name['contrast'][2])} == {16}
  assert {row['n'] for row in _ends(by_name['problems'][2])} == {24}
  assert {row['seed'] for row in by_name['problems'][2]} == {0}
  assert {row['arm'] for row in _ends(by_name['seed'][2], seed=1)} == arms | {'more'}


def test_grown_results_are_those_of_one_run(grown, tmp_path):
  """A stage that depends on when it was added, or measurements that are kept though what they were
  measured on has changed. (Points of learning curves stay as they were measured, on 16
  problems.)"""
  config, _, by_name = grown
  got = by_name['seed'][2]
  want = compgen_jax.run(config, tmp_path / 'w')

  def place(row):
    return [row[k] for k in ('arm', 'seed', 'step', 'split', 'depth')]

  assert list(map(place, _ends(got))) == list(map(place, _ends(want)))
  whole = [row for row in got if row['seed'] == 1 or row['step'] in (12, 4, 2)]
  assert whole == [row for row in want if row['seed'] == 1 or row['step'] in (12, 4, 2)]
  assert len(got) == len(want)


# Refusals -----------------------------------------------------------------------------------------

REFUSED = (
  # What is changed, the stage and field that are named, there and here.
  ({'sft__lr': 0.5}, 'sft', 'stages.sft.settings.lr=0.004, not 0.5'),
  ({'stages__rl__settings__lr': 0.5}, 'rl', 'stages.rl.settings.lr=0.0004, not 0.5'),
  ({'rft__anchor': ()}, 'rft', "stages.rft.settings.anchor=['sft'], not []"),
  ({'supports__sft__compositions': 12}, 'sft', 'supports.sft.compositions=8, not 12'),
  ({'stages__rl__data': ('atoms', 'rl')}, 'rl', "stages.rl.data=['rl', 'atoms']"),
  ({'stages__rl__init_from': 'rft'}, 'rl', "stages.rl.init_from='sft', not 'rft'"),
  ({'stages__rl__steps': 9}, 'rl', "steps=4, not 9; legal is another folder; for more updates add"),
  ({'stages__sft__steps': 13}, 'sft', "a stage with init_from='sft'"),
  ({'model__d_ff': 64}, 'sft', 'model.d_ff=32, not 64'),
  ({'optimizer__b1': 0.8}, 'sft', 'optimizer.b1=0.9, not 0.8'),
  ({'task__max_input': 3}, 'sft', 'task.max_input=4, not 3'),
  ({'pools__salt': 2}, 'sft', 'pools.salt=1, not 2'),
)  # fmt: skip


@pytest.mark.parametrize('changes, stage, what', REFUSED, ids=[' '.join(c) for c, _, _ in REFUSED])
def test_what_a_stage_depends_on_is_not_changed(finished, changes, stage, what):
  """A workdir whose results mix two trainings; a refusal that does not say why."""
  workdir, _ = finished
  before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in workdir.iterdir() if f.is_file()}
  with pytest.raises(ConfigError) as e:
    compgen_jax.run(tiny(**changes), workdir)
  message = str(e.value)
  assert f'stage {stage} was trained with' in message and what in message
  assert '\n' not in message and 'legal is another folder' in message
  after = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in workdir.iterdir() if f.is_file()}
  assert after == before and workdir / 'config.json' in before


def test_ancestors_are_part_of_a_stage(finished, tmp_path):
  """A stage that is kept though what it started from would now be another."""
  workdir = copied(finished[0], tmp_path)
  shutil.rmtree(workdir / 'stages/sft')
  with pytest.raises(
    ConfigError, match=r'stage r\w+ was trained with stages.sft.settings.lr=0.004'
  ):
    run.require_origins(config_of(sft__lr=0.5), workdir)
  config = tiny()
  config.stages.sft.data, config.stages.sft.shares = ('sft', 'atoms'), (0.5, 0.5)
  with pytest.raises(ConfigError, match=r"stages.sft.data=\['sft'\], not \['sft', 'atoms'\]"):
    run.require_origins(from_config_dict(config), workdir)


def test_a_stage_that_has_begun_is_held_to_its_config(tmp_path):
  """A config that changes between the first update and the first checkpoint."""
  Record(tmp_path, config_of(), 'sft', 0).begin()
  Record(tmp_path, config_of(), 'sft', 0).require_origin()
  Record(tmp_path, config_of(sft__lr=0.5), 'sft', 1).require_origin()  # another replicate
  with pytest.raises(ConfigError, match='stage sft was trained with'):
    Record(tmp_path, config_of(sft__lr=0.5), 'sft', 0).require_origin()


def test_what_no_stage_depends_on_may_change(finished, tmp_path):
  """A refusal of a change that changes nothing: of the section of a kind that no stage has, of a
  stage that has not begun, of evaluation, of where a setting is given, of the division of work."""
  workdir = copied(finished[0], tmp_path)
  shutil.rmtree(workdir / 'stages/rft')
  run.require_origins(config_of(rft__lr=0.5), workdir)
  without = tiny(rft__lr=0.25)
  del without.stages.rft
  run.require_origins(from_config_dict(without), workdir)
  run.require_origins(config_of(sft__lr=0.5, stages__sft__settings__lr=4e-3), workdir)
  run.require_origins(config_of(eval__every=3, eval__problems=32, run__steps_per_call=5), workdir)
  run.require_origins(config_of(experiment='other', run__microbatch_rows=2), workdir)
  run.require_origins(config_of(supports__deeper__without_skills=('climb',)), workdir)


# The file -----------------------------------------------------------------------------------------


def _edit(record, edit):
  """Changes a record's origin.json."""
  record.begin()
  path = record.folder / 'origin.json'
  origin = files.read_sealed(path)
  edit(origin)
  files.write_sealed(path, origin)


@pytest.mark.parametrize('field', ['skills', 'routings'])
def test_new_modules_are_named(tmp_path, field):
  """A run that asked for all modules of an older registry, and would now see more tokens."""
  config = config_of(**{f'task__{field}': ()})  # all there are
  record = Record(tmp_path, config, 'sft', 0)
  newest = getattr(config.task, field)[-1]
  _edit(record, lambda origin: origin['task'][field].remove(newest))
  with pytest.raises(ConfigError) as e:
    record.require_origin()
  message = str(e.value)
  assert f'new in task.{field} are {newest}, gone are none' in message and '\n' not in message
  older = tuple(name for name in getattr(config.task, field) if name != newest)
  assert message.endswith(f'--config.task.{field}="{older}"')
  Record(tmp_path, config_of(**{f'task__{field}': older}), 'sft', 0).require_origin()


def test_fields_newer_than_the_file_have_their_defaults(tmp_path):
  """A workdir that can't be continued because the code has learned a new setting."""
  record = Record(tmp_path, config_of(), 'rl', 0)

  def forget(origin):
    for name in ('reward', 'anchor', 'anchor_batch', 'anchor_weight'):
      del origin['stages']['rl']['settings'][name]
    del origin['optimizer']['muon_scale']

  _edit(record, forget)
  record.require_origin()
  with pytest.raises(ConfigError, match="stages.rl.settings.reward='answer', not 'strict'"):
    Record(tmp_path, config_of(rl__reward='strict'), 'rl', 0).require_origin()


@pytest.mark.parametrize('text', ['', '{"seed": 0', '{}', '[]', '{"seed": 0, "colour": 1}'])
def test_an_unreadable_origin_is_one_line(tmp_path, text):
  """A traceback, or training over what can't be checked."""
  record = Record(tmp_path, config_of(), 'sft', 0)
  record.folder.mkdir(parents=True)
  (record.folder / 'origin.json').write_text(text)
  with pytest.raises(ConfigError, match='origin.json is not readable') as e:
    record.require_origin()
  assert '\n' not in str(e.value)


# Damage -------------------------------------------------------------------------------------------


def _change_digit(path):
  text = path.read_text()
  at = max(i for i, character in enumerate(text) if character in '123456789')
  path.write_text(text[:at] + str(int(text[at]) % 9 + 1) + text[at + 1 :])


@pytest.mark.parametrize('lost', ['removed', 'changed'])
def test_checkpoints_know_their_origin(finished, tmp_path, lost):
  """Another learning rate accepted because the file that would tell is gone."""
  workdir = copied(finished[0], tmp_path)
  (workdir / 'config.json').unlink()
  for path in (workdir / 'stages').rglob('origin.json'):
    path.unlink() if lost == 'removed' else _change_digit(path)
  run.require_origins(config_of(), workdir)
  with pytest.raises(ConfigError, match='stage sft was trained with stages.sft.settings.lr=0.004'):
    run.require_origins(config_of(sft__lr=0.5), workdir)


def test_an_evaluation_knows_its_origin(finished, tmp_path):
  """What another training measured, taken for this one's."""
  workdir = copied(finished[0], tmp_path)
  record = Record(workdir, config_of(), 'sft', 0)
  settings = files.read_sealed(record.folder / 'evaluation.json')['settings']
  assert record.read_evaluation(settings).rows
  assert record.read_evaluation(settings | {'problems': 3}) is None
  assert Record(workdir, config_of(sft__lr=0.5), 'sft', 0).read_evaluation(settings) is None


def test_an_evaluation_from_before_a_field_existed_counts(finished, tmp_path):
  """Finished stages that are all measured again, or refused, once a config section has a new
  field."""
  workdir = copied(finished[0], tmp_path)
  record = Record(workdir, config_of(), 'sft', 0)
  evaluation = files.read_sealed(record.folder / 'evaluation.json')
  settings = copy.deepcopy(evaluation['settings'])
  origin = files.read_sealed(record.folder / 'origin.json')
  for section in (*origin['supports'].values(), *evaluation['settings']['splits'].values()):
    assert section.pop('covers') == 0
  files.write_sealed(record.folder / 'origin.json', origin)
  files.write_sealed(
    record.folder / 'evaluation.json', evaluation | {'origin': files.checksum(origin)}
  )
  assert record.read_evaluation(settings).rows
  assert Record(workdir, config_of(sft__lr=0.5), 'sft', 0).read_evaluation(settings) is None
  assert (
    Record(workdir, config_of(supports__sft__covers=1), 'sft', 0).read_evaluation(settings) is None
  )
  files.write_sealed(record.folder / 'evaluation.json', evaluation | {'origin': 'another'})
  assert record.read_evaluation(settings) is None
  # Measured by this code, in a stage that began before: it has to count for later code as well.
  measured = Evaluation(evaluation['rows'], evaluation['items'], evaluation['traces'])
  record.write_evaluation(measured, settings)
  written = files.read_sealed(record.folder / 'evaluation.json')
  assert written['origin'] == files.checksum(origin)
  assert record.read_evaluation(settings) == measured


def test_a_damaged_evaluation_is_made_again(finished, tmp_path, capsys):
  """A changed answer that is believed, or a traceback on every later run."""
  workdir, rows = copied(finished[0], tmp_path), finished[1]
  path = workdir / 'stages/sft/seed-0/evaluation.json'
  before, whole = trained_files(workdir), path.read_text()
  path.write_text(whole.replace('false', 'true', 1))
  capsys.readouterr()
  assert compgen_jax.run(tiny(), workdir) == rows
  (warning,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith('warning')]
  assert 'evaluation.json: its checksum does not match' in warning
  assert path.read_text() == whole and trained_files(workdir) == before


def test_a_report_does_not_need_checkpoints(finished, tmp_path):
  """A damaged checkpoint that blocks a report of what was measured before."""
  workdir, rows = copied(finished[0], tmp_path), finished[1]
  for path in (workdir / 'stages').rglob('d/*'):
    path.write_bytes(b'')
  shutil.rmtree(workdir / 'stages/rft/seed-0/checkpoints')
  assert compgen_jax.run(tiny(), workdir) == rows


def test_a_damaged_last_checkpoint_is_made_again(finished, tmp_path, capsys):
  """A stage that can't be evaluated, or is evaluated from half-trained parameters."""
  workdir, rows = copied(finished[0], tmp_path), finished[1]
  folder = workdir / 'stages/sft/seed-0'
  (folder / 'evaluation.json').unlink()
  for path in (folder / 'checkpoints/12').rglob('d/*'):
    path.write_bytes(b'')
  assert compgen_jax.run(tiny(), workdir) == rows
  err = capsys.readouterr().err
  assert 'checkpoint 12 is unreadable' in err and 'sft: continues at update 10 of 12' in err
  assert history(workdir, 'sft') == history(finished[0], 'sft')


def test_lost_history_is_said(finished, tmp_path, capsys):
  """Learning curves that lose points in silence, or a bad line that takes the others along."""
  workdir, rows = copied(finished[0], tmp_path), finished[1]
  path = workdir / 'stages/sft/seed-0/curve.jsonl'
  path.write_text(path.read_text().replace('"step": 5', '"step": 4', 1))
  (workdir / 'stages/sft/seed-0/metrics.jsonl').write_text('')
  got = compgen_jax.run(tiny(), workdir)
  assert len(got) == len(rows) - 1 and all(row in rows for row in got)
  err = capsys.readouterr().err
  assert 'curve.jsonl: 1 of' in err and 'metrics.jsonl: rows up to update 12 are missing' in err


@pytest.mark.parametrize('name', ['stages', 'stages/sft/seed-0', 'stages/sft/seed-0/checkpoints'])
def test_a_file_where_a_folder_is_wanted(tmp_path, name):
  """A traceback after minutes of compiling."""
  (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / name).write_text('')
  with pytest.raises(ConfigError, match=f'{name}: a folder is wanted there'):
    run.require_origins(config_of(), tmp_path)


def test_history_comes_row_by_row(tmp_path):
  """Half a row taken for a whole one, or rows of updates that are trained again."""
  mine = Record(tmp_path, from_config_dict(tiny()), 'sft', 0)
  mine.begin()
  for step in (3, 6, 9):
    mine.append_history('metrics', [{'step': step, 'loss': 1.0}])
  file = mine.folder / 'metrics.jsonl'
  assert len(file.read_text().splitlines()) == 3
  file.write_text(file.read_text() + '{"step": 1')
  assert mine.continue_history(6) == ([{'step': 3, 'loss': 1.0}, {'step': 6, 'loss': 1.0}], [])
  mine.append_history('metrics', [{'step': 9, 'loss': 2.0}])
  assert [json.loads(line)['step'] for line in file.read_text().splitlines()] == [3, 6, 9]
