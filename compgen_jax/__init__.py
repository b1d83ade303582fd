"""compgen_jax: do SFT and RL turn reasoning traces into reusable modules?

The Python interface:

  run(config, workdir)              runs an experiment to its end; returns the rows of its results
  read(workdir)                     the rows of a finished run, as flat dicts (for pandas.DataFrame)
  load(workdir, stage, seed=None)   the model of a finished stage: .evaluate, .sample, .score,
                                    .problems
  export(config, support, n, path)  problems with golden traces as JSONL, to train a model elsewhere
  verify(line, trace)               judges a trace of such a line (compgen_jax.verifier)

A worked example, from the repository root (a minute on 2 CPU cores; a model this small learns
nothing):

  import compgen_jax
  from configs import default

  config = default.get_config()
  config.model.update(d_model=16, n_layers=1, d_ff=32)
  config.stages.sft.steps = 20
  config.eval.update(problems=16, pass_k=())
  rows = compgen_jax.run(config, 'runs/example')

  model = compgen_jax.load('runs/example', 'sft')
  print(model.evaluate('unseen', depths=(2, 3, 4)))  # a table; the rows are dicts
  print(model.sample('bca dd: earlier reverse, merge successor', n=2))  # first wrong step marked
  problem = model.problems('unseen', 1, depth=2)[0]
  print(model.score(problem, problem.trace).total)  # log-probability of the golden trace, in nats

  compgen_jax.export(config, 'sft', 100, 'runs/example/problems.jsonl')
  print(compgen_jax.verify(problem.line(), problem.trace))

Configs are made by configs/*.py. A mistake is a `compgen_jax.config.ConfigError` (a ValueError)
of one line.
"""

import importlib

_HOMES = {
  'run': 'compgen_jax.experiment.run',
  'read': 'compgen_jax.experiment.trained',
  'load': 'compgen_jax.experiment.trained',
  'export': 'compgen_jax.experiment.export',
  'verify': 'compgen_jax.verifier',
}
__all__ = tuple(_HOMES)


def __getattr__(name: str):
  """Imports a function when it is first asked for: `import compgen_jax` stays instant."""
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
