"""compgen_jax: do SFT and RL turn reasoning traces into reusable modules?"""


def run(config, workdir):
  """Runs an experiment: see `compgen_jax.experiment.run.run`."""
  from compgen_jax.experiment.run import (
    run as _run,
  )  # imported late: `import compgen_jax` stays instant

  return _run(config, workdir)
