"""Two names of one module, after training: does a model do the same by both?"""

import pytest

import compgen_jax
from compgen_jax import validation
from compgen_jax.experiment import problems
from compgen_jax.task import modules, skills, vocab
from configs import quickstart

NAME, OTHER, DIFFERENT = 'reverse', 'reverse_too', 'rotate_right'


def reverse_too(s, alphabet):
  """`abc -> cba`, under another name."""
  return skills.reverse(s, alphabet)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A model of SFT on the small task, one of whose skills has a second name. Takes minutes."""
  config = quickstart.get_config()
  config.task.skills = (*quickstart.SKILLS, OTHER)
  for name in ('sft', 'sft_prefixed'):
    config.supports[name].update(compositions=48, covers=3)
  for name in ('compound', 'atomic', 'sft_continued'):
    del config.stages[name]
  config.stages.sft.steps = 800
  config.contrasts = ()
  config.eval.update(problems=64, every=0, pass_k=())
  with pytest.MonkeyPatch.context() as patch:
    for module in (vocab, validation):
      patch.setattr(module, 'SKILLS', (*skills.SKILLS, modules.Module(reverse_too)))
    workdir = tmp_path_factory.mktemp('two_names')
    compgen_jax.run(config, workdir)
    yield compgen_jax.load(workdir, 'sft')


def _written(model, drawn, name):
  """(traces, whether they are right) of problems that use NAME, posed with another name for it."""
  prompts = [problem.prompt.replace(f' {NAME} ', f' {name} ') for problem in drawn]
  samples = model.attempt([problems.read(prompt, model.task) for prompt in prompts])
  traces = [sample.trace.replace(f' {name} ', f' {NAME} ') for sample in samples]
  return traces, [sample.answer for sample in samples]


def _share(pairs):
  pairs = list(pairs)
  return sum(a == b for a, b in pairs) / len(pairs)


@pytest.mark.slow
def test_a_module_is_known_by_both_of_its_names(model):
  """A model of names and not of modules, which no step of training connects: on new compositions it
  would not execute both alike. (Another skill in their place shows that traces depend on the name.)
  On SFT's own compositions the name that they have is ahead: entanglement, by its simplest test."""
  gaps = {}
  for split in ('sft', 'unseen'):
    drawn = [p for p in model.problems(split, 2048, depth=2) if f' {NAME} ' in p.prompt]
    (mine, right), (others, right_too) = (_written(model, drawn, name) for name in (NAME, OTHER))
    different, _ = _written(model, drawn, DIFFERENT)
    n, alike = len(drawn), [_share(zip(mine, x)) for x in (others, different)]
    print(split, n, sum(right) / n, sum(right_too) / n, *alike)
    gaps[split] = (sum(right) - sum(right_too)) / n
    assert n > 100 and sum(right) > 0.5 * n and alike[0] > 5 * alike[1]
  assert abs(gaps['unseen']) < 0.15 < gaps['sft']
