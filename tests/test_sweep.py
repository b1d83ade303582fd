"""launch/sweep.py and launch/slurm.sbatch, as a person types them, with a stand-in for a run."""

import json
import os
import shlex
import stat
import subprocess
import sys

import pytest

SWEEP = [sys.executable, 'launch/sweep.py', 'configs/quickstart.py']
# Stands in for `python -m compgen_jax.main` and `… collect`: notes its arguments, finishes the run.
STAND_IN = """#!/usr/bin/env bash
echo "$@" >> {calls}
for arg in "$@"; do case "$arg" in
  --workdir=*broken*) echo "error: as asked" >&2; exit 2 ;;
  --workdir=*) mkdir -p "${{arg#--workdir=}}"; echo '{{}}' > "${{arg#--workdir=}}/summary.json" ;;
esac; done
"""


def run(*args, env=None):
  return subprocess.run(
    args, capture_output=True, text=True, timeout=60, env=os.environ | (env or {})
  )


@pytest.fixture
def stand_in(tmp_path):
  """(environment in which runs are stand-ins, function that returns the calls so far)."""
  calls, python = tmp_path / 'calls', tmp_path / 'python'
  python.write_text(STAND_IN.format(calls=calls))
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  return {'PYTHON': str(python)}, lambda: calls.read_text().splitlines() if calls.exists() else []


def test_every_combination_and_seed_once(tmp_path):
  """A combination that is missing, a value that is cut at its own comma, a flag that is lost."""
  shares = 'stages.sft.shares=(0.5, 0.25, 0.25),(1.0, 0.0, 0.0)'
  args = [f'--out={tmp_path}', '--seeds=0,4', '--set', 'sft.lr,rl.lr=1e-3,2e-3', '--set', shares]
  shown = run(*SWEEP, *args, '--dry-run', '--', '--config.eval.problems=16')
  commands = [shlex.split(line) for line in shown.stdout.splitlines()]
  flags = [{a.split('=', 1)[0]: a.split('=', 1)[1] for a in c if '=' in a} for c in commands]
  assert {
    (f['--config.sft.lr'], f['--config.stages.sft.shares'], f['--config.seed']) for f in flags
  } == {
    (lr, share, seed)
    for lr in ('1e-3', '2e-3')
    for share in ('(0.5, 0.25, 0.25)', '(1.0, 0.0, 0.0)')
    for seed in '04'
  }
  assert len({f['--workdir'] for f in flags}) == len(commands) == 8
  assert all(f['--config.rl.lr'] == f['--config.sft.lr'] for f in flags)
  assert all(f['--config.eval.problems'] == '16' for f in flags)
  assert not list(tmp_path.iterdir())


def test_a_config_may_have_an_argument(tmp_path):
  """A config's argument that is taken for a part of its file's name, or lost."""
  args = ['configs/phase.py:0+100', f'--out={tmp_path}/s', '--dry-run']
  shown = run(*SWEEP[:2], *args)
  assert '--config=configs/phase.py:0+100' in shlex.split(shown.stdout), shown.stderr


def test_it_goes_on_where_it_was(stand_in, tmp_path):
  """A finished run that runs again, one that never runs, or results that are not put together."""
  env, calls = stand_in
  args = [f'--out={tmp_path}/s', '--seeds=0,1', '--set', 'sft.lr=1e-3,2e-3', '--jobs=2']
  first = run(*SWEEP, *args, env=env)
  assert first.returncode == 0, first.stderr
  assert len(calls()) == 5 and 'compgen_jax.collect' in calls()[-1]
  assert sum('--workdir=' in call for call in calls()) == 4
  (tmp_path / 's' / 'sft.lr=2e-3' / 'seed-1' / 'summary.json').unlink()
  assert '3 of 4 finished' in run(*SWEEP, *args, '--status', env=env).stdout
  again = run(*SWEEP, *args, env=env)
  assert '4 runs, 3 finished' in again.stdout and len(calls()) == 7
  assert 'sft.lr=2e-3/seed-1' in calls()[-2]


def test_a_failed_run_is_named(stand_in, tmp_path):
  """A sweep that ends well, or collects, though a run failed."""
  env, calls = stand_in
  result = run(*SWEEP, f'--out={tmp_path}/broken', env=env)
  assert result.returncode == 1 and 'error: as asked' in result.stdout
  assert not any('collect' in call for call in calls())


@pytest.mark.parametrize('args, message', [
  (['--set', 'sft.lr'], "--set='sft.lr': legal is FIELD=V1,V2"),
  (['--set', 'sft.lr=1e-3,1e-3'], 'comes twice'),
  (['--seeds=0,0'], 'each seed once'),
  (['--seeds=a'], 'whole numbers'),
  (['--jobs=0'], 'legal is 1 or more'),
  (['--task=3'], 'legal is 0 to 0'),
])  # fmt: skip
def test_mistakes_are_one_line(args, message, tmp_path):
  result = run(*SWEEP, f'--out={tmp_path}/s', *args)
  assert result.returncode == 2 and message in result.stderr and result.stderr.count('\n') == 1
  assert not (tmp_path / 's').exists()


def test_another_sweep_in_the_same_folder_is_refused(stand_in, tmp_path):
  """Runs of other flags taken for finished runs of these."""
  env, _ = stand_in
  (tmp_path / 's').mkdir()
  held = {'config': 'configs/quickstart.py', 'flags': ['--config.eval.problems=16']}
  (tmp_path / 's' / 'sweep.json').write_text(json.dumps(held))
  result = run(*SWEEP, f'--out={tmp_path}/s', env=env)
  assert result.returncode == 2 and 'holds a sweep of' in result.stderr


@pytest.mark.parametrize('status', [0, 2, 75])
def test_an_array_task_runs_its_own_and_is_put_back_when_interrupted(status, tmp_path):
  """Every task runs the first run, or one whose time was up is lost."""
  bin_ = tmp_path / 'bin'
  bin_.mkdir()
  for name, body in {'srun': f'echo srun "$@"; exit {status}', 'scontrol': 'echo "$@"'}.items():
    (bin_ / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
    (bin_ / name).chmod(0o755)
  env = {
    'PATH': f'{bin_}:{os.environ["PATH"]}',
    'SLURM_SUBMIT_DIR': os.getcwd(),
    'SLURM_ARRAY_JOB_ID': '77',
    'SLURM_ARRAY_TASK_ID': '3',
  }
  result = run('bash', 'launch/slurm.sbatch', 'configs/quickstart.py', '--out=o', env=env)
  assert result.returncode == status
  assert 'launch/sweep.py configs/quickstart.py --out=o --task=3' in result.stdout
  assert ('requeue 77_3' in result.stdout) == (status == 75)


def test_an_array_task_is_the_run_of_its_number(stand_in, tmp_path):
  env, calls = stand_in
  args = [f'--out={tmp_path}/s', '--seeds=0,1', '--set', 'sft.lr=1e-3,2e-3', '--task=2']
  assert run(*SWEEP, *args, env=env).returncode == 0
  (call,) = calls()
  assert 'sft.lr=2e-3/seed-0' in call
