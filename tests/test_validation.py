"""Every mistake is one line that names the field, the value and what is legal."""

import pytest

from compgen_jax import validation
from compgen_jax.config import ConfigError, from_config_dict
from configs import default
from tests.experiments import plain, tiny


def message_of(config) -> str:
  """The one line with which a config is refused."""
  with pytest.raises(ConfigError) as e:
    from_config_dict(config)
  assert '\n' not in str(e.value)
  return str(e.value)


ALL_SKILLS = ('reverse', 'successor', 'drop_last', 'climb')
BAD_VALUES = (
  ({'sft__lr': float('nan')}, 'sft.lr=nan', 'finite'),
  ({'sft__lr': -1.0}, 'sft.lr=-1.0', 'above 0'),
  ({'seed': 2**40}, 'seed=', '32 bits'),
  ({'seed': -1}, 'seed=-1', '0 or more'),
  ({'seeds': (1, 1)}, 'seeds=(1, 1)', 'without repetition'),
  ({'task__alphabet': 7}, 'task.alphabet=7', 'even number'),
  ({'task__width': 1}, 'task.width=1', '4 to 32'),
  ({'task__min_input': 9}, 'task.min_input=9', '2 to task.width'),
  ({'task__n_labels': 4}, 'task.n_labels=4', 'task.max_depth + 2'),
  ({'task__trace': 'terse'}, "task.trace='terse'", 'explicit | compact'),
  ({'task__routings': ('merge',)}, 'task.routings', "'previous'"),
  ({'pools__test': 0.9}, 'pools=', '= 1'),
  ({'pools__rl': 0.0}, 'pools.rl=0.0', 'between 0 and 1'),
  ({'model__positions': 'sinus'}, "model.positions='sinus'", 'segment | rope | none'),
  ({'model__address_markers': 0}, 'model.address_markers=0', '1 to 64'),
  ({'model__n_heads': 3}, 'model.n_heads=3', 'a divisor of model.d_model=16'),
  ({'model__dtype': 'float16'}, "model.dtype='float16'", 'float32 | bfloat16'),
  ({'optimizer__b2': 1.0}, 'optimizer.b2=1.0', 'below 1'),
  ({'rl__group': 1}, 'rl.group=1', '2 or more'),
  ({'rl__estimator': 'ppo'}, "rl.estimator='ppo'", 'reinforce | rloo | grpo | dr_grpo'),
  ({'rl__temperature': 0.0}, 'rl.temperature=0.0', 'above 0'),
  ({'run__max_log_prob_gap': 0.0}, 'run.max_log_prob_gap=0.0', 'above 0'),
  ({'rl__reward': 'right'}, "rl.reward='right'", 'answer | strict | steps'),
  ({'rl__anchor': ('nothing',)}, "rl.anchor='nothing'", 'sft'),
  ({'rl__anchor': ('sft', 'sft')}, 'rl.anchor', 'without repetition'),
  ({'rl__anchor': ('sft', 'rl', 'atoms')}, 'rl.anchor_batch=32', 'number of anchors, 3'),
  ({'rl__anchor_batch': 0}, 'rl.anchor_batch=0', 'or more'),
  ({'rft__anchor_weight': 0.0}, 'rft.anchor_weight=0.0', 'above 0'),
  ({'rft__sampler': 'both'}, "rft.sampler='both'", 'parent | current'),
  ({'supports__rl__depths': (9,)}, 'supports.rl.depths=9', 'task.max_depth=3'),
  ({'supports__rl__depths': ()}, 'supports.rl.depths=()', 'at least one'),
  ({'supports__rl__prefix': 2}, 'supports.rl.prefix=2', '0 to 1: task.max_depth minus'),
  ({'supports__rl__prefix': -1}, 'supports.rl.prefix=-1', '0 to 1'),
  ({'supports__sft__covers': 9}, 'supports.sft.covers=9', '0 to supports.sft.compositions=8'),
  ({'supports__rl__balanced': True}, 'supports.rl.balanced=True', 'False beside compositions=0'),
  ({'supports__rl__covers': 1}, 'supports.rl.covers=1', '0 to supports.rl.compositions=0'),
  ({'supports__sft__subset': 9}, 'supports.sft.subset=9', 'to supports.sft.compositions=8'),
  ({'supports__sft__subset': 1}, 'supports.sft.subset=1', '0, or one per depth'),
  ({'supports__rl__pool': 'train'}, "supports.rl.pool='train'", 'test | validation | sft | rl'),
  ({'supports__rl__without_skills': ALL_SKILLS}, 'without_skills', 'fewer than all 4'),
  ({'supports__rl__with_pairs': ('merge fold',)}, "with_pairs='merge fold'", 'a routing mechanism'),
  ({'supports__rl__with_skills': ('sort_up',)}, "with_skills='sort_up'", 'reverse | successor'),
  ({'stages__rl__init_from': 'nowhere'}, "stages.rl.init_from='nowhere'", 'sft'),
  ({'stages__rl__init_from': ''}, 'stages.rl.init_from', 'a stage to start from'),
  ({'stages__sft__init_from': 'rl'}, 'a circle', 'sft'),
  ({'stages__rl__kind': 'ppo'}, "stages.rl.kind='ppo'", 'sft | rl | rft'),
  ({'stages__rl__data': ('other', 'rl')}, "stages.rl.data='other'", 'sft'),
  ({'stages__rl__shares': (0.6, 0.6)}, 'stages.rl.shares', 'add up to 1'),
  ({'stages__rl__shares': (0.9, 0.1)}, 'stages.rl.shares', 'whole rows'),
  ({'stages__rl__steps': 0}, 'stages.rl.steps=0', '1 or more'),
  ({'eval__splits__deeper': 'nothing'}, "eval.splits.deeper='nothing'", 'sft'),
  ({'eval__pass_k': (8,)}, 'eval.pass_k=8', 'eval.pass_samples=4'),
  ({'eval__trained': ('all',)}, "eval.trained='all'", 'unseen'),
  ({'contrasts': (('x', ((1, 'rl', 'unseen', 7),)),)}, 'contrasts[x]=7', '0 | 2'),
  ({'contrasts': (('x', ((1, 'arm', 'unseen', 0),)),)}, "contrasts[x]='arm'", 'rl'),
  ({'run__steps_per_call': 0}, 'run.steps_per_call=0', '1 or more'),
  # Settings of a stage.
  ({'stages__rl__settings__lr': 'fast'}, "stages.rl.settings.lr='fast'", 'float is wanted'),
  ({'stages__rl__settings__ler': 1.0}, 'stages.rl.settings.ler', 'did you mean lr?'),
  ({'stages__rl__settings__sampler': 'parent'}, 'stages.rl.settings.sampler', 'no such field'),
  ({'stages__rl__settings__lr': 2.0}, 'stages.rl.settings.lr=2.0', 'above 0'),
  ({'stages__rl__settings__group': 1}, 'stages.rl.settings.group=1', '2 or more'),
  ({'stages__rl__settings__kl': -1.0}, 'stages.rl.settings.kl=-1.0', '0 or more'),
  ({'stages__rl__settings__optimizer': 'sgd'}, "rl.settings.optimizer='sgd'", 'adamw | muon'),
  ({'stages__rl__settings__anchor': ('x',)}, "stages.rl.settings.anchor='x'", 'sft'),
  ({'stages__rl__settings__anchor': 'sft'}, "stages.rl.settings.anchor='sft'", 'a tuple of str'),
  ({'stages__rl__settings__prompts': 3}, 'stages.rl.shares', 'stages.rl.settings.prompts=3'),
)  # fmt: skip


@pytest.mark.parametrize(
  'changes, names, legal', BAD_VALUES, ids=[' '.join(c) for c, _, _ in BAD_VALUES]
)
def test_bad_values_are_named_in_one_line(changes, names, legal):
  """A value that can't work and is found out minutes later, or never."""
  message = message_of(plain(**changes))
  assert names in message and legal in message


@pytest.mark.parametrize('name', ['..', '/tmp/x', 'a/b', '', ' ', 'x' * 65, 'é', 'a\nb', 'CON.'])
def test_names_stay_in_the_workdir(name):
  """A stage that writes elsewhere, or a name that no file system, flag or page can hold."""
  for path in ('stages', 'supports'):
    config = plain()
    config[path][name] = config[path]['sft']
    assert message_of(config).startswith(f'{path}={name!r}: legal is letters')
  config = plain()
  config['eval']['splits'][name] = 'unseen'
  assert message_of(config).startswith(f'eval.splits={name!r}: legal is letters')


@pytest.mark.parametrize('value', [1e300, 1e-300, -1e39, 1e-46])
def test_numbers_are_those_of_the_device(value):
  """A number that is infinite or zero once it is a float32."""
  for path in ('optimizer__eps', 'rl__kl', 'stages__rl__settings__temperature'):
    assert 'as float32 holds it' in message_of(plain(**{path: value}))


@pytest.mark.parametrize('contrasts', [
  'abc',
  ('a',),
  (('a', ()),),
  (('a', 3),),
  (('', ((1, 'rl', 'unseen', 0),)),),
  (('a', ((True, 'rl', 'unseen', 0),)),),
  (('a', ((float('nan'), 'rl', 'unseen', 0),)),),
  (('a', ((1, 'rl', 'unseen', False),)),),
  (('a', ((1, {}, 'unseen', 0),)),),
  (('a', ((1, 'rl', 'unseen', 0),)),) * 2,
])  # fmt: skip
def test_contrasts_that_mean_nothing(contrasts):
  """A mistake that is found out when all is trained."""
  assert message_of(plain(contrasts=contrasts)).startswith('contrasts')


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'rl__overlap': ('sft', 1.5)}, 'rl.overlap=('),
    ({'rl__overlap': ('sft', 'half')}, 'rl.overlap=('),
    ({'rl__overlap': ('rl', 0.5)}, 'rl.overlap=('),
    ({'rl__overlap': ('sft',)}, 'rl.overlap=('),
    ({'rl__overlap': ('unseen', 0.5)}, 'rl.overlap=('),
    ({'rl__compositions': 0}, 'rl.compositions=0'),
    ({'rl__subset': 4}, 'rl.subset=4'),
    ({'sft__overlap': ('rl', 0.5)}, 'sft.overlap=('),
  ],
  ids=str,
)
def test_an_overlap_that_means_nothing(changes, message):
  """A share of a support that is not finite, or supports that take from each other."""
  good = dict(sft__compositions=8, rl__compositions=8, rl__overlap=('sft', 0.5))
  from_config_dict(plain(**{f'supports__{field}': value for field, value in good.items()}))
  changed = {f'supports__{field}': value for field, value in (good | changes).items()}
  assert message_of(plain(**changed)).startswith(f'supports.{message}')


def test_dry_supports_have_no_prefix():
  """A number of dry steps before problems that are dry as a whole."""
  config = tiny()
  config.supports.noise = default.support(depths=(1,), dry=True, prefix=1)
  assert message_of(config).startswith('supports.noise.prefix=1: legal is 0 to 0')


def test_unknown_modules_are_named_in_one_line():
  """A misspelt module, found out by a KeyError."""
  message = message_of(plain(task__skills=('revers',)))
  assert "task.skills='revers'" in message and 'reverse | ' in message


WRONG_FIELDS = (
  ('modle', {}, 'did you mean model'),
  ('seed', 1.5, 'int is wanted'),
  ('seed', True, 'int is wanted'),
  ('experiment', 3, 'str is wanted'),
  ('seeds', 'abc', 'tuple of int'),
  ('model', 'big', 'a section'),
)


@pytest.mark.parametrize('field, value, message', WRONG_FIELDS)
def test_fields_and_types(field, value, message):
  """An unknown field that is ignored, or a value cast in silence."""
  assert message in message_of(plain() | {field: value})


@pytest.mark.parametrize('section, field', [('model', 'd_ff'), ('rl', 'reward'), ('run', None)])
def test_missing_fields_of_a_config_file(section, field):
  """A default that only the code knows: what configs/*.py make is complete."""
  config = plain()
  if field is None:
    del config[section]
  else:
    del config[section][field]
  where = section if field is None else f'{section}.{field}'
  assert message_of(config) == f'{where}: missing; start from configs/default.py'


def test_batches_that_do_not_divide_over_devices():
  """12 rows on 8 devices, accepted in silence; an anchor that does not divide."""

  def refused(n, there, **changes):
    with pytest.raises(ConfigError) as e:
      validation.devices(from_config_dict(tiny(mesh__data=n, **changes)), there)
    return str(e.value)

  assert 'rl.prompts=4: legal is such that stages.rl gives rl a multiple of 8' in refused(8, 8)
  assert 'mesh.data=8: legal is -1 (the rest) or 1 to 2' in refused(8, 2)
  message = refused(2, 2, rft__anchor_batch=3)
  assert message.startswith('rft.anchor_batch=3: legal is such that anchor sft gets a multiple')
  message = refused(2, 2, stages__rft__settings__anchor_batch=3)
  assert message.startswith('stages.rft.settings.anchor_batch=3')
  assert validation.devices(from_config_dict(tiny()), 2) == 1
  assert validation.devices(from_config_dict(tiny(mesh__data=-1)), 2) == 2
