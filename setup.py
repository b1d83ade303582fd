"""pip install -e '.[plots,test]'"""

import setuptools

setuptools.setup(
  name='compgen_jax',
  version='0.1.0',
  description='Do SFT and RL turn reasoning traces into reusable modules?',
  packages=setuptools.find_packages(include=['compgen_jax', 'compgen_jax.*']),
  python_requires='>=3.11',
  install_requires=[
    'jax>=0.10',
    'flax>=0.12.8',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'chex>=0.1.92',
    'ml-collections>=1.1',
    'absl-py>=2.1',
    'scipy',  # comes with jax; named because the intervals use it
  ],
  extras_require={
    'plots': ['matplotlib>=3.8'],
    'tb': ['tensorboardX>=2.6'],
    'wandb': ['wandb>=0.19'],
    'test': ['pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.12'],
    'cuda12': ['jax[cuda12]>=0.10'],
    'tpu': ['jax[tpu]>=0.10'],
    'peer': ['torch>=2.6', 'trl>=1.0'],
  },
)
