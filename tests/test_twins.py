"""Two names for one module: what a model has learned of it does not hang on the name."""

import pytest

from compgen_jax import load, run, validation
from compgen_jax.task import skills, strings, vocab
from compgen_jax.task.modules import Module
from configs import default
from tests.experiments import tiny


def mirror(s: strings.String, alphabet: int) -> strings.String:
  """`reverse` under another name.

  abc -> cba
  """
  return skills.reverse(s, alphabet)


def _config():
  """SFT on what a small model can learn in a minute; `reverse` and its twin apart in evaluation."""
  config = tiny()
  config.task.skills = ('reverse', 'mirror', 'successor', 'climb')
  config.task.routings = ('previous', 'earlier', 'merge')
  config.model.update(d_model=32, d_ff=64)
  config.sft.update(batch=64, lr=2e-3, warmup=20)
  config.supports.sft = default.support(depths=(1, 2))
  config.stages.sft.steps = 600
  for name in ('rl', 'rft'):
    del config.stages[name]
  for name, other in (('reverse', 'mirror'), ('mirror', 'reverse')):
    only = dict(pool='test', depths=(2,), with_skills=(name,), without_skills=(other,))
    config.supports[name] = default.support(**only)
    config.eval.splits[name] = name
  config.eval.update(problems=400, every=0, pass_k=())
  config.contrasts = ()
  return config


@pytest.mark.slow
def test_two_names_of_one_module_behave_alike(monkeypatch, tmp_path):
  """A model that is asked for names it was never shown, or modules that are told apart by place in
  the registry: one of the two would be executed worse."""
  for module in (vocab, validation):
    monkeypatch.setattr(module, 'SKILLS', (*skills.SKILLS, Module(mirror)))
  run(_config(), tmp_path)
  model = load(tmp_path, 'sft')
  right = {
    name: next(row for row in model.evaluate(name) if row['metric'] == 'accuracy')
    for name in ('reverse', 'mirror')
  }
  assert min(row['value'] for row in right.values()) > 0.6
  assert right['reverse']['low'] - 0.05 < right['mirror']['value'] < right['reverse']['high'] + 0.05
  # Their skills are right as often, wherever they stand.
  scored = {
    name: [model.score(p, p.trace).total for p in model.problems(name, 64)]
    for name in ('reverse', 'mirror')
  }
  mean = {name: sum(totals) / len(totals) for name, totals in scored.items()}
  assert abs(mean['reverse'] - mean['mirror']) < 1.0
