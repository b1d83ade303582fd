"""Arms, splits and contrasts in words that ask for no knowledge of the config."""

from collections.abc import Iterable

from compgen_jax.config import Config

TASK = (
  'A problem gives two strings and a list of steps, its composition. Each step is a pair of '
  'modules: a routing mechanism, which picks or builds an operand from the strings so far, and a '
  'skill, which maps the operand to a new string. The model sees names of modules, never their '
  'definitions. It writes every step and then the answer, which is right if it is the last string, '
  'letter by letter.'
)


def listed(parts: Iterable[str]) -> str:
  """`a`, `a and b`, `a, b and c`."""
  *others, last = parts
  return f'{", ".join(others)} and {last}' if others else last


def steps(depths: Iterable[int]) -> str:
  """`1 step`, `2 and 3 steps`, `4 to 8 steps`."""
  depths = sorted(depths)
  if depths == [1]:
    return '1 step'
  if len(depths) > 2 and depths == list(range(depths[0], depths[-1] + 1)):
    return f'{depths[0]} to {depths[-1]} steps'
  return f'{listed(map(str, depths))} steps'


def arm(config: Config, name: str) -> str:
  """`SFT`, `RL on compounds`, `continued SFT`; with the arm's name behind it where two are
  alike."""
  mine = _arm(config, name)
  alone = [_arm(config, other) for other in config.stages].count(mine) == 1
  return mine if alone else f'{mine} ({name})'


def _arm(config: Config, name: str) -> str:
  stage, kind = config.stages[name], config.kind(name)
  words = kind.words or stage.kind
  if kind.explores:
    plain = [data for data in stage.data if not config.supports[data].prefix] or stage.data
    anchored = ', anchored in SFT' if config.settings(name).anchor else ''
    return f'{words} on {listed(plain)}{anchored}'
  continues = bool(stage.parent) and config.stages[stage.parent].kind == stage.kind
  return f'continued {words}' if continues else words


def history(config: Config, name: str) -> str:
  """The arm and what it starts from: `SFT, then RL on compounds`."""
  line = [name]
  while config.stages[line[0]].parent:
    line.insert(0, config.stages[line[0]].parent)
  foreign = config.stages[line[0]].foreign_parent
  start = [f'{foreign[1]} of {foreign[0]}'] if foreign else []
  return ', then '.join(start + [arm(config, stage) for stage in line])


def split(config: Config, name: str) -> str:
  """What the compositions of a split have to do with training: `compositions never trained on`."""
  support = config.supports[config.eval.splits[name]]
  trained = {data for stage in config.stages.values() for data in stage.data}
  trained |= {config.eval.splits[other] for other in config.eval.trained}
  deepest = max((max(config.supports[d].depths) for d in trained if _shows(config, d)), default=0)
  if tuple(support.depths) == (1,):
    words = 'single steps'
  elif name in config.eval.trained:
    words = 'compositions trained on, with new inputs'
  elif min(support.depths) > deepest:
    words = 'compositions deeper than any trained on'
  else:
    words = 'compositions never trained on'
  wanted = (*support.with_routings, *support.with_skills, *support.with_pairs)
  without = (*support.without_routings, *support.without_skills, *support.without_pairs)
  words += f' that use one of {listed(wanted)}' if wanted else ''
  words += f' without {listed(without)}' if without else ''
  return words + (', behind given dry steps' if support.prefix else '')


def _shows(config: Config, support: str) -> bool:
  """Whether a support shows modules at work."""
  return not config.supports[support].dry


def place(config: Config, name: str, depth: int) -> str:
  """A split and one of its depths, 0 for all of them: `unseen, mean over 2 and 3 steps`."""
  depths = config.supports[config.eval.splits[name]].depths
  mean = 'mean over ' if not depth and len(depths) > 1 else ''
  return f'{name}, {mean}{steps((depth,) if depth else depths)}'


def contrast(config: Config, terms: tuple) -> tuple[str, str]:
  """What is compared and where: `('RL on compounds − SFT', 'unseen, 3 steps')`.

  Where terms differ in split or depth, each carries its own, and `where` is ''.
  """
  places = [place(config, split, depth) for _, _, split, depth in terms]
  is_shared = len(set(places)) == 1
  text = ''
  for (weight, name, _, _), where in zip(terms, places):
    if text:
      text += ' + ' if weight >= 0 else ' − '
    elif weight < 0:
      text += '−'
    factor = '' if abs(weight) == 1 else f'{abs(weight):g} × '
    text += factor + arm(config, name) + ('' if is_shared else f' ({where})')
  return text, places[0] if is_shared else ''
