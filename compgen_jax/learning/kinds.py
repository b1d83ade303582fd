"""The kinds of stage. To add one: a file with a config section and a step, and an entry here.

The section is a subclass of `Section`, or of `ExploringSection` for a kind that samples traces and
is rewarded for them. Its values stand in configs/default.py; what is not written there is the
class' default.
"""

import dataclasses
from collections.abc import Callable

from compgen_jax.learning import policy_gradient, rejection, sft
from compgen_jax.learning.policy_gradient import RLConfig
from compgen_jax.learning.rejection import RFTConfig
from compgen_jax.learning.section import ExploringSection, Section
from compgen_jax.learning.sft import SFTConfig


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of stage: the class of its config section and its step (see `state.py`).

  `words`: how reports call it; '' is its name.
  """

  section: type[Section]
  step: Callable
  words: str = ''

  @property
  def explores(self) -> bool:
    """Whether a stage of this kind samples traces: it then needs a parent, and problems with
    answers."""
    return issubclass(self.section, ExploringSection)


KINDS: dict[str, Kind] = {
  'sft': Kind(SFTConfig, sft.step, 'SFT'),
  'rl': Kind(RLConfig, policy_gradient.step, 'RL'),
  'rft': Kind(RFTConfig, rejection.step, 'rejection fine-tuning'),
}
