"""Imports point one way: task -> model -> learning; theory -> task; experiment above all; configs/ is for users only."""

import ast
import pathlib

import compgen_jax

PACKAGE = pathlib.Path(compgen_jax.__file__).parent
MAY_IMPORT = {
  'task': {'task'},
  'model': {'model'},
  'learning': {'learning', 'task', 'model'},
  'theory': {'theory', 'task'},
  'verifier': set(),
  'config': {'task', 'model', 'learning'},
  'benchmark': {'benchmark', 'experiment', 'config', 'task', 'model', 'learning'},
  'experiment': {'experiment', 'config', 'verifier', 'task', 'model', 'learning', 'theory'},
}
PURE = {'task', 'model', 'learning', 'theory'}
IMPURE_MODULES = {'os', 'time', 'pathlib', 'sys', 'subprocess', 'random', 'logging'}


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_imports_point_one_way():
  """A layer that reaches up, a pure layer that touches disk or clock, or a package that needs the user's configs/."""
  for path in PACKAGE.rglob('*.py'):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    for name in _imports(path):
      assert not name.startswith('configs'), f'{path} imports {name}'
      assert layer not in PURE or name.split('.')[0] not in IMPURE_MODULES, f'{path} imports {name}'
      if name.startswith('compgen_jax.') and layer in MAY_IMPORT:
        assert name.split('.')[1] in MAY_IMPORT[layer], f'{path} imports {name}'


def test_no_drawer_for_everything():
  """A utils.py."""
  assert not [
    p for p in PACKAGE.rglob('*.py') if p.stem in ('utils', 'util', 'helpers', 'common', 'misc')
  ]
