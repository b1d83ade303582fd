"""Imports point one way.

task -> model -> learning; theory -> task; experiment above all of them; report shows what
experiment wrote; the commands come last. configs/ is for users only.
"""

import ast
import pathlib
import re

import compgen_jax

PACKAGE = pathlib.Path(compgen_jax.__file__).parent
COMMAND = {'config', 'errors', 'experiment', 'report', 'benchmark', 'command_line'}
EXPERIMENT = {'experiment', 'config', 'schema', 'errors', 'typed', 'statistics', 'verifier'}
EXPERIMENT |= {'task', 'model', 'learning', 'theory'}
REPORT = {
  'report',
  'experiment.files',
  'experiment.workdirs',
  'statistics',
  'config',
  'theory',
  'verifier',
}
# A layer or one module of it ('experiment.run', for which it stands instead of its layer's entry)
# -> the layers, or modules of layers, that it may import.
MAY_IMPORT = {
  'task': {'task'},
  'model': {'model'},
  'learning': {'learning', 'task', 'model'},
  'theory': {'theory', 'task'},
  'theory.__main__': COMMAND,
  'errors': set(),
  'statistics': set(),
  'verifier': {'verifier'},
  'typed': {'errors'},
  'schema': {'errors', 'task', 'model', 'learning'},
  'checks': {'errors'},
  'validation_supports': {'checks', 'schema', 'task'},
  'validation': {'checks', 'validation_supports', 'schema', 'task', 'model', 'learning'},
  'config': {'checks', 'errors', 'schema', 'typed', 'validation', 'learning'},
  'benchmark': {'benchmark', 'experiment', 'config', 'errors', 'task', 'model', 'learning'},
  'experiment': EXPERIMENT,
  'experiment.memory': EXPERIMENT | {'validation'},
  'experiment.run': EXPERIMENT | {'report', 'validation'},
  'report': REPORT,
  'report.progress': REPORT | {'errors'},
  'report.comparison': REPORT | {'experiment.collected'},
  'report.comparison_figures': REPORT | {'experiment.collected'},
  'main': COMMAND,
  'show': COMMAND,
  'watch': COMMAND,
  'bench': COMMAND,
  'collect': COMMAND,
}
PURE = {'task', 'model', 'learning', 'theory', 'statistics'}
# What is longer than the rest, as `FILE` or `FILE FUNCTION` -> the reason.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 60
IMPURE_MODULES = {'os', 'time', 'pathlib', 'sys', 'subprocess', 'random', 'logging'}


# Code that reads or sends what it should not: a pickle runs whatever its maker wrote.
UNSAFE_MODULES = {'pickle', 'cloudpickle', 'dill', 'marshal', 'shelve', 'joblib'}
NETWORK_MODULES = {'socket', 'urllib', 'http', 'requests', 'ftplib', 'smtplib', 'ssl', 'aiohttp'}


def _imports(path):
  """Dotted names, those of imported objects included."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _may_import(importer, imported):
  """Both are parts of dotted names below the package, such as ('experiment', 'files')."""
  allowed = MAY_IMPORT.get('.'.join(importer[:2]), MAY_IMPORT.get(importer[0]))
  return allowed is None or imported[0] in allowed or '.'.join(imported[:2]) in allowed


def test_imports_point_one_way():
  """A layer that reaches up, a pure layer that touches disk or clock, or use of configs/."""
  for path in PACKAGE.rglob('*.py'):
    importer = path.relative_to(PACKAGE).with_suffix('').parts
    for name in _imports(path):
      assert not name.startswith('configs'), f'{path} imports {name}'
      is_pure = importer[0] in PURE
      assert not (is_pure and name.split('.')[0] in IMPURE_MODULES), f'{path} imports {name}'
      if name.startswith('compgen_jax.'):
        assert _may_import(importer, name.split('.')[1:]), f'{path} imports {name}'


def test_no_pickle_and_no_network():
  """A file that runs code when it is read, or a run that needs the network or calls home."""
  for path in PACKAGE.rglob('*.py'):
    text = path.read_text()
    tops = {name.split('.')[0] for name in _imports(path)}
    # A signal wakes a thread through a pair of sockets within the process; and where one run is
    # several processes, they talk to each other.
    talks = path.name in ('interruption.py', 'lifeline.py', 'processes.py')
    own = {'socket'} if talks else set()
    assert not (tops - own) & (UNSAFE_MODULES | NETWORK_MODULES), path
    unsafe = r'allow_pickle|\bnp\.load\(|(?<![\w.])(eval|exec)\('
    assert not re.search(unsafe, text), path


def test_a_module_of_a_layer_is_not_the_layer():
  """A rule for one module that lets in, or out, all the others of its layer."""
  assert _may_import(('report', 'page'), ['experiment', 'files', 'write_bytes'])
  assert not _may_import(('report', 'page'), ['experiment', 'run'])
  assert _may_import(('experiment', 'run'), ['report', 'page'])
  assert not _may_import(('experiment', 'stages'), ['report', 'page'])


def test_no_drawer_for_everything():
  """A utils.py."""
  assert not [
    p for p in PACKAGE.rglob('*.py') if p.stem in ('utils', 'util', 'helpers', 'common', 'misc')
  ]


def test_every_folder_is_a_layer():
  """A new folder that may import anything because no rule is said for it."""
  folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
  assert {'task', 'model', 'learning', 'experiment'} <= folders <= set(MAY_IMPORT)


def _long_functions(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      if node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION:
        yield f'{path.relative_to(PACKAGE)} {node.name}'


def test_files_and_functions_are_short():
  """A file that nobody reads to its end, a function that does several things, and an exception that
  is not needed any more."""
  files = list(PACKAGE.rglob('*.py'))
  long = [p for p in files if len(p.read_text().splitlines()) > MOST_LINES_OF_A_FILE]
  assert {str(path.relative_to(PACKAGE)) for path in long} == set(LONG_FILES)
  assert {name for path in files for name in _long_functions(path)} == set(LONG_FUNCTIONS)


def test_lines_end_within_100_columns():
  """Shell and prose that a screen cuts off. (Ruff sees to Python; rows of tables stay whole.)"""
  root = PACKAGE.parent
  folders = ('launch', 'results', 'tests', 'configs')
  paths = [path for folder in folders for path in sorted((root / folder).rglob('*'))]
  ours = [path for path in paths if path.suffix in ('.sh', '.sbatch', '.yaml', '.md')]
  ours += [root / 'README.md', root / '.ci/run', root / '.ci/ruff.toml']
  assert len(ours) > 20
  wide = [
    f'{path.relative_to(root)}:{i}'
    for path in ours
    for i, line in enumerate(path.read_text().splitlines(), 1)
    if len(line) > 100 and not line.startswith('|')
  ]
  assert wide == []
