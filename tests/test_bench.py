"""The benchmark counts what it says it counts, and writes what is promised."""

import json
import subprocess
import sys

from compgen_jax import bench
from compgen_jax.config import from_config_dict
from compgen_jax.experiment import run
from tests.experiments import tiny


def test_forward_flops_by_hand():
  """A factor of two, a matrix or the attention products left out."""
  config = from_config_dict(tiny())
  model = run.build_setup(config, 1).model
  d, f, v = 16, 32, config.task.vocab_size
  layer = 2 * 5 * (3 * d * d + d * d + d * f + f * d) + 2 * 2 * 5 * 7 * d
  assert bench.forward_flops(model, 3, 5, 7, 2) == 3 * (layer + 2 * 2 * d * v)


def test_bench_writes_its_json(tmp_path):
  """A part, a field or a share that is missing or impossible."""
  file = tmp_path / 'bench.json'
  args = ['--config=configs/quickstart.py', '--shapes=16x1', '--rows=32', '--repeats=1', f'--json={file}']
  subprocess.run([sys.executable, '-m', 'compgen_jax.bench', *args], check=True, capture_output=True, timeout=300)
  result = json.loads(file.read_text())
  assert result['matmul_peak_gflops'] > 1
  assert [row['part'] for row in result['rows']] == ['generate', 'sft_step', 'prefill', 'decode', 'rl_step']
  for row in result['rows']:
    assert row['per_second'] > 0 and 0 <= row['share_of_peak'] < 1 and row['shape'] == 'd16x1'
    assert row['unit'] == ('problems' if row['part'] == 'generate' else 'tokens')
