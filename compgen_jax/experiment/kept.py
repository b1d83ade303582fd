"""Traces that are kept at the end of a stage, as text."""

from typing import Any

from compgen_jax.model.rollout import Rollout
from compgen_jax.task import text
from compgen_jax.task.render import Rendered
from compgen_jax.task.vocab import TaskConfig

KEPT = 64  # problems of a (split, depth) whose traces are kept: enough to find one of each fate


def first_problems(rendered: Rendered, rollout: Rollout, task: TaskConfig) -> list[dict[str, Any]]:
  """The first problems and what was written for them: see `evaluate.Evaluation`."""
  tokens = rendered.prompt, rendered.trace, rollout.tokens
  reading = {'alphabet': text.alphabet(task), 'reserved': list(text.reserved(task))}
  found = []
  for i, rows in enumerate(zip(*(x[:KEPT] for x in tokens))):
    words = (text.spell([t for t in row.tolist() if t != task.pad], task) for row in rows)
    found.append({'problem': i} | dict(zip(('prompt', 'trace', 'written'), words)) | reading)
  return found
