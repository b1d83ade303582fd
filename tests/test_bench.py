"""The benchmark counts what it says it counts, and writes what is promised."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compgen_jax.benchmark import growth, policy, pytorch, timing, workload
from compgen_jax.config import ConfigError, from_config_dict, to_dict
from compgen_jax.experiment import files, run
from tests.experiments import tiny


def test_forward_flops_by_hand():
  """A factor of two, a matrix or the attention products left out."""
  config = from_config_dict(tiny())
  model = run.build_setup(config, 1).model
  d, f, v = 16, 32, config.task.vocab_size
  layer = 2 * 5 * (3 * d * d + d * d + d * f + f * d) + 2 * 2 * 5 * 7 * d
  assert workload.forward_flops(model, 3, 5, 7, 2) == 3 * (layer + 2 * 2 * d * v)


def test_optimizer_flops_by_hand():
  """A matrix that is not one (norms, embeddings, convolutions), products on the longer side, one that is not made."""
  blocks = dict(
    conv=np.ones((2, 4, 16)),
    norm=dict(scale=np.ones((2, 16))),
    qkv=np.ones((2, 16, 48)),
    ff_out=np.ones((2, 64, 16)),
  )
  # X X^T and the last product; its square for 5 polynomials, the next X X^T for 4 (two products each), what has been for 4.
  one = lambda a, b: 2 * a * b * a + 2 * a * a * b + (5 + 2 * 4 + 4) * 2 * a * a * a
  assert workload.optimizer_flops('muon', dict(blocks=blocks)) == 2 * (one(16, 48) + one(16, 64))
  assert workload.optimizer_flops('adamw', dict(blocks=blocks)) == 0


def test_a_program_is_timed_and_carried():
  """A state that stays behind, and calls that are not timed."""
  p = timing.program(lambda state, x: (state + x, state), jnp.zeros(()), jnp.ones(()), carry=True)
  p.repeat = 2
  timing.in_turn([p], 3)
  assert len(p.seconds) == 3 and min(p.seconds) > 0 and p.compile_s > 0
  assert float(p.call()[1]) == 2 + 3 * (
    1 + 2
  )  # two when it was made, then three times one untimed and two timed


def test_bench_writes_its_json(tmp_path):
  """A part, a field or a share that is missing or impossible."""
  file = tmp_path / 'bench.json'
  args = [
    '--config=configs/quickstart.py',
    '--shapes=16x1',
    '--rows=32',
    '--repeats=1',
    '--seeds=2',
    f'--json={file}',
  ]
  args += [
    "--config.task.skills=('reverse','climb','fold','squeeze')",
    "--config.task.routings=('previous','earlier','merge')",
  ]
  args += [
    '--config.supports.sft.compositions=10',
    '--config.sft.optimizer=adamw',
    '--config.rl.optimizer=adamw',
  ]
  env = os.environ | {
    'XLA_FLAGS': '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  }  # compiles fast
  subprocess.run(
    [sys.executable, '-m', 'compgen_jax.bench', *args],
    check=True,
    capture_output=True,
    timeout=400,
    env=env,
  )
  result = json.loads(file.read_text())
  assert result['matmul_peak_gflops'] > 1
  assert [row['part'] for row in result['rows']] == [
    'generate',
    'sft_step',
    'sft_forward',
    'prefill',
    'decode',
    'rl_step',
  ]
  for row in result['rows']:
    assert row['model_share_of_peak'] <= row['share_of_peak']
    assert row['per_second'] > 0 and 0 <= row['share_of_peak'] < 1 and row['shape'] == 'd16x1'
    assert row['unit'] == ('problems' if row['part'] == 'generate' else 'tokens')
    assert 0.3 < row['useful_share'] <= 1 and row['compile_s'] > 0 and row['peak_mb'] > 0
  breakdown = result['breakdown']
  assert set(breakdown['sft_step']) == {'sample', 'pack', 'gradient', 'update'}
  assert (
    breakdown['seeds'] == 2
    and breakdown['sft_step_over_one_seed'] > 0
    and 0 < breakdown['rl_rollout_share'] < 1.5
  )


def test_a_trained_policy_is_measured(tmp_path):
  """Fresh parameters instead of those that SFT ended with, lengths that no sample can have."""
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=())
  config.supports.compounds = config.supports.rl
  config.stages.compound = config.stages.rl
  config.stages.compound.update(data=('compounds',), shares=(1.0,))
  del config.stages.rl, config.stages.rft, config.supports.rl
  config = from_config_dict(config)
  run.run(config, tmp_path)
  with jax.set_mesh(run.data_mesh(jax.device_count())):
    work = policy.workload(config, tmp_path)
    fresh = workload.Workload(config, work.rows).params
    measured, lengths = policy.measure(work, 1)
  assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(work.params), jax.tree.leaves(fresh)))
  assert lengths.shape == (8,) and np.all((1 <= lengths) & (lengths <= work.n_trace))
  assert 0 < measured['rollout_milliseconds'] and 0 <= measured['reward'] <= 1


def test_growth_is_drawn(tmp_path):
  """A figure that fails on what is measured, or an axis that no config accepts."""
  from configs import quickstart

  points = []
  for axis, values in growth.sweeps().items():
    for value, changes in values:
      workload.at_shape(quickstart.get_config(), 64, 2, **changes)
      points.append(dict(axis=axis, value=value, milliseconds=float(value), compile_s=1.0))
  growth.draw(dict(growth=points, hardware='here'), tmp_path / 'growth.png')
  assert (tmp_path / 'growth.png').stat().st_size > 10_000


def test_the_peer_is_asked_for_before_anything_is_measured(monkeypatch):
  """A traceback after minutes of measuring where PyTorch is not installed."""
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match='peer'):
    pytorch.require()


def test_a_policy_is_looked_for_before_anything_is_measured(tmp_path):
  """A traceback after minutes of measuring where the workdir is not that of a run."""
  from configs import quickstart

  with pytest.raises(ConfigError, match="policy='.*': legal is"):
    policy.require(from_config_dict(quickstart.get_config()), tmp_path)
  (tmp_path / 'stages' / 'sft').mkdir(parents=True)
  (tmp_path / 'stages' / 'sft' / 'evaluation.json').write_text('{}')
  config = quickstart.get_config()
  files.write_json(tmp_path / 'config.json', to_dict(from_config_dict(config)))
  config.eval.problems = 64  # of no concern to a policy
  policy.require(from_config_dict(config), tmp_path)
  config.seeds = (0, 1)
  with pytest.raises(ConfigError, match=r'seeds=\[\] there, \[0, 1\] here'):
    policy.require(from_config_dict(config), tmp_path)
