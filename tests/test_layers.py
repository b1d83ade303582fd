"""Imports point one way: task -> model -> learning -> experiment -> report; files stay readable."""

import ast
import pathlib

import pytest

import compgen_jax

PACKAGE = pathlib.Path(compgen_jax.__file__).parent
# What the checks of a config need, and what everything above the config may use.
_CONFIG = {'config', 'errors', 'typed', 'task', 'model', 'learning'}
_ABOVE = _CONFIG | {'validation', 'statistics', 'experiment', 'theory'}
# A layer is a folder of the package, or a file beside the folders.
MAY_IMPORT = {
  'errors': set(),
  'statistics': set(),
  'verifier': {'task'},
  'task': {'task'},
  'model': {'model'},
  'learning': {'learning', 'task', 'model'},
  'theory': {'theory', 'task'},
  'typed': {'errors'},
  'validation': _CONFIG,
  'config': _CONFIG | {'validation'},
  'experiment': _ABOVE | {'report'},  # `run` has the report written at its end
  'report': _ABOVE | {'report'},
  'benchmark': _ABOVE | {'benchmark'},
}
PURE = {'task', 'model', 'learning', 'theory'}
IMPURE_MODULES = {'os', 'time', 'pathlib', 'sys', 'subprocess', 'random', 'logging'}
# Longer than the rest for a reason: `FILE` or `FILE FUNCTION` -> why.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 60
FILES = sorted(PACKAGE.rglob('*.py'))


def _name(path: pathlib.Path) -> str:
  return str(path.relative_to(PACKAGE))


def _layer(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=_name)
def test_imports_point_one_way(path):
  """A layer that reaches up, a pure layer that touches disk or clock, or a package that needs the
  user's configs/."""
  layer = _layer(path)
  for name in _imports(path):
    assert not name.startswith('configs'), name
    assert layer not in PURE or name.split('.')[0] not in IMPURE_MODULES, name
    if name.startswith('compgen_jax.') and layer in MAY_IMPORT:
      assert name.split('.')[1] in MAY_IMPORT[layer], name


def test_every_folder_is_a_layer():
  """A new folder that may import anything because no rule is said for it."""
  folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
  assert {'task', 'model', 'learning', 'experiment'} <= folders <= set(MAY_IMPORT)


def test_no_drawer_for_everything():
  """A utils.py."""
  drawers = {'utils', 'util', 'helpers', 'common', 'misc'}
  assert not [path for path in FILES if path.stem in drawers]


def test_files_are_short():
  """A file that nobody reads to its end."""
  long = {_name(f) for f in FILES if len(f.read_text().splitlines()) > MOST_LINES_OF_A_FILE}
  assert long == set(LONG_FILES)


def test_functions_are_short():
  """A function that does several things."""
  long = set()
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION:
          long.add(f'{_name(path)} {node.name}')
  assert long == set(LONG_FUNCTIONS)
