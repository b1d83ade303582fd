"""The task's settings and its tokens.

Letters come first (ids 0 to alphabet - 1), so one comparison tells a letter from any other token.
Every other token is a *marker*: it starts a segment, and the letters behind it are the segment's
string.
"""

import dataclasses
import functools
from collections.abc import Sequence

from compgen_jax.task import modules
from compgen_jax.task.modules import Module
from compgen_jax.task.routing import ROUTINGS, Routing
from compgen_jax.task.skills import SKILLS

SPECIALS = ('solve', '=', 'end', 'pad')


def _label_name(i: int) -> str:
  letter, turn = chr(ord('A') + i % 26), i // 26 + 1
  return letter if turn == 1 else f'{letter}{turn}'


def _pick(registry: Sequence[Module], names: Sequence[str]) -> tuple[Module, ...]:
  """The modules of these names in this order; the whole registry if there are none."""
  by_name = {module.name: module for module in registry}
  return tuple(by_name[name] for name in names) if names else tuple(registry)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """The task (config section `task`): see configs/default.py for what each field means."""

  alphabet: int = 8
  width: int = 6
  min_input: int = 3
  max_input: int = 4
  max_depth: int = 8
  n_labels: int = 10
  trace: str = 'explicit'
  skills: tuple[str, ...] = ()
  routings: tuple[str, ...] = ()

  def resolved(self) -> 'TaskConfig':
    """The same task with the names of all modules written out."""
    return dataclasses.replace(
      self,
      skills=modules.names(self.skill_inventory),
      routings=modules.names(self.routing_inventory),
    )

  @functools.cached_property
  def skill_inventory(self) -> tuple[Module, ...]:
    """The skills in use, by index."""
    return _pick(SKILLS, self.skills)

  @functools.cached_property
  def routing_inventory(self) -> tuple[Routing, ...]:
    """The routing mechanisms in use, by index."""
    return _pick(ROUTINGS, self.routings)

  @property
  def n_skills(self) -> int:
    return len(self.skill_inventory)

  @property
  def n_routings(self) -> int:
    return len(self.routing_inventory)

  # Token ids, in this order: letters, labels, routing mechanisms, skills, specials.
  @property
  def label_0(self) -> int:
    return self.alphabet

  @property
  def routing_0(self) -> int:
    return self.label_0 + self.n_labels

  @property
  def skill_0(self) -> int:
    return self.routing_0 + self.n_routings

  @property
  def special_0(self) -> int:
    return self.skill_0 + self.n_skills

  @property
  def solve(self) -> int:
    return self.special_0

  @property
  def equals(self) -> int:
    return self.special_0 + 1

  @property
  def end(self) -> int:
    return self.special_0 + 2

  @property
  def pad(self) -> int:
    return self.special_0 + 3

  @property
  def vocab_size(self) -> int:
    return self.special_0 + len(SPECIALS)

  def prompt_width(self, depth: int) -> int:
    """Tokens of the longest prompt of up to `depth` steps.

    These are `solve`, two labelled inputs, (label, routing mechanism, skill) a step, and `=`.
    """
    return 1 + 2 * (1 + self.max_input) + 3 * depth + 1

  def trace_width(self, depth: int) -> int:
    """Tokens of the longest golden trace of up to `depth` steps, `end` included."""
    strings_per_step = 2 if self.trace == 'explicit' else 1
    return depth * (4 + strings_per_step * self.width) + 1 + self.width + 1

  def dry_width(self, steps: int) -> int:
    """Tokens of the longest `steps` first steps of a trace and the label behind them; 0 for
    none."""
    strings_per_step = 2 if self.trace == 'explicit' else 1
    return steps * (4 + strings_per_step * self.width) + 1 if steps else 0

  def token_names(self) -> tuple[str, ...]:
    """How each token is shown to a person: letters `a`, labels `A`..., modules by name."""
    letters = tuple(chr(ord('a') + i) for i in range(self.alphabet))
    labels = tuple(_label_name(i) for i in range(self.n_labels))
    routings, skills = modules.names(self.routing_inventory), modules.names(self.skill_inventory)
    return letters + labels + routings + skills + SPECIALS
