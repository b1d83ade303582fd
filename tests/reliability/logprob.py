"""Sampler and learner agree on the log-probability of every token of 200 updates of RL.

python -m tests.reliability.logprob [--n 200]

In float32 within 1e-4 nats; in bfloat16 the largest difference is printed, and a run that exceeds
`run.max_log_prob_gap` stops with status 3.
"""

import pathlib
import tempfile

import compgen_jax
from compgen_jax.errors import DivergedError
from tests.experiments import history, tiny
from tests.reliability import trial

BOUND = 1e-4  # nats, in float32


def largest(workdir: pathlib.Path, n: int, dtype: str = 'float32', limit: float = 100.0) -> float:
  """The largest difference over all sampled tokens of n updates, in nats.

  With a KL term every sample is learned from, so every token is compared.
  """
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=(), model__dtype=dtype)
  config.stages.sft.steps = 100
  config.stages.rl.steps = n
  config.stages.rl.settings.kl = 0.01
  config.run.max_log_prob_gap = limit
  del config.stages['rft']
  compgen_jax.run(config, workdir)
  rows = history(workdir, 'rl')
  assert rows[-1]['step'] == n
  return max(row['log_prob_gap'] for row in rows)


def main():
  n, faults = trial.number('logprob', 200, 'updates of RL').n, []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    in_float32 = largest(folder / 'float32', n)
    in_bfloat16 = largest(folder / 'bfloat16', n, 'bfloat16')
    try:
      largest(folder / 'stops', n, 'bfloat16', in_bfloat16 / 2)
      faults.append('a gap above the limit did not stop the run')
    except DivergedError as e:
      stopped = str(e)
      if e.exit_status != 3:
        faults.append(f'status {e.exit_status}')
  if not 0 < in_float32 <= BOUND:
    faults.append(f'{in_float32} nats in float32, more than {BOUND}')
  figures = f'{n} updates: at most {in_float32:.2g} nats in float32, {in_bfloat16:.2g} in bfloat16'
  trial.report('logprob', not faults, f'{figures}; {stopped if not faults else ""}', faults)


if __name__ == '__main__':
  main()
