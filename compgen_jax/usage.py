"""What --help prints: the commands, the flags of this one, and every knob.

All of it is read from where it stands: docstrings, flags, and the comments of configs/default.py.
"""

import ast
import io
import pathlib
import textwrap
import tokenize
from typing import NamedTuple

from absl import flags

PACKAGE = pathlib.Path(__file__).parent
DEFAULTS = PACKAGE.parent / 'configs' / 'default.py'
# A function of configs/default.py that makes a named entry -> where such entries stand.
ENTRIES = {'support': 'supports.NAME', 'stage': 'stages.NAME', 'get_config': ''}


class Knob(NamedTuple):
  """A field of the config: its path, its default as it is written, and its comment."""

  path: str
  default: str
  comment: str


def text(program: str) -> str:
  """The whole help. `program` is `sys.argv[0]`, whose flags are listed."""
  parts = ['Commands, from the top of the checkout:\n']
  for name, what in commands().items():
    parts.append(_entry(f'python -m compgen_jax.{name}', '', what))
  own = flags.FLAGS.get_flags_for_module(program)
  shared = [flags.FLAGS['config'], flags.FLAGS['workdir']]
  parts.append('\nFlags:\n')
  for flag in shared + own:
    has_default = flag.name != 'config' and flag.default not in (None, [])
    parts.append(_entry(f'--{flag.name}', str(flag.default) if has_default else '', flag.help))
  if DEFAULTS.exists():  # in a checkout
    parts.append('\nKnobs (configs/default.py), set by --config.PATH=VALUE:\n')
    parts += [_entry(*knob) for knob in knobs(DEFAULTS.read_text(encoding='utf-8'))]
  return ''.join(parts)


def commands() -> dict[str, str]:
  """Name of each module that can be run -> the first line of its docstring."""
  found = {}
  for path in sorted([*PACKAGE.glob('*.py'), *PACKAGE.glob('*/__main__.py')]):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if any(ast.unparse(call) == 'command_line.launch' for call in calls):
      name = path.parent.name if path.stem == '__main__' else path.stem
      found[name] = ast.get_docstring(tree).splitlines()[0]
  return found


def knobs(source: str) -> list[Knob]:
  """Every `config.PATH = VALUE  # comment` of a config file, in its order.

  The comment may stand in the line, inside of parentheses, or in lines of its own above.
  """
  comments: dict[int, str] = {}  # line -> its comment
  alone: set[int] = set()  # lines that are nothing but a comment
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      comments[token.start[0]] = token.string.lstrip('# ')
      if not token.line[: token.start[1]].strip():
        alone.add(token.start[0])
  found = []
  for function in ast.parse(source).body:
    if isinstance(function, ast.FunctionDef) and function.name in ENTRIES:
      for node in function.body:
        path = _path(node)
        is_section = path and ast.unparse(node.value).startswith('ConfigDict(')
        if path and not (is_section and node.lineno not in comments):
          prefix = f'{ENTRIES[function.name]}.' if ENTRIES[function.name] else ''
          inside = [comments[i] for i in range(node.lineno, node.end_lineno + 1) if i in comments]
          above = node.lineno - 1
          while not inside[:1] and above in alone:
            above -= 1
          inside = inside or [comments[i] for i in range(above + 1, node.lineno)]
          is_given = isinstance(node.value, ast.Name)  # by the caller of `stage`
          default = '' if is_section or is_given else ast.unparse(node.value)
          found.append(Knob(prefix + path, default, ' '.join(inside)))
  return found


def _path(node: ast.stmt) -> str:
  """`a.b` of an assignment to `config.a.b`; '' for any other statement."""
  if not isinstance(node, ast.Assign) or len(node.targets) != 1:
    return ''
  start, _, path = ast.unparse(node.targets[0]).partition('.')
  return path if start == 'config' else ''


def _entry(name: str, default: str, comment: str) -> str:
  """Name and default, and the comment beside or below them."""
  head = f'  {name:<28} {default:<12} '
  comment = ' '.join(comment.split())
  if len(head) > 44:
    head = f'{head.rstrip()}\n{" " * 44}'
  return textwrap.fill(comment, 100, initial_indent=head, subsequent_indent=' ' * 44) + '\n'
