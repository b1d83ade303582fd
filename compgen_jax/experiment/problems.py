"""Problems as text: drawn from a support, read from a prompt, or put together by hand."""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax import verifier
from compgen_jax.config import Config, ConfigError
from compgen_jax.experiment.supports import build_support
from compgen_jax.learning import exploration
from compgen_jax.task import latent, modules, render, strings, tables, text
from compgen_jax.task.latent import Composition
from compgen_jax.task.sampler import Sampler
from compgen_jax.task.strings import String
from compgen_jax.task.support import Support
from compgen_jax.task.verify import verify
from compgen_jax.task.vocab import TaskConfig

ROWS = 256  # problems drawn by one call of the compiled program
BY_HAND = 'bca dd: earlier reverse, merge successor'


@dataclasses.dataclass(frozen=True, repr=False)
class TextProblem:
  """A problem as a person and a line of JSON hold it.

  `prompt`, `trace` (golden), `answer`: text. `inputs`: two strings. `modules`: a (routing
  mechanism, skill) per step, by name. `support`: where it was drawn, '' for a problem given by
  hand. `alphabet`, `reserved`: the letters, and the names that they could spell too (see
  `task.text`): what `compgen_jax.verifier` needs to read a trace.
  """

  id: str
  prompt: str
  trace: str
  answer: str
  inputs: tuple[str, ...]
  depth: int
  modules: tuple[tuple[str, str], ...]
  support: str
  alphabet: str
  reserved: tuple[str, ...]

  def line(self) -> dict:
    """The fields as a dict, as `verifier.verify` and a line of JSON take them."""
    return dataclasses.asdict(self)

  def __repr__(self) -> str:
    return f'{self.prompt}\n{verifier.compare(self.line(), self.trace)}'


# Drawn --------------------------------------------------------------------------------------------


def draw(
  config: Config, support: str, n: int, depth: int | None = None, seed: int | None = None
) -> list[TextProblem]:
  """The first n problems of a support; with `depth`, of its compositions of that depth.

  Problem i is a function of (seed, support, depth, i); seed None is the config's first. Every seed
  has supports of its own.

  Raises:
    ConfigError: no such support, an empty one, one whose problems have dry steps (text can't tell
      their noise from what a problem asks for), or no such depth.
  """
  seed = config.all_seeds[0] if seed is None else seed
  built = _solvable(config, support, seed)
  depths = built.config.depths
  if depth is not None and depth not in depths:
    raise ConfigError(f'depth={depth!r}: legal for {support} is {" | ".join(map(str, depths))}')
  if n < 1:
    raise ConfigError(f'n={n!r}: legal is 1 or more')
  purpose = f'problems of {support}' + ('' if depth is None else f' at depth {depth}')
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
  if depth is not None:  # enough for the last call, which draws more than are wanted
    compositions = tables.sample_at_depth(built, key, depth, n + ROWS, built.depth_cap)
  problems: list[TextProblem] = []
  for first in range(0, n, ROWS):
    ids = np.arange(first, first + ROWS)
    if depth is None:
      chunk = _compositions(key, ids, built.sampler)
    else:
      chunk = jax.tree.map(lambda x: x[ids], compositions)
    rendered = jax.device_get(_rendered(key, ids, chunk, built.task, built.depth_cap))
    for i in ids[: n - first].tolist():
      row = jax.tree.map(lambda x: x[i - first], rendered)
      problems.append(_as_text(row, built.task, f'{support}-{i}', support))
  return problems


def _solvable(config: Config, name: str, seed: int) -> Support:
  solvable = [support for support, c in config.supports.items() if not (c.dry or c.prefix)]
  if name not in solvable:
    kind = 'no support'
    if name in config.supports:
      dry = config.supports[name].dry
      kind = 'a dry support, whose traces are noise' if dry else 'its problems begin with dry steps'
    raise ConfigError(f'support={name!r}: {kind}; legal is {" | ".join(solvable)}')
  return build_support(name, config, seed)


@jax.jit
def _compositions(key: jax.Array, ids: jax.Array, sampler: Sampler) -> Composition:
  def one(i):
    return sampler.sample_composition(jax.random.fold_in(jax.random.fold_in(key, i), 0))

  return jax.vmap(one)(ids)


@functools.partial(jax.jit, static_argnames=('task', 'depth_cap'))
def _rendered(
  key: jax.Array, ids: jax.Array, compositions: Composition, task: TaskConfig, depth_cap: int
) -> render.Rendered:
  def one(i, composition):
    problem_key = jax.random.fold_in(jax.random.fold_in(key, i), 1)
    return render.render(latent.sample(problem_key, composition, task), task, depth_cap)

  return jax.vmap(one)(ids, compositions)


def _as_text(rendered: render.Rendered, task: TaskConfig, name: str, support: str) -> TextProblem:
  def spell(tokens):
    return text.spell([t for t in tokens.tolist() if t != task.pad], task)

  reading = {'alphabet': text.alphabet(task), 'reserved': text.reserved(task)}
  prompt, trace = spell(rendered.prompt), spell(rendered.trace)
  inputs, modules = _named_parts(verifier.segments(prompt, reading))
  answer = verifier.segments(trace, reading)[-2][1]
  depth = len(modules)
  return TextProblem(name, prompt, trace, answer, inputs, depth, modules, support, **reading)


def _named_parts(segments: list[tuple[str, str]]):
  """The inputs and the (routing mechanism, skill) names of a prompt's segments."""
  inputs = tuple(letters for _, letters in segments[1:3])
  entries = [marker for marker, _ in segments[3:-1]]
  return inputs, tuple(zip(entries[1::3], entries[2::3]))


# By hand ------------------------------------------------------------------------------------------


def read(what: TextProblem | str | tuple, task: TaskConfig) -> TextProblem:
  """The problem that is meant, with its golden trace.

  Args:
    what: a TextProblem; a prompt as text; text such as `bca dd: earlier reverse, merge successor`;
      or (inputs, steps), such as (('bca', 'dd'), [('earlier', 'reverse'), ('merge', 'successor')]).
    task: the task.

  Raises:
    ConfigError: it is no problem of this task; one line that says what is legal.
  """
  if isinstance(what, TextProblem):
    return dataclasses.replace(_from_prompt(what.prompt, task), id=what.id, support=what.support)
  if isinstance(what, str):
    return _from_short_form(what, task) if ':' in what else _from_prompt(what, task)
  try:
    inputs, steps = what
    inputs, steps = tuple(inputs), [tuple(step) for step in steps]
  except (TypeError, ValueError):
    raise ConfigError(f'{what!r}: legal is a text, or (inputs, steps)') from None
  return by_hand(inputs, steps, task)


def by_hand(
  inputs: Sequence[str], steps: Sequence[Sequence[str]], task: TaskConfig, first_label: int = 0
) -> TextProblem:
  """The problem of two inputs and (routing mechanism, skill) names.

  Raises:
    ConfigError: an input, the depth or a name is not of this task.
  """
  names = task.token_names()
  routings = names[task.routing_0 : task.skill_0]
  skills = names[task.skill_0 : task.special_0]
  letters = text.alphabet(task)
  if len(inputs) != 2:
    raise ConfigError(f'{len(inputs)} inputs; legal are two, as in {BY_HAND!r}')
  for word in inputs:
    if not isinstance(word, str) or set(word) - set(letters):
      raise ConfigError(f'input {word!r}: legal are letters of {letters!r}')
    if not 1 <= len(word) <= task.max_input:
      raise ConfigError(f'input {word!r}: legal are 1 to {task.max_input} letters')
  if not 1 <= len(steps) <= task.max_depth:
    raise ConfigError(f'{len(steps)} steps; legal are 1 to task.max_depth={task.max_depth}')
  for step in steps:
    if len(step) != 2:
      raise ConfigError(f'step {" ".join(step)!r}: legal is a routing mechanism and a skill')
    _require_name(step[0], routings, 'routing mechanism')
    _require_name(step[1], skills, 'skill')
  rendered = jax.device_get(_golden(*_arrays(inputs, steps, first_label, task), task))
  return _as_text(rendered, task, 'by hand', '')


def _arrays(
  inputs: Sequence[str], steps: Sequence[Sequence[str]], first_label: int, task: TaskConfig
) -> tuple[Composition, String, np.int32]:
  """What determines a problem, as arrays; the inputs have a leading axis of two."""
  routings, skills = (
    modules.names(inventory) for inventory in (task.routing_inventory, task.skill_inventory)
  )
  composition = Composition(
    np.int32(len(steps)),
    _padded([routings.index(routing) for routing, _ in steps], task.max_depth),
    _padded([skills.index(skill) for _, skill in steps], task.max_depth),
  )
  letters = text.alphabet(task)
  letters_2xW = np.stack([_padded(map(letters.index, word), task.width) for word in inputs])
  words = String(letters_2xW, np.array([len(word) for word in inputs], np.int32))
  return composition, words, np.int32(first_label)


def rewards(
  problem: TextProblem, traces_BxC: np.ndarray, reward: str, task: TaskConfig
) -> list[float]:
  """What stages that explore would earn for traces (tokens) of one problem.

  `reward`: a name in `exploration.REWARDS`.
  """
  first_label = task.token_names().index(problem.prompt.split()[1]) - task.label_0
  posed = _arrays(problem.inputs, problem.modules, first_label, task)
  return np.asarray(_rewards(*posed, traces_BxC, reward, task)).astype(float).tolist()


@functools.partial(jax.jit, static_argnames=('reward', 'task'))
def _rewards(composition, inputs, first_label, traces_BxC, reward: str, task: TaskConfig):
  problem = _pose(composition, inputs, first_label, task)
  verdict_B = jax.vmap(lambda trace: verify(problem, trace, task))(traces_BxC)
  return exploration.REWARDS[reward](verdict_B, composition.depth)


def _require_name(name: str, legal: Sequence[str], what: str) -> None:
  if name not in legal:
    raise ConfigError(f'{what} {name!r}: legal is {" | ".join(legal)}')


def _padded(numbers: Iterable[int], width: int) -> np.ndarray:
  out = np.zeros((width,), np.int32)
  numbers = list(numbers)
  out[: len(numbers)] = numbers
  return out


@functools.partial(jax.jit, static_argnames='task')
def _golden(composition: Composition, inputs: String, first_label: jax.Array, task: TaskConfig):
  return render.render(_pose(composition, inputs, first_label, task), task, task.max_depth)


def _pose(composition: Composition, inputs: String, first_label: jax.Array, task: TaskConfig):
  made = jax.vmap(lambda letters, n: strings.make(letters, n))(*inputs)
  return latent.problem(composition, made, jnp.int32(first_label), task)


def _from_short_form(what: str, task: TaskConfig) -> TextProblem:
  inputs, _, steps = what.partition(':')
  return by_hand(inputs.split(), [step.split() for step in steps.split(',')], task)


def _from_prompt(prompt: str, task: TaskConfig) -> TextProblem:
  try:
    tokens = text.parse(prompt, task)
  except ValueError as e:
    raise ConfigError(f'prompt {prompt!r}: {e}') from e
  reading = {'alphabet': text.alphabet(task), 'reserved': text.reserved(task)}
  segments = verifier.segments(text.spell(tokens, task), reading)
  labels = task.token_names()[task.label_0 : task.routing_0]
  ends_ok = segments[:1] + segments[-1:] == [('solve', ''), ('=', '')]
  problem = None
  if ends_ok and len(segments) >= 4 and segments[1][0] in labels:
    inputs, modules = _named_parts(segments)
    problem = by_hand(inputs, modules, task, labels.index(segments[1][0]))
  if problem is None or text.parse(problem.prompt, task) != tokens:
    names = task.token_names()
    modules = [(names[task.routing_0], names[task.skill_0])]
    example = by_hand(('ab', 'ba'), modules, task).prompt
    raise ConfigError(f'prompt {prompt!r}: legal is a prompt such as {example!r}')
  return problem
