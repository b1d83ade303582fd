"""How long training takes until RL shows finding 1: what counts as time, and as reached."""

import pytest

from compgen_jax.benchmark import finding, table
from compgen_jax.config import from_config_dict
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import files, workdirs
from configs import quickstart


def test_settings_are_compared_on_validation():
  """A look at the reported pool, or stages that are not measured."""
  given = quickstart.get_config().lock()  # as --config gives it
  config = from_config_dict(finding.prepared(given))
  assert set(config.stages) == {'sft', 'compound'}
  assert set(config.eval.splits) == {'deeper'} and config.supports['deeper'].depths == (4,)
  assert config.supports['deeper'].pool == 'validation'


def test_a_config_without_the_depth_is_refused():
  given = quickstart.get_config()
  given.contrasts = ()
  given.supports.deeper.depths = (5,)
  with pytest.raises(ConfigError, match='4 steps'):
    finding.prepared(given)


def _write(workdir, curve):
  """A finished workdir: SFT at half a second an update, RL at two, 60 s at the first of each and
  30 s at every look."""
  config = from_config_dict(finding.prepared(quickstart.get_config()))
  for stage, each_s in (('sft', 0.5), ('compound', 2.0)):
    folder = workdirs.stage_folder(workdir, stage, 0)
    folder.mkdir(parents=True)
    rows, seconds = [], 60.0
    for step in range(10, 101, 10):
      seconds += 10 * each_s + (30.0 if step % finding.EVERY == 10 else 0.0)
      rows.append(dict(step=step, seconds=seconds))
    files.write_sealed_jsonl(folder / 'metrics.jsonl', rows)
  points = [
    dict(step=step, split='deeper', depth=4, metric=metric, value=value)
    for step, value in curve
    for metric, value in (('accuracy', value), ('strict_accuracy', 0.9))
  ]
  files.write_sealed_jsonl(folder / 'curve.jsonl', points)
  return config


@pytest.mark.parametrize(
  'curve, passed, rl_minutes',
  [
    (((0, 0.1), (20, 0.3), (40, 0.41), (60, 0.39)), 40, 40 * 2 / 60),
    (((0, 0.1), (20, 0.3)), None, None),
    (((0, 0.16), (20, 0.5)), 20, None),
  ],
  ids=['reached', 'not reached', 'known to SFT'],
)
def test_the_minutes_of_a_replicate(tmp_path, curve, passed, rl_minutes):
  """Compiling or looking that counts as training, or a parent that could do it already."""
  config = _write(tmp_path, curve)
  one = finding.of_replicate(tmp_path, config, 'sft', 'compound', 0)
  sft_minutes = config.stages['sft'].steps * 0.5 / 60
  assert one['passed_after'] == passed and one['rl_minutes'] == pytest.approx(rl_minutes)
  assert one['sft_minutes'] == pytest.approx(sft_minutes)
  assert (one['minutes'] is None) == (rl_minutes is None)
  result = dict(split='deeper', depth=4, target=0.4, parent_at_most=0.15, replicates=[one])
  text = table.finding(result | dict(minutes=one['minutes']))
  assert ('not reached' in text) == (rl_minutes is None)


def test_a_replicate_that_does_not_get_there_is_the_slowest():
  assert finding.median([3.0, None, 2.0]) == 3.0
  assert finding.median([3.0, None, None]) is None
