"""Every mistake is one line that names the field, the value and what is legal."""

import importlib
import pathlib

import pytest

from compgen_jax import config as config_lib
from configs import default
from tests.experiments import tiny

CONFIGS = ('default', 'quickstart', 'structure')


@pytest.mark.parametrize('name', CONFIGS)
def test_committed_configs_are_valid(name):
  """A config that was committed but never loaded."""
  config_lib.from_config_dict(importlib.import_module(f'configs.{name}').get_config())


def test_round_trip_through_plain_dicts():
  """config.json that would not rebuild the config it came from."""
  config = config_lib.from_config_dict(tiny())
  assert config_lib.from_config_dict(config_lib.to_dict(config)) == config


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
    ({'task__skills': ('revers',)}, "task.skills='revers'", 'reverse | '),
    ({'task__routings': ('merge',)}, 'task.routings', "'previous'"),
    ({'pools__test': 0.9}, 'pools=', '= 1'),
    ({'pools__rl': 0.0}, 'pools.rl=0.0', 'between 0 and 1'),
    ({'model__positions': 'sinus'}, "model.positions='sinus'", 'segment | rope | none'),
    ({'model__n_heads': 3}, 'model.n_heads=3', 'a divisor of model.d_model=16'),
    ({'model__dtype': 'float16'}, "model.dtype='float16'", 'float32 | bfloat16'),
    ({'optimizer__b2': 1.0}, 'optimizer.b2=1.0', 'below 1'),
    ({'rl__group': 1}, 'rl.group=1', '2 or more'),
    ({'rl__estimator': 'ppo'}, "rl.estimator='ppo'", 'reinforce | rloo | grpo | dr_grpo'),
    ({'rl__temperature': 0.0}, 'rl.temperature=0.0', 'above 0'),
    ({'rft__sampler': 'both'}, "rft.sampler='both'", 'parent | current'),
    ({'supports__rl__depths': (9,)}, 'supports.rl.depths=9', 'task.max_depth=3'),
    ({'supports__rl__prefix': 2}, 'supports.rl.prefix=2', '0 to task.max_depth - max(depths) = 1'),
    ({'supports__rl__dry': True, 'supports__rl__prefix': 1}, 'supports.rl.prefix=1', 'all steps'),
    ({'model__address_markers': 0}, 'model.address_markers=0', '1 or more'),
    ({'supports__rl__depths': ()}, 'supports.rl.depths=()', 'at least one'),
    ({'supports__rl__pool': 'train'}, "supports.rl.pool='train'", 'test | validation | sft | rl'),
    ({'supports__rl__without_skills': ('reverse', 'successor', 'drop_last', 'climb')}, 'without_skills', 'fewer than all 4'),
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
)  # fmt: skip


@pytest.mark.parametrize(
  'changes, names, legal', BAD_VALUES, ids=[' '.join(c) for c, _, _ in BAD_VALUES]
)
def test_bad_values_are_named_in_one_line(changes, names, legal):
  """A value that can't work and is found out minutes later, or never."""
  plain = config_lib.to_dict(config_lib.from_config_dict(tiny()))
  for path, value in changes.items():
    *sections, field = path.split('__')
    node = plain
    for section in sections:
      node = node[section]
    assert field in node or sections[-1:] == ['splits'], path
    node[field] = value
  with pytest.raises(config_lib.ConfigError) as e:
    config_lib.from_config_dict(plain)
  assert names in str(e.value) and legal in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('field, value, message', [
    ('modle', {}, 'did you mean model'),
    ('seed', 1.5, 'int is wanted'),
    ('seed', True, 'int is wanted'),
    ('experiment', 3, 'str is wanted'),
    ('seeds', 'abc', 'tuple of int'),
    ('model', 'big', 'a section'),
])  # fmt: skip
def test_fields_and_types(field, value, message):
  """An unknown field that is ignored, or a value cast in silence."""
  plain = config_lib.to_dict(config_lib.from_config_dict(tiny())) | {field: value}
  with pytest.raises(config_lib.ConfigError, match=message):
    config_lib.from_config_dict(plain)


def test_missing_field():
  """A default that only the code knows."""
  plain = config_lib.to_dict(config_lib.from_config_dict(tiny()))
  del plain['model']['d_ff']
  with pytest.raises(config_lib.ConfigError, match='model.d_ff: missing'):
    config_lib.from_config_dict(plain)


def test_batches_that_do_not_divide_over_devices():
  """12 rows on 8 devices, accepted in silence."""
  config = config_lib.from_config_dict(tiny(run__data_parallel=8))
  with pytest.raises(config_lib.ConfigError, match=r'prompts=2: legal is .* multiple of 8'):
    config_lib.validate_devices(config, 8)
  with pytest.raises(
    config_lib.ConfigError, match='run.data_parallel=8: legal is at most the 2 devices'
  ):
    config_lib.validate_devices(config, 2)
  assert config_lib.validate_devices(config_lib.from_config_dict(tiny()), 2) == 1


def test_every_knob_is_read():
  """A field of configs/default.py that no code reads, or a dataclass field that it does not hold."""
  config_lib.from_config_dict(default.get_config())  # unknown and missing fields both raise
  files = [
    p for p in pathlib.Path(config_lib.__file__).parent.rglob('*.py') if p.name != 'config.py'
  ]
  text = (
    ''.join(p.read_text() for p in files)
    + pathlib.Path(config_lib.__file__).read_text().split('# Types')[0]
  )
  for section, fields in config_lib.to_dict(
    config_lib.from_config_dict(default.get_config())
  ).items():
    if isinstance(fields, dict) and section not in ('supports', 'stages'):
      for field in set(fields) - {
        'max_depth',
        'data_parallel',
      }:  # they only bound what other fields may say
        assert f'.{field}' in text or f"'{field}'" in text, f'{section}.{field}'


def test_stage_order_puts_parents_first():
  """A stage that runs before the one it starts from."""
  config = config_lib.from_config_dict(tiny())
  order = config_lib.stage_order(config)
  assert order[0] == 'sft' and set(order) == set(config.stages)
