"""Hand-made "models": they write right traces but for the errors that they are told to make.

After an error they go on from what they wrote, so that each step is right or wrong by itself.
"""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from compgen_jax import config as config_lib
from compgen_jax.config import Config
from compgen_jax.experiment import files, run
from compgen_jax.experiment.evaluate import Evaluation
from compgen_jax.experiment.record import Record
from compgen_jax.experiment.replicate import Replicate
from compgen_jax.task import skills
from compgen_jax.task.modules import Module
from compgen_jax.task.vocab import TaskConfig
from tests import helpers, reference

# (steps, i, parents of step i) -> what is wrong there: "", "operand", "result", both of these,
# or the name of a skill that is used in place of the one that is asked for.
Errs = Callable[[tuple[tuple[str, str], ...], int, tuple[str, ...]], str]


def copy_of_climb(s, alphabet):
  """A second name for a skill."""
  return skills.climb(s, alphabet)


class TaskWithCopy(TaskConfig):
  """A task whose registry of skills has one of them twice."""

  @functools.cached_property
  def skill_inventory(self):
    registry = {skill.name: skill for skill in (*skills.SKILLS, Module(copy_of_climb))}
    return tuple(registry[name] for name in self.skills)


SKILLS = reference.SKILLS | {'copy_of_climb': reference.SKILLS['climb']}
# Small, and the same for all tests, because what reads traces is compiled once per task and N.
TASK = TaskWithCopy(
  max_depth=3,
  routings=('previous', 'earlier', 'merge', 'first_input'),
  skills=('reverse', 'fork', 'climb', 'successor', 'sort_up', 'copy_of_climb'),
)
N = 600


def perfect(steps, i, parents) -> str:
  return ''


def parents(steps, i) -> tuple[str, ...]:
  """Names of the skills that made what step i reads of the last two values, or 'input'."""
  makers = ['input', 'input', *(skill for _, skill in steps[:i])]
  reads = reference.READS[steps[i][0]]
  read = [makers[-1]] * ('previous' in reads) + [makers[-2]] * ('earlier' in reads)
  return tuple(read) or ('input',)


def wrong(word: str, letters: str) -> str:
  """Another word of the same length."""
  return word[:-1] + letters[(letters.index(word[-1]) + 1) % len(letters)]


def trace(problem: reference.Problem, task: reference.Task, errs: Errs) -> list[str]:
  """An oracle's trace, as token names."""
  values, tokens = list(problem.inputs), []
  for i, (routing, skill) in enumerate(problem.steps):
    what = errs(problem.steps, i, parents(problem.steps, i))
    operand = reference.route(routing, values, task.letters, task.width)
    operand = wrong(operand, task.letters) if 'operand' in what else operand
    used = what if what in SKILLS else skill
    result = SKILLS[used](operand, task.letters, task.width)
    result = wrong(result, task.letters) if 'result' in what else result
    label = reference.label(problem, task, i + 2)
    tokens += [label, routing, skill, *(operand if task.explicit else ''), label, *result]
    values.append(result)
  return [*tokens, '=', *values[-1], 'end']


def problems_of(problems, task) -> list[reference.Problem]:
  """The package's problems (leading axis) as reference ones."""
  problems = jax.device_get(problems)
  rows = helpers.steps(problems.composition, task)
  inputs = jax.tree.map(lambda v: v[:, :2].reshape(-1, *v.shape[2:]), problems.values)
  words = helpers.decode(inputs)
  return [
    reference.Problem(row, tuple(words[2 * i : 2 * i + 2]), int(problems.first_label[i]))
    for i, row in enumerate(rows)
  ]


def writer(task, errs: Errs, n_columns: int = 128):
  """An oracle as `experiment.asking` takes it."""

  def write(problems, rendered, key, ids_B, temperature):
    del rendered, key, temperature
    rows = [trace(p, helpers.reference_task(task), errs) for p in problems_of(problems, task)]
    out = np.full((len(ids_B), n_columns), task.pad, np.int32)
    for i, tokens in enumerate(rows):
      out[i, : len(tokens)] = helpers.token_ids(tokens, task)
    return out

  return write


def write_run(
  folder: pathlib.Path,
  config: Config,
  answers: Callable[[Replicate], dict[str, dict[str, list[bool]]]],
) -> None:
  """Fills the workdir of a run in which oracles stand for trained models.

  `answers(replicate)`: arm -> 'SPLIT/DEPTH' -> whether each problem was answered right. An arm that
  is left out is still to come.
  """
  files.write_json(folder / 'config.json', config_lib.to_dict(config))
  setup = run.build_setup(config, n_devices=1)
  for seed in config.all_seeds:
    replicate = run.build_replicate(config, setup, seed)
    for arm, items in answers(replicate).items():
      record = Record(folder, config, arm, seed)
      record.write_evaluation(Evaluation([], items), replicate.evaluator.settings)
