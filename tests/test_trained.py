"""A finished model from Python: what it samples, scores and shows."""

import re
import shutil

import jax
import numpy as np
import pytest

import compgen_jax
from compgen_jax import verifier
from compgen_jax.config import ConfigError
from compgen_jax.experiment import run, trained
from compgen_jax.experiment.checkpoint import CheckpointError
from compgen_jax.model import rollout
from compgen_jax.task import text

pytestmark = pytest.mark.slow

WHAT = 'bca dd: earlier reverse, merge successor'


@pytest.fixture(scope='module')
def model(sft_run):
  return compgen_jax.load(sft_run, 'sft')


def test_a_stage_is_loaded_without_its_config(sft_run, model):
  """Parameters that still have a seed axis, are those of another seed, or are fresh ones."""
  assert (model.stage, model.seed, model.task) == ('sft', 3, model.config.task)
  other = compgen_jax.load(sft_run, 'sft', seed=5)
  fresh = model.model.init_params(jax.random.key(0))
  leaves = [jax.tree.leaves(params) for params in (model.params, other.params, fresh)]
  for ours, theirs, new in zip(*leaves):
    assert ours.shape == theirs.shape == new.shape
  assert any(np.any(ours != theirs) for ours, theirs in zip(*leaves[:2]))
  assert other.seed == 5 and repr(model) == "Trained(stage='sft', seed=3, step=12)"
  same = compgen_jax.load(sft_run, 'sft', seed=3)
  jax.tree.map(np.testing.assert_array_equal, same.params, model.params)


def test_scores_are_those_of_the_sampler(model):
  """A column off by one, another temperature, or a prompt that the sampler does not see."""
  samples = model.sample(WHAT, n=4, seed=7)
  task = model.task
  tokens = text.parse(samples[0].prompt, task)
  n_tokens = task.trace_width(task.max_depth) + trained.SLACK
  out = rollout.rollout(
    model.model, model.params, np.array([tokens], np.int32), jax.random.key(7), np.arange(4),
    n_tokens=n_tokens, end=task.end, temperature=1.0,
  )  # fmt: skip
  assert len({sample.trace for sample in samples}) == 4
  for sample, row, mask, log_probs in zip(samples, out.tokens, out.mask, out.log_probs):
    kept = np.asarray(row)[np.asarray(mask)].tolist()
    assert sample.trace == text.spell(kept, task)
    score = model.score(WHAT, sample.trace)
    assert score.words == [task.token_names()[token] for token in kept]
    np.testing.assert_allclose(score.log_probs, np.asarray(log_probs)[: len(kept)], atol=1e-4)
    assert score.total == pytest.approx(sum(score.log_probs))


def test_scores_are_a_distribution(model):
  """Log-probabilities that are logits, or of the wrong column. (`pad` is no token.)"""
  names = [name for name in model.task.token_names() if name != 'pad']
  total = sum(np.exp(model.score(WHAT, name).total) for name in names)
  assert total == pytest.approx(1.0, abs=1e-4)
  whole = model.score(WHAT, 'C earlier')
  assert whole.log_probs[0] == pytest.approx(model.score(WHAT, 'C').total, abs=1e-5)


def test_greedy_samples_are_the_most_probable_tokens(model):
  """A temperature that is not passed on."""
  greedy = model.sample(WHAT, n=2, temperature=0.0, seed=1)
  assert greedy[0] == greedy[1] == model.sample(WHAT, temperature=0.0, seed=2)[0]
  first = text.spell(text.parse(greedy[0].trace, model.task)[:1], model.task)
  scores = {
    name: model.score(WHAT, name).total for name in model.task.token_names() if name != 'pad'
  }
  assert max(scores, key=scores.get) == first


def test_samples_depend_on_seed_and_number_only(model):
  """A sample that changes with how many are asked for."""
  assert model.sample(WHAT, n=3, seed=4)[:2] == model.sample(WHAT, n=2, seed=4)
  assert model.sample(WHAT, n=2, seed=4) != model.sample(WHAT, n=2, seed=5)


def test_samples_say_what_is_wrong(model):
  """Verdicts of another problem, or a display without them."""
  for drawn in model.problems('unseen', 2, depth=2):
    sample = model.sample(drawn)[0]
    assert (sample.prompt, sample.golden) == (drawn.prompt, drawn.trace)
    verdict = verifier.verify(drawn.line(), sample.trace)
    assert {key: getattr(sample, key) for key in verdict} == verdict
    lines = repr(sample).splitlines()
    assert lines[0] == drawn.prompt and lines[-1].strip().startswith('answer ')
    assert repr(sample).count('<-- first wrong step') == (not sample.strict)
    right = trained.Sample(drawn, drawn.trace, **verifier.verify(drawn.line(), drawn.trace))
    assert repr(right).endswith('    answer right, structure right; every step right')


def test_evaluate_measures_on_the_runs_problems(sft_run, model, monkeypatch):
  """A split of other problems than the run's, so that its numbers can't be compared with a run's;
  rows that differ in form."""
  seen = {}
  whole = trained.Evaluator.__call__

  def call(evaluator, *args, **kwargs):
    seen.update(evaluator.problems)
    return whole(evaluator, *args, **kwargs)

  monkeypatch.setattr(trained.Evaluator, '__call__', call)
  rows = [row for row in compgen_jax.read(sft_run) if (row['seed'], row['split']) == (3, 'unseen')]
  assert model.evaluate('unseen') == rows and rows
  base = run.build_setup(model.config, 1)
  problems = run.build_replicate(model.config, base, 3).evaluator.problems
  assert list(seen) == [('unseen', 2)]
  want, got = (jax.tree.leaves(cells['unseen', 2]) for cells in (problems, seen))
  for a, b in zip(want, got, strict=True):
    np.testing.assert_array_equal(a, b)


def test_evaluate_on_any_depths_and_supports(model):
  """A depth, a number or a support other than the one asked for."""
  rows = model.evaluate('rl', depths=(3, 2), n=4)
  assert {(row['split'], row['depth'], row['n']) for row in rows} == {('rl', 3, 4), ('rl', 2, 4)}
  assert 'accuracy, %' in repr(rows) and len(repr(rows).splitlines()) == 3
  (depth,) = {row['depth'] for row in model.evaluate('seen', depths=(1,), n=2)}
  assert depth == 1


def test_many_problems_at_once(model):
  """A trace beside another problem than its own."""
  drawn = model.problems('unseen', 5, depth=2)
  assert model.attempt(drawn) == [model.sample(problem, temperature=0.0)[0] for problem in drawn]


@pytest.mark.parametrize('call, message', [
  (lambda m: m.evaluate('nope'), "evaluate('nope'): legal is atoms | deeper | rl | seen | sft"),
  (lambda m: m.evaluate('unseen', (4,)), 'depths=(4,): legal for unseen is some of 1, 2, 3'),
  (lambda m: m.evaluate('seen', (3,)), 'depths=(3,): legal for seen is some of 1, 2,'),
  (lambda m: m.evaluate('seen', (1, 1)), 'each once'),
  (lambda m: m.evaluate('seen', n=1), 'n=1: legal is 2 or more'),
  (lambda m: m.sample('solve A q ='), "'q' is no word of this task"),
  (lambda m: m.sample(WHAT, n=0), 'legal is n >= 1'),
  (lambda m: m.sample(WHAT, temperature=-1.0), 'temperature >= 0'),
  (lambda m: m.score(WHAT, 'C xyz'), "trace: 'xyz' is no word"),
  (lambda m: m.score(WHAT, 'C pad'), "'pad' stands for no token"),
  (lambda m: m.problems('nope', 1), "support='nope': no support"),
  (lambda m: m.problems('sft', 1, depth=3), 'depth=3: legal for sft is 1 | 2'),
  (lambda m: m.problems('sft', 0), 'n=0: legal is 1 or more'),
])  # fmt: skip
def test_mistakes_are_one_line(call, message, model):
  """A traceback from deep inside, or a mistake that is accepted."""
  with pytest.raises(ConfigError) as error:
    call(model)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_what_has_not_finished_is_refused(sft_run, tmp_path):
  """Parameters of half a run passed off as a finished stage's."""
  with pytest.raises(ConfigError, match='no readable config.json'):
    compgen_jax.load(tmp_path, 'sft')
  with pytest.raises(ConfigError, match='legal is sft'):
    compgen_jax.load(sft_run, 'rl')
  with pytest.raises(ConfigError, match=re.escape('seed=4: legal is 3 | 5')):
    compgen_jax.load(sft_run, 'sft', seed=4)
  with pytest.raises(ConfigError, match='no results.jsonl'):
    compgen_jax.read(tmp_path)
  shutil.copy(sft_run / 'config.json', tmp_path)
  with pytest.raises(CheckpointError, match='has not finished'):
    compgen_jax.load(tmp_path, 'sft')


def test_rows_are_flat(sft_run):
  """Rows that a table can't take: nested values, or none."""
  rows = compgen_jax.read(sft_run)
  assert {row['seed'] for row in rows} == {3, 5} and {row['arm'] for row in rows} == {'sft'}
  assert all(type(v) in (int, float, str) for row in rows for v in row.values())


def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
  """A worked example that is out of date."""
  code = compgen_jax.__doc__[compgen_jax.__doc__.index('  import compgen_jax') :]
  code = '\n'.join(line[2:] for line in code.splitlines() if line.startswith('  '))
  monkeypatch.chdir(tmp_path)
  exec(code, {})
  assert "'strict': True" in capsys.readouterr().out
  assert len((tmp_path / 'runs/example/problems.jsonl').read_text().splitlines()) == 100
