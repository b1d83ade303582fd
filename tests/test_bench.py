"""The benchmark counts what it says it counts, and writes what is promised."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.benchmark import first_update, flops, growth, policy, pytorch, table, timing
from compgen_jax.benchmark.workload import Workload, at_shape, choose
from compgen_jax.config import ConfigError, from_config_dict
from compgen_jax.errors import CheckpointError, UserError
from compgen_jax.experiment import run
from compgen_jax.learning import sft
from configs import default, quickstart
from tests.experiments import tiny

RESULTS = pathlib.Path(__file__).parent.parent / 'results' / 'bench'
SMALL = (  # a config and a compiler that do not take minutes
  "--config.task.skills=('reverse','climb','fold','squeeze')",
  "--config.task.routings=('previous','earlier','merge')",
  '--config.supports.sft.compositions=10',
  '--config.supports.sft_prefixed.compositions=10',
  '--config.sft.optimizer=adamw',
  '--config.rl.optimizer=adamw',
)


# What is counted ----------------------------------------------------------------------------------


def test_forward_flops_by_hand():
  """A factor of two, a matrix or the attention products left out."""
  config = from_config_dict(tiny())
  model = run.build_setup(config, 1).model
  d, f, v = 16, 32, config.task.vocab_size
  block = 2 * 5 * (3 * d * d + d * d + d * f + f * d) + 2 * 2 * 5 * 7 * d
  assert flops.forward(model, 3, 5, 7, 2) == 3 * (block + 2 * 2 * d * v)
  twice = run.build_setup(from_config_dict(tiny(model__repeats=2)), 1).model
  assert flops.forward(twice, 3, 5, 7, 2) == 3 * (2 * block + 2 * 2 * d * v)


def test_update_flops_by_hand():
  """A leaf that is no matrix (scales, embeddings, convolutions), products on the longer side."""
  blocks = dict(
    conv=np.ones((2, 4, 16)),
    norm=dict(scale=np.ones((2, 16))),
    qkv=np.ones((2, 16, 48)),
    ff_out=np.ones((2, 64, 16)),
  )

  def one(a, b):
    # X X^T and the last product; its square for 5 polynomials; the next X X^T for 4, of two
    # products each; 4 products of what was found so far with the next polynomial.
    return 2 * a * b * a + 2 * a * a * b + (5 + 2 * 4 + 4) * 2 * a * a * a

  assert flops.update('muon', dict(blocks=blocks)) == 2 * (one(16, 48) + one(16, 64))
  assert flops.update('adamw', dict(blocks=blocks)) == 0


def test_packed_columns_are_those_of_the_batch():
  """Columns of one device only, of rows that are skipped, or padding that is counted as useful."""
  config = from_config_dict(tiny())
  with jax.set_mesh(run.data_mesh(jax.device_count())):
    work = Workload(config, 8)
    packed = work.packed(work.sft_rows, n_batches=1)
    key = jax.random.fold_in(work.key, 0)
  alone = dataclasses.replace(work.stage('sft').setup, devices=run.Devices())
  rows, n_rows = jax.jit(lambda key: sft.golden_rows(key, alone.sources, work.samplers, alone))(key)
  assert packed.useful == np.sum(np.asarray(rows['document']) > 0)
  assert packed.width == rows['document'].shape[1]
  assert packed.columns == int(n_rows) * packed.width  # the last microbatches are single rows


# What is chosen -----------------------------------------------------------------------------------


def test_stages_are_chosen_by_kind():
  """A stage or a support that is known by name, or RL on the shallower problems."""
  assert choose(from_config_dict(tiny())) == ('sft', 'rl', 'rl')
  assert choose(from_config_dict(quickstart.get_config())) == ('sft', 'compound', 'compounds')
  config = tiny(contrasts=())
  config.stages.a_first = config.stages.sft
  config.stages.b_deep = config.stages.rl
  config.stages.b_deep.update(init_from='a_first', data=('atoms', 'rl'))
  del config.stages.sft, config.stages.rl, config.stages.rft
  assert choose(from_config_dict(config)) == ('a_first', 'b_deep', 'rl')


def test_a_config_without_rl_is_refused():
  """A traceback."""
  with pytest.raises(ConfigError, match=r"stages=\('sft',\): legal is .* kind rl"):
    choose(from_config_dict(default.get_config()))


def test_only_the_measured_stages_change():
  """A batch, a shape or an optimizer that is not the one asked for, or of other stages too."""
  config = quickstart.get_config()
  config.stages.compound.settings.lr = 1e-3
  at = at_shape(config, 32, 3, rows=64, sft={'batch': 16}, model__n_heads=4)
  assert (at.model.d_model, at.model.n_layers, at.model.d_ff, at.model.n_heads) == (32, 3, 128, 4)
  assert at.settings('sft').batch == 16 and at.settings('sft_continued').batch == 64
  compound, atomic = at.settings('compound'), at.settings('atomic')
  assert compound.prompts * compound.group == 64 and compound.lr == 1e-3
  assert atomic.prompts == 128 and atomic.entropy == 0


def test_growth_goes_along_its_axes():
  """An axis that no config accepts, or one along which the config stays the same."""
  points = growth.points(quickstart.get_config())
  by_axis = {}
  for point in points:
    by_axis.setdefault(point.axis, []).append(point)
  for axis, of_axis in by_axis.items():
    assert [p.value for p in of_axis] == sorted({p.value for p in of_axis}), axis
  for p in by_axis['depth cap (steps)']:
    assert p.config.supports['sft'].depths == (p.value - 1, p.value)
    assert p.config.supports['dry'].depths == tuple(range(1, p.value + 1))
  for p in by_axis['modules']:
    assert len(p.config.task.skills) + len(p.config.task.routings) == p.value
  for p in by_axis['width']:
    assert p.config.model.d_model == p.value and p.config.model.d_ff == 4 * p.value
  assert all(p.n_seeds == p.value for p in by_axis['seeds side by side'])


# What is timed ------------------------------------------------------------------------------------


def test_a_program_is_timed_and_carried():
  """A state that stays behind, and calls that are not timed."""
  p = timing.program(lambda state, x: (state + x, state), jnp.zeros(()), jnp.ones(()), carry=True)
  p.repeat = 2
  timing.in_turn([p], 3)
  assert len(p.seconds) == 3 and min(p.seconds) > 0 and p.compile_s > 0
  # Two when it was made, then three times one untimed and two timed.
  assert float(p.call()[1]) == 2 + 3 * (1 + 2)


@pytest.mark.slow
def test_bench_writes_its_json(tmp_path):
  """A part, a field or a share that is missing or impossible, or a table that can't show them."""
  file = tmp_path / 'bench.json'
  args = ['--shapes=16x1', '--rows=32', '--repeats=1', '--seeds=2', '--first_update', *SMALL]
  command = [sys.executable, '-m', 'compgen_jax.bench', '--config=configs/quickstart.py', *args]
  command.append(f'--json={file}')
  done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
  result = json.loads(file.read_text())
  assert done.stdout == table.text(result) + '\n'
  assert result['matmul_peak_gflops'] > 1
  parts = [row['part'] for row in result['rows']]
  assert parts == ['generate', 'sft_step', 'sft_forward', 'prefill', 'decode', 'rl_step']
  for row in result['rows']:
    assert row['model_share_of_peak'] <= row['share_of_peak']
    assert row['per_second'] > 0 and 0 <= row['share_of_peak'] < 1 and row['shape'] == 'd16x1'
    assert row['unit'] == ('problems' if row['part'] == 'generate' else 'tokens')
    assert 0.3 < row['useful_share'] <= 1 and row['compile_s'] > 0 and row['peak_mb'] > 0
  breakdown = result['breakdown']
  assert set(breakdown['sft_step']) == {'sample', 'pack', 'gradient', 'update'}
  assert breakdown['seeds'] == 2 and breakdown['sft_step_over_one_seed'] > 0
  assert 0 < breakdown['rl_rollout_share'] < 1.5
  first = result['first_update']
  assert first['stage'] == 'sft' and 0 < first['filled_s'] < first['cold_s']


@pytest.mark.parametrize('flag', ['--shapes=64', '--shapes=64x2,axb', '--shapes=15x1', '--rows=33'])
def test_what_cannot_be_measured_ends_in_one_line(flag):
  """A traceback, or a batch that devices can't share, whose remainder is counted all the same."""
  command = [sys.executable, '-m', 'compgen_jax.bench', '--config=configs/quickstart.py', flag]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


# A run that writes its metrics, but later where the compile cache is empty.
_RUN = """
import os, pathlib, sys, time
cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
if not cache.exists():
  time.sleep(0.5)
  cache.mkdir()
folder = pathlib.Path(sys.argv[-1].removeprefix('--workdir=')) / 'stages' / 'sft' / 'seed-3'
folder.mkdir(parents=True)
(folder / 'metrics.jsonl').write_text('x')
time.sleep(60)
"""


def test_the_first_update_is_timed_with_an_empty_and_a_filled_cache():
  """A cache that is kept from one repetition to the next, or not from cold to filled."""
  found = first_update.measure([sys.executable, '-c', _RUN], 'sft', 3, repeats=2)
  assert len(found['cold_each_s']) == len(found['filled_each_s']) == 2
  assert min(found['cold_each_s']) > 0.5  # each began with an empty cache
  assert 0 < found['filled_s'] < found['cold_s'] < 30  # and did not wait for the end of the run


def test_a_run_that_fails_before_its_first_update_is_reported():
  """A benchmark that waits for ever."""
  command = [sys.executable, '-c', 'import sys; sys.exit("error: no memory")']
  with pytest.raises(UserError, match='before its first update: error: no memory'):
    first_update.measure(command, 'sft', 0, repeats=1)


# A trained policy, and the peer -------------------------------------------------------------------


def test_a_trained_policy_is_measured(sft_run):
  """Fresh parameters instead of those that SFT ended with, lengths that no sample can have."""
  config = from_config_dict(tiny(seeds=(3, 5)))
  with jax.set_mesh(run.data_mesh(jax.device_count())):
    work = policy.workload(config, sft_run)
    fresh = Workload(config, work.rows).params
    measured, lengths = policy.measure(work, 1)
  assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(work.params), jax.tree.leaves(fresh)))
  assert lengths.shape == (8,) and np.all((1 <= lengths) & (lengths <= work.n_trace))
  assert 0 < measured['rollout_milliseconds'] and 0 <= measured['reward'] <= 1


def test_a_policy_of_another_config_is_refused(sft_run):
  """A step timed on a model of another shape."""
  config = from_config_dict(tiny(seeds=(3, 5), model__d_model=32))
  with pytest.raises(ConfigError, match='model.d_model'):
    policy.workload(config, sft_run)


def test_a_policy_that_is_not_there_is_refused(tmp_path):
  """A traceback, or a measurement of an untrained policy."""
  with pytest.raises(CheckpointError, match='stage sft .* has not finished'):
    policy.workload(from_config_dict(tiny()), tmp_path)


def test_the_peer_is_asked_for_before_anything_is_measured(monkeypatch):
  """A traceback after minutes of measuring where PyTorch is not installed."""
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match='peer'):
    pytorch.require()


def test_the_peer_gets_the_same_problems():
  """A problem that is lost or mixed with another, a token without its weight, another loss."""
  rows = dict(
    token=np.array([[1, 2, 3, 9], [4, 5, 6, 7]]),
    weight=np.array([[0.1, 0.2, 0.3, 0.0], [0.4, 0.5, 0.6, 0.7]]),
    document=np.array([[2, 2, 1, 0], [3, 3, 3, 3]]),
  )
  batch = pytorch.unpacked(rows, pad=99)
  assert batch['token'].tolist() == [[3, 99, 99, 99], [1, 2, 99, 99], [4, 5, 6, 7]]
  assert batch['weight'].tolist() == [[0.3, 0, 0, 0], [0.1, 0.2, 0, 0], [0.4, 0.5, 0.6, 0.7]]

  work = Workload(from_config_dict(tiny()), 8)
  setup = dataclasses.replace(work.stage('sft').setup, devices=run.Devices())
  rows_of = jax.jit(lambda key: sft.golden_rows(key, setup.sources, work.samplers, setup))
  packed, _ = rows_of(work.key)
  batch, loss = pytorch.golden_batch(work)
  assert batch['token'].shape[0] == 8 and batch['marker'].shape[:2] == batch['token'].shape
  np.testing.assert_allclose(np.sum(batch['weight']), 1.0, rtol=1e-5)
  expected, _ = jax.jit(lambda p: sft.cross_entropy(p, packed, setup))(work.params)
  np.testing.assert_allclose(loss, expected, rtol=1e-4)


# What is shown ------------------------------------------------------------------------------------


def test_measured_results_can_be_read(tmp_path):
  """A table or a figure that fails on the results that are kept."""
  result = json.loads((RESULTS / 'cpu2.json').read_text())
  shown = table.text(result)
  for expected in ('matrix product peak 271', 'd256x6', 'TRL', '5 seeds', 'trained policy'):
    assert expected in shown
  growth.draw(result, tmp_path / 'growth.png')
  assert (tmp_path / 'growth.png').stat().st_size > 10_000
