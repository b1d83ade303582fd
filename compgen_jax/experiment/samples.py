"""A trace that a model wrote for a problem, judged and shown."""

import dataclasses

from compgen_jax import verifier
from compgen_jax.experiment.problems import TextProblem


@dataclasses.dataclass(frozen=True, repr=False)
class Sample:
  """A trace that a model wrote, and what it gets right.

  `trace` text. `answer`, `structure`, `strict` bool and `first_wrong_step` (int or None) are the
  verdicts of `compgen_jax.verifier.verify`. `reward`: what its stage would earn for it; None where
  the stage does not explore. Printed, the first wrong step is marked and the golden one stands
  below it.
  """

  problem: TextProblem
  trace: str
  answer: bool
  structure: bool
  strict: bool
  first_wrong_step: int | None
  reward: float | None = None

  @property
  def prompt(self) -> str:
    """The problem's prompt."""
    return self.problem.prompt

  @property
  def golden(self) -> str:
    """The golden trace."""
    return self.problem.trace

  @property
  def judged(self) -> str:
    """The trace step by step, and the verdict: all of the text but the prompt."""
    line = self.problem.line()
    answer, structure = ('right' if ok else 'wrong' for ok in (self.answer, self.structure))
    verdict = f'answer {answer}, structure {structure}; {verifier.where(line, self.trace)}'
    reward = '' if self.reward is None else f'; reward {self.reward:g}'
    return f'{verifier.compare(line, self.trace)}\n    {verdict}{reward}'

  def __repr__(self) -> str:
    return f'{self.prompt}\n{self.judged}'
