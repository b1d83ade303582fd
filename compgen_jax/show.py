"""Shows problems, golden traces and a model's own traces in readable form, the first wrong step
marked.

python -m compgen_jax.show --config=configs/quickstart.py
problems and golden traces python -m compgen_jax.show --config=configs/quickstart.py
--workdir=runs/quickstart --arm=compound   beside the model's
"""

import pathlib

from absl import flags

from compgen_jax import command_line

_ARM = flags.DEFINE_string('arm', None, 'The stage whose model writes; needs --workdir.')
_SPLIT = flags.DEFINE_string('split', None, 'A split of config.eval.splits; all by default.')
_N = flags.DEFINE_integer('n', 3, 'Problems per split and depth.', lower_bound=1)
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, 'Of sampling; 0 is greedy.', lower_bound=0.0)


def split_steps(tokens: list[int], task) -> list[list[int]]:
  """Cuts a trace into its steps (each begins with a label that a routing token follows) and the
  answer part."""
  pieces: list[list[int]] = [[]]
  for i, token in enumerate(tokens):
    is_label = task.label_0 <= token < task.routing_0
    starts = is_label and i + 1 < len(tokens) and task.routing_0 <= tokens[i + 1] < task.skill_0
    if (starts or token == task.equals) and pieces[-1]:
      pieces.append([])
    pieces[-1].append(token)
  return pieces


def spell(tokens: list[int], task) -> str:
  """Tokens as text: letters run together, everything else is a word."""
  names, words = task.token_names(), []
  for token in tokens:
    name = names[token] if 0 <= token < len(names) else f'<{token}>'
    if 0 <= token < task.alphabet and words and words[-1].startswith("'"):
      words[-1] += name
    else:
      words.append("'" + name if 0 <= token < task.alphabet else name)
  return ' '.join(word.lstrip("'") for word in words)


def compare(said: list[int], golden: list[int], task) -> str:
  """The two traces step by step; the first step that differs is marked."""
  lines, marked = [], False
  ours, theirs = split_steps(said, task), split_steps(golden, task)
  for i in range(min(max(len(ours), len(theirs)), len(theirs) + 1)):
    a = ours[i] if i < len(ours) else []
    b = theirs[i] if i < len(theirs) else []
    if a == b:
      lines.append(f'    {spell(a, task)}')
    else:
      note = '   <-- first wrong step' if not marked else ''
      lines.append(f'  x {spell(a, task) or "(nothing)"}{note}')
      lines.append(f'    golden: {spell(b, task) or "(nothing)"}')
      marked = True
  if len(ours) > len(theirs) + 1:
    lines.append(f'  x ... and {len(ours) - len(theirs) - 1} more')
  return '\n'.join(lines)


def show(config, workdir, arm: str | None, split: str | None, n: int, temperature: float) -> str:
  """The text. `config` is typed; with `arm` the model of that finished stage of `workdir` writes
  too."""
  import jax

  from compgen_jax.config import ConfigError
  from compgen_jax.experiment import run, stages
  from compgen_jax.experiment.evaluate import Evaluator

  if split is not None and split not in config.eval.splits:
    raise ConfigError(f'split={split!r}: legal is {" | ".join(config.eval.splits)}')
  if arm is not None and arm not in config.stages:
    raise ConfigError(f'arm={arm!r}: legal is {" | ".join(config.stages)}')
  if (arm is None) != (workdir is None):
    raise ConfigError(f'arm={arm!r}: --arm and --workdir go together')
  supports, base = run.build_supports(config), run.build_setup(config, n_devices=1)
  evaluator = Evaluator(config, base, supports, {})
  params = None
  if arm is not None:
    stage = stages.build(arm, config, base, supports, pathlib.Path(workdir))
    params = jax.tree.map(lambda x: x[0], stages.trained_params(stage))
  blocks = []
  for name, depth in evaluator.splits:
    if split in (None, name):
      blocks.append(_show_split(evaluator, config, params, name, depth, n, temperature))
  return '\n'.join(blocks)


def _show_split(
  evaluator, config, params, split: str, depth: int, n: int, temperature: float
) -> str:
  import numpy as np

  task = config.task
  real = lambda tokens: [int(t) for t in np.asarray(tokens) if t != task.pad]
  _, rendered = evaluator.problems[split, depth]
  said = evaluator.sample(params, split, depth, temperature) if params is not None else None
  lines = [f'--- {split}, depth {depth}']
  for i in range(min(n, config.eval.problems)):
    golden = real(rendered.trace[i])
    lines.append(spell(real(rendered.prompt[i]), task))
    if said is None:
      lines.append(compare(golden, golden, task))
      continue
    tokens, verdict = said
    right = lambda x: 'right' if bool(x[i]) else 'wrong'
    lines.append(compare(real(tokens.tokens[i]), golden, task))
    lines.append(
      f'    answer {right(verdict.answer)}, structure {right(verdict.structure)}, every step {right(verdict.strict)}'
    )
  return '\n'.join(lines)


def _main():
  command_line.require(config=command_line.CONFIG.value)
  from compgen_jax import config as config_lib

  config = config_lib.from_config_dict(command_line.CONFIG.value)
  print(
    show(config, command_line.WORKDIR.value, _ARM.value, _SPLIT.value, _N.value, _TEMPERATURE.value)
  )


if __name__ == '__main__':
  command_line.launch(_main)
