"""The task's settings and its tokens.

Letters come first (ids 0 .. alphabet - 1), so that a model can tell content from structure by one comparison.
Every other token *heads* a segment: the letters that follow it belong to it.
"""

import dataclasses
import functools

from compgen_jax.task.routing import ROUTINGS
from compgen_jax.task.skills import SKILLS

SPECIALS = ('solve', '=', 'end', 'pad')


def _pick(registry, names):
  by_name = {entry.__name__: entry for entry in registry}
  return tuple(by_name[name] for name in names) if names else tuple(registry)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """The task (config section `task`): see configs/default.py for what each field means."""

  alphabet: int
  width: int
  min_input: int
  max_input: int
  max_depth: int
  n_labels: int
  trace: str
  skills: tuple[str, ...]
  routings: tuple[str, ...]

  @functools.cached_property
  def skill_inventory(self):
    """The skill functions in use, by index."""
    return _pick(SKILLS, self.skills)

  @functools.cached_property
  def routing_inventory(self):
    """The routing entries in use, by index."""
    return _pick(ROUTINGS, self.routings)

  @property
  def n_skills(self) -> int:
    return len(self.skill_inventory)

  @property
  def n_routings(self) -> int:
    return len(self.routing_inventory)

  # Token ids: letters, labels, routing mechanisms, skills, specials.
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
    """Tokens of the longest prompt of up to `depth` steps: `solve`, two named inputs, (label, routing, skill)s, `=`."""
    return 1 + 2 * (1 + self.max_input) + 3 * depth + 1

  def trace_width(self, depth: int) -> int:
    """Tokens of the longest golden trace of up to `depth` steps, `end` included."""
    strings_per_step = 2 if self.trace == 'explicit' else 1
    return depth * (4 + strings_per_step * self.width) + 1 + self.width + 1

  def dry_width(self, steps: int) -> int:
    """Tokens of the longest `steps` leading steps of a trace and the label behind them, or 0."""
    strings_per_step = 2 if self.trace == 'explicit' else 1
    return steps * (4 + strings_per_step * self.width) + 1 if steps else 0

  def token_names(self) -> tuple[str, ...]:
    """How each token is shown to a person: letters `a`..., labels `A`..., modules by name."""
    letters = [chr(ord('a') + i) for i in range(self.alphabet)]
    labels = [chr(ord('A') + i) for i in range(self.n_labels)]
    modules = [entry.__name__ for entry in self.routing_inventory + self.skill_inventory]
    return tuple(letters + labels + modules + list(SPECIALS))
