"""The launchers of runs of several processes: what they would do, and mistakes in what is typed."""

import os
import shlex
import shutil
import string
import subprocess
import sys

import pytest

TPU = ['bash', 'launch/tpu_pod.sh']
GKE = [sys.executable, 'launch/gke_jobset.py']
SLURM = ['bash', 'launch/slurm.sbatch']
CONFIG, SEEDS = 'configs/quickstart.py', '--config.seeds=(0, 1)'
MINE = ('TPU_', 'GKE_', 'SLURM_', 'WORKDIR', 'CHECKOUT', 'DRY_RUN')


def run(*args, **env):
  """What a launcher says, where the environment says nothing but `env`."""
  clean = {name: value for name, value in os.environ.items() if not name.startswith(MINE)}
  return subprocess.run(args, capture_output=True, text=True, timeout=60, env=clean | env)


def dry(*args, **env) -> str:
  result = run(*args, **env)
  assert (result.returncode, result.stderr) == (0, '')
  return result.stdout


def test_tpu_pod():
  """A worker that is left out, output that is held back, a flag that the far shell takes apart."""
  said = dry(*TPU, CONFIG, '--tpu=t', '--zone=z', '--workdir=/a b', '--dry-run', '--', SEEDS)
  command = shlex.split(said)
  start = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 't', '--worker=all', '--zone=z']
  assert command[:-1] == start
  assert shlex.split(command[-1].removeprefix('--command=')) == [
    'cd', 'compgen_jax', '&&', '.venv/bin/python', '-u', '-m', 'compgen_jax.main',
    f'--config={CONFIG}', '--workdir=/a b', '--config.run.distributed=on', SEEDS,
  ]  # fmt: skip
  env = {'TPU_NAME': 't', 'TPU_ZONE': 'z', 'TPU_PROJECT': 'p', 'WORKDIR': '/w', 'CHECKOUT': 'c'}
  said = dry(*TPU, CONFIG, '--install', '--dry-run', **env)
  *_, project, remote = shlex.split(said)
  assert project == '--project=p' and remote.startswith('--command=cd c && { [ -x .venv/bin/python')
  assert "-m pip install --quiet --editable '.[tpu,plots]' && .venv/bin/python -u" in remote


def test_gke_jobset():
  """A field that is not filled in, or a flag that YAML takes apart."""
  said = dry(*GKE, CONFIG, '--image=i', '--claim=c', '--machines=4', '--dry-run', '--', SEEDS)
  first, *lines, last = said.splitlines()
  assert (first, last) == ('kubectl create -f - <<END', 'END')
  held = dict(line.strip().split('#')[0].split(': ', 1) for line in lines if ': ' in line)
  held = {name: value.strip() for name, value in held.items()}
  assert held['command'] == (
    '["python", "-u", "-m", "compgen_jax.main", "--config=configs/quickstart.py", '
    '"--workdir=/shared/runs/quickstart", "--config.run.distributed=on", "--config.seeds=(0, 1)"]'
  )
  want = {'image': 'i', 'claimName': 'c', 'parallelism': '4', 'completions': '4'}
  want |= {'mountPath': '/shared', 'google.com/tpu': '4', 'restartPolicy': 'Never'}
  assert want.items() <= held.items()
  assert not string.Template(said).get_identifiers()
  assert held == dict(
    line.strip().split('#')[0].strip().split(': ', 1)
    for line in dry(*GKE, CONFIG, '--dry-run', '--', SEEDS, **GKE_ENVIRONMENT).splitlines()
    if ': ' in line
  )


def _faults(value, schema, path='') -> list[str]:
  """Where a value is not what a structural OpenAPI v3 schema allows: fields and types."""
  if 'x-kubernetes-int-or-string' in schema:
    return [] if isinstance(value, int | str) else [f'{path}: a number or text is wanted']
  types = {'object': dict, 'array': list, 'string': str, 'integer': int, 'boolean': bool}
  if not isinstance(value, types[schema['type']]):
    return [f'{path}: {schema["type"]} is wanted']
  if schema['type'] == 'array':
    return [x for i, v in enumerate(value) for x in _faults(v, schema['items'], f'{path}[{i}]')]
  if schema['type'] != 'object':
    legal = schema.get('enum', [value])
    return [] if value in legal else [f'{path}: {value!r} is none of {legal}']
  faults = [f'{path}.{name}: missing' for name in schema.get('required', ()) if name not in value]
  for name, v in value.items():
    of_name = schema.get('properties', {}).get(name, schema.get('additionalProperties'))
    is_free = schema.get('x-kubernetes-preserve-unknown-fields') or 'properties' not in schema
    if of_name:
      faults += _faults(v, of_name, f'{path}.{name}')
    elif not is_free:
      faults.append(f'{path}.{name}: no such field')
  return faults


@pytest.mark.skipif('JOBSET_CRD' not in os.environ, reason='JOBSET_CRD: no file of its schema')
def test_gke_jobset_fits_its_schema():
  """A field that the cluster would drop or refuse.

  JOBSET_CRD is config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of kubernetes-sigs/jobset.
  """
  yaml = pytest.importorskip('yaml')
  with open(os.environ['JOBSET_CRD']) as file:
    versions = yaml.safe_load(file)['spec']['versions']
  said = dry(*GKE, CONFIG, '--image=i', '--claim=c', '--machines=4', '--dry-run', '--', SEEDS)
  made = yaml.safe_load('\n'.join(said.splitlines()[1:-1]))
  version = made['apiVersion'].split('/')[1]
  (schema,) = [v['schema']['openAPIV3Schema'] for v in versions if v['name'] == version]
  assert _faults(made, schema) == []
  made['spec']['replicatedJobs'][0]['template']['spec']['paralellism'] = 1
  assert _faults(made, schema) == [
    '.spec.replicatedJobs[0].template.spec.paralellism: no such field'
  ]


GKE_ENVIRONMENT = {'GKE_IMAGE': 'i', 'GKE_CLAIM': 'c', 'GKE_MACHINES': '4'}


def test_slurm():
  """One run per process in place of one run of all."""
  command = 'srun --unbuffered .venv/bin/python -u -m compgen_jax.main'
  said = dry(*SLURM, '--dry-run', CONFIG, '--workdir=/w', '--', SEEDS)
  assert shlex.split(said) == [
    *command.split(), f'--config={CONFIG}', '--workdir=/w', SEEDS,
  ]  # fmt: skip
  assert dry(*SLURM, CONFIG, WORKDIR='/w', DRY_RUN='1').strip() == (
    f'{command} --config={CONFIG} --workdir=/w'
  )
  said = dry(*SLURM, '--dry-run', CONFIG, '--out=o', SLURM_ARRAY_TASK_ID='3')
  assert said.strip().endswith(f'launch/sweep.py {CONFIG} --out=o --task=3')


def test_run_chooses_a_workdir(tmp_path):
  """Published results that a run of their config overwrites; a run that doesn't continue."""
  (tmp_path / 'launch').mkdir()
  shutil.copy('launch/run.sh', tmp_path / 'launch')
  environment = 'cd "$(dirname "${BASH_SOURCE[0]}")/.."; python=echo'
  (tmp_path / 'launch/environment.sh').write_text(environment)
  (tmp_path / 'runs/mine/stages').mkdir(parents=True)
  (tmp_path / 'results/finding1').mkdir(parents=True)
  (tmp_path / 'configs').mkdir()
  configs = {
    'configs/finding3.py': 'runs/finding3',
    'configs/finding3.py:small': 'runs/finding3-small',
    'runs/mine/config.json': 'runs/mine',
    'results/finding1/config.json': 'runs/finding1',
  }
  for config, workdir in configs.items():
    (tmp_path / config.split(':')[0]).touch()
    for given in ({}, {'WORKDIR': 'w'}):
      said = dry('bash', str(tmp_path / 'launch/run.sh'), config, SEEDS, **given)
      wanted = given.get('WORKDIR', workdir)
      command = f'-m compgen_jax.main --config={config} --workdir={wanted} {SEEDS}'
      assert said.strip() == command


@pytest.mark.parametrize('launcher', [TPU, GKE, SLURM])
def test_help(launcher):
  """A launcher whose use is to be read from its code, or a help that ends in code."""
  said = dry(*launcher, '--help')
  assert launcher[1] in said and 'dry-run' in said and '-- FLAG…' in said
  assert not any(line.startswith(('SBATCH', 'set -')) for line in said.splitlines())


@pytest.mark.parametrize(
  'command, message',
  [
    ((*TPU, CONFIG, '--workdir=/w'), '--tpu is missing; legal is the name of a TPU VM'),
    ((*TPU, CONFIG, '--tpu=t'), '--workdir is missing; legal is a folder that all workers share'),
    ((*TPU, CONFIG, '--tpus=t'), "no such flag as '--tpus=t'; legal are --tpu"),
    ((*TPU, CONFIG, 'x', '--tpu=t'), "stray argument 'x'; legal is one CONFIG"),
    ((*GKE, CONFIG, '--image=i'), "--claim='': legal is what matches"),
    ((*GKE, CONFIG, '--image=i', '--claim=c', '--topology=4'), "--topology='4': legal is what"),
    ((*SLURM, CONFIG), '--workdir is missing; legal is a folder that all nodes share'),
    ((*SLURM, CONFIG, '--out=o'), '--out is of a sweep: submit with sbatch --array=0-N'),
    ((*SLURM, '--workdir=/w'), 'CONFIG is missing; legal is a file of configs/ first'),
  ],
)
def test_mistakes(command, message):
  """Something started on many machines that can't work."""
  result = run(*command)
  assert result.returncode == 2 and result.stdout == ''
  assert result.stderr.startswith(f'error: {message}') and result.stderr.count('\n') == 1
