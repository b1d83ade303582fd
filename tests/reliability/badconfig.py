"""Is every malformed config, flag and workdir refused in one line?

  python -m tests.reliability.badconfig

Runs the command itself on each of CASES, in a child of this process. What it has to do: write one
line to stderr that names the field (`names`) and says what is legal, exit with status 2, compile
nothing, and leave the workdir as it was. Prints one line, and one for each case that fell short.
Exits with 1 where there is one.
"""

import os
import pathlib
import re
import sys
import tempfile
import traceback
from typing import NamedTuple

from absl import logging

from compgen_jax import command_line, main
from compgen_jax.experiment import run, workdirs

LONG = 'x' * 300


class Case(NamedTuple):
  """Flags beside --config and --workdir, and what the message has to name.

  `file`: the source of a config file, or the path of one. `workdir`: below a folder that holds an
  empty file `file`. `compiles`: whether it takes a compiled program to find out.
  """

  names: str
  flags: tuple[str, ...] = ()
  file: str = 'configs/quickstart.py'
  workdir: str = 'w'
  compiles: bool = False


def value(field: str, text: str, names: str = '') -> Case:
  """A field of the config, given by a flag."""
  return Case(names or field, (f'--config.{field}={text}',))


def changed(body: str, names: str) -> Case:
  """A config file that changes the quickstart's config."""
  lines = ''.join(f'  {line}\n' for line in body.splitlines())
  head = 'from configs import default, quickstart\ndef get_config():\n'
  return Case(names, file=f'{head}  config = quickstart.get_config()\n{lines}  return config\n')


DEF = 'def get_config():\n'
# Files that make no config.
OF_FILES = (
  Case('line 1: SyntaxError', file='def get_config(:\n  pass\n'),
  Case('line 3: IndentationError', file=f'{DEF}  x = 1\n    y = 2\n'),
  Case('line 1: ModuleNotFoundError', file='import nothing_of_that_name\n'),
  Case('line 1: ImportError', file='from configs import nothing_of_that_name\n'),
  Case('line 2: ValueError: so what', file=f'{DEF}  raise ValueError("so\\nwhat")\n'),
  Case('line 2: TypeError', file=f'{DEF}  return len(3)\n'),
  Case('line 2: ZeroDivisionError', file=f'{DEF}  return 1 / 0\n'),
  Case('line 2: KeyError', file=f'{DEF}  return {{}}["a"]\n'),
  Case('line 2: FileNotFoundError', file=f'{DEF}  return open("/nowhere")\n'),
  Case('line 2: RecursionError', file=f'{DEF}  return get_config()\n'),
  Case('line 3: ZeroDivisionError', file=f'print("hello")\n{DEF}  return 1 / 0\n'),
  Case('line 3: AttributeError', file=f'import sys\n{DEF}  return sys.nothing\n'),
  Case('line 1: it ends the program', file='exit()\n'),
  Case('line 2: it ends the program', file=f'{DEF}  raise SystemExit(0)\n'),
  Case('returned None', file=f'{DEF}  pass\n'),
  Case('returned {}', file=f'{DEF}  return {{}}\n'),
  Case('returned 3', file=f'{DEF}  return 3\n'),
  Case("no attribute 'get_config'", file='x = 1\n'),
  Case("no attribute 'get_config'", file='#\n'),
  Case('is not callable', file='get_config = 3\n'),
  Case('missing 1 required', file='def get_config(x):\n  return x\n'),
  Case('SyntaxError', file='\x00\x01\x02'),
  Case('SyntaxError', file='This is a note, not a program.\n'),
  Case('no such file', file='configs'),
  Case('no such file', file='nowhere.py'),
  Case('takes 0 positional arguments', file='configs/quickstart.py:small'),
  changed('del config.model', 'model: missing'),
  changed('del config.model.d_ff', 'model.d_ff: missing'),
  changed('config.modle = 3', 'modle: no such field'),
  changed('config.rl.ler = 3.0', 'rl.ler: no such field'),
  changed('config.model = 3', 'model'),
  changed('config.stages.sft.settings = 3', "Could not override field 'settings'"),
)  # fmt: skip
# Flags that no config has.
OF_FLAGS = (
  Case('--config is missing', file=''),
  Case('--config is missing', ('--config.seed=3',), file=''),
  Case('--workdir is missing', workdir=''),
  Case("config.modle.d_model: no such field as 'modle'", ('--config.modle.d_model=3',)),
  Case("config.model.d_modle: no such field as 'd_modle'", ('--config.model.d_modle=3',)),
  Case('config.seed.x', ('--config.seed.x=3',)),
  Case('config.stages.atomc', ('--config.stages.atomc.steps=3',)),
  Case("stray argument 'config.seed=3'", ('config.seed=3',)),
  Case("stray argument '3'", ('3',)),
  Case('wrkdir', ('--wrkdir=3',)),
  Case('config.seed', ('--config.seed',)),
  Case('config.model=3: a section is wanted', ('--config.model=3',)),
  Case('config.model.d_model=wide: int', ('--config.model.d_model=wide',)),
  Case('config.model.d_model=6.4: int', ('--config.model.d_model=6.4',)),
  Case('config.model.d_model=: int', ('--config.model.d_model=',)),
  Case('config.model.tied=maybe: bool', ('--config.model.tied=maybe',)),
  Case('config.sft.lr=fast: float', ('--config.sft.lr=fast',)),
  Case('settings.lr=fast: float', ('--config.stages.compound.settings.lr=fast',)),
)  # fmt: skip
# Values that can't work, each by itself.
OF_VALUES = (
  *(value('experiment', text) for text in ('', 'a\nb', LONG)),
  *(value('seed', text) for text in ('-1', '4294967296', '99999999999999999999')),
  *(value('seeds', text) for text in ('(0, 0)', '(-1,)', '(0.5,)', '(True,)', 'abc', '(1')),
  *(value('task.alphabet', text) for text in ('7', '0', '-8', '1000000000')),
  *(value('task.width', text) for text in ('3', '33')),
  *(value('task.min_input', text) for text in ('1', '7')),
  value('task.max_input', '7'),
  *(value('task.max_depth', text) for text in ('0', '65')),
  value('task.n_labels', '9'),
  value('task.trace', 'terse'),
  value('task.skills', "('revers',)"),
  value('task.skills', "('reverse', 'reverse')"),
  value('task.routings', "('merge',)"),
  value('pools.salt', '-1'),
  *(value('pools.test', text) for text in ('0.0', '1.0', '-0.2', 'nan')),
  value('pools.test', '0.3', 'pools'),
  value('supports.sft.pool', 'train'),
  *(value('supports.sft.depths', text) for text in ('()', '(0,)', '(9,)', '(2, 2)', "('a',)")),
  *(value('supports.sft.compositions', text) for text in ('-1', '1', '1000000')),
  *(value('supports.sft.prefix', text) for text in ('-1', '9')),
  value('supports.sft.with_skills', "('revers',)"),
  value('model.positions', 'sinus'),
  value('model.dtype', 'float16'),
  *(value(f'model.{x}', '0') for x in ('d_model', 'n_layers', 'repeats', 'n_heads', 'd_ff')),
  value('model.n_heads', '3'),
  value('model.conv_width', '17'),
  *(value('optimizer.b2', text) for text in ('1.0', '-0.1', 'inf')),
  *(value(f'optimizer.{x}', '0.0') for x in ('eps', 'clip_norm', 'muon_scale')),
  value('optimizer.weight_decay', '-1.0'),
  *(value('sft.lr', text) for text in ('0.0', '-1.0', '2.0', 'nan', 'inf')),
  value('sft.warmup', '-1'),
  value('sft.batch', '0'),
  value('sft.optimizer', 'sgd'),
  value('sft.schedule', 'linear'),
  *(value('rl.group', text) for text in ('1', '0')),
  *(value('rl.temperature', text) for text in ('0.0', '-1.0')),
  value('rl.reward', 'right'),
  value('rl.estimator', 'ppo'),
  value('rl.average', 'mean'),
  value('rl.epochs', '0'),
  value('rl.clip_low', '2.0'),
  *(value(f'rl.{x}', '-1.0') for x in ('clip_high', 'kl', 'entropy')),
  value('rl.anchor', "('nothing',)"),
  value('rl.anchor_batch', '0'),
  value('rft.sampler', 'both'),
  value('stages.compound.kind', 'ppo'),
  value('stages.compound.init_from', 'nowhere'),
  value('stages.compound.init_from', ''),
  value('stages.sft.init_from', 'compound', 'circle'),
  *(value('stages.compound.steps', text) for text in ('0', '-3')),
  *(value('stages.compound.data', text) for text in ("('nothing',)", '()', "('dry', 'sft')")),
  *(value('stages.compound.shares', text) for text in ('(1.0,)', '(0.6, 0.6)', '(0.999, 0.001)')),
  value('stages.compound.settings.lr', '2.0'),
  value('eval.problems', '1'),
  value('eval.every', '-1'),
  *(value('eval.pass_k', text) for text in ('(0,)', '(17,)')),
  *(value('eval.pass_samples', text) for text in ('0', '2000')),
  value('eval.trained', "('all',)"),
  value('eval.curve', "('all',)"),
  value('eval.splits.deeper', 'nothing'),
  value('eval.splits.deeper', 'dry'),
  *(value(f'run.{x}', '0') for x in ('steps_per_call', 'checkpoint_every')),
  *(value('mesh.data', text) for text in ('0', '4096')),
  *(value('mesh.model', text) for text in ('0', '4096')),
  value('run.microbatch_rows', '-1'),
  value('run.max_log_prob_gap', '-1.0'),
)  # fmt: skip
# Numbers that a float32 does not hold.
OF_FLOATS = (
  *(value('optimizer.clip_norm', text) for text in ('1e300', '1e-300')),
  value('optimizer.weight_decay', '1e300'),
  value('optimizer.eps', '1e-46'),
  value('rl.kl', '1e300'),
  value('rl.temperature', '1e-300'),
  *(value('sft.lr', text) for text in ('1e-46', '1e-39')),
)
# Sizes that no machine has.
MANY_ROWS = ('--config.run.microbatch_rows=1000000000', '--config.sft.batch=800000000')
OF_SIZES = (
  *(value('model.d_model', text) for text in ('65536', '2000000000')),
  *(value('model.n_layers', text) for text in ('2000000000', '1000000000000')),
  value('model.d_ff', '2000000000'),
  value('sft.batch', '2000000000'),
  value('rl.prompts', '2000000000'),
  value('rl.group', '2000000000'),
  value('eval.problems', '2000000000'),
  Case('run.microbatch_rows', MANY_ROWS),
)
TERM = "(1, 'sft', 'unseen', 0)"


def contrasts(text: str, names: str = 'contrasts') -> Case:
  return changed(f'with config.unlocked():\n  config.contrasts = {text}', names)


OF_STRUCTURE = (
  contrasts("(('a', ()),)"),
  contrasts(f"(('a', ({TERM},)), ('a', ({TERM},)))"),
  contrasts("'abc'"),
  contrasts("(('a', 3),)"),
  contrasts("('a',)"),
  contrasts(f"(('', ({TERM},)),)"),
  *(
    contrasts(f"(('a', (({weight}, 'sft', 'unseen', 0),)),)")
    for weight in ("float('nan')", "float('inf')", '1e9', "'1'", 'True')
  ),
  contrasts("(('a', ((1, 'nobody', 'unseen', 0),)),)"),
  contrasts("(('a', ((1, 'sft', 'nowhere', 0),)),)"),
  *(contrasts(f"(('a', ((1, 'sft', 'unseen', {depth}),)),)") for depth in ('7', '2.0', 'True')),
  contrasts("(('a', ((1, 'sft', 'unseen'),)),)"),
  *(
    changed(f'config.stages[{name!r}] = default.stage("sft", "sft", 3, ("sft",))', 'stages')
    for name in (LONG, '/tmp/x', 'a/b', 'a b', '', 'é', '-x')
  ),
  *(changed(f'config.eval.splits[{name!r}] = "unseen"', 'eval.splits') for name in (LONG, '<b>')),
  changed('config.stages[".."] = default.stage("sft", "sft", 3, ("sft",))', 'line 4: ValueError'),
  changed('config.supports["a/b"] = default.support()', 'supports'),
  changed('config.stages = type(config)()', 'stages'),
  changed('config.eval.splits = type(config)()', 'eval.splits'),
)  # fmt: skip
OF_WORKDIRS = (
  Case('workdir', workdir='file'),
  Case('workdir', workdir='file/below'),
  Case('workdir', workdir=LONG),
)
# What is drawn shows: found out with the programs that draw it.
LEAK = "--config.stages.sft.data=('unseen', 'sft_prefixed', 'dry')"
OF_DATA = (
  Case('eval.splits.unseen', (LEAK,), compiles=True),
  Case('supports.sft', ('--config.supports.sft.compositions=100000',), compiles=True),
)
CASES = (
  *OF_FILES, *OF_FLAGS, *OF_VALUES, *OF_FLOATS, *OF_SIZES, *OF_STRUCTURE, *OF_WORKDIRS, *OF_DATA
)  # fmt: skip


def short_of(case: Case, folder: pathlib.Path) -> str:
  """What falls short in a case; '' where all is as it should be."""
  (folder / 'file').write_text('')
  args = list(case.flags)
  if case.workdir:
    args.insert(0, f'--workdir={folder / case.workdir}')
  if case.file:
    path = case.file
    if '\n' in path or '\0' in path:
      path = str(folder / 'config.py')
      pathlib.Path(path).write_bytes(case.file.encode())
    args.insert(0, f'--config={path}')
  before = _contents(folder)
  status, err, compiled = _run_in_child(args)
  lines = err.splitlines()
  if status != 2 or len(lines) != 1:
    return f'status {status}, {len(lines)} lines on stderr: {" / ".join(lines[-3:])[-300:]}'
  if case.names not in err or not re.search('legal|wanted|missing', err, re.IGNORECASE):
    return f'does not name {case.names!r} or what is legal: {err[:300]}'
  if compiled and not case.compiles:
    return f'{compiled} programs compiled'
  if _contents(folder) != before:
    return 'the workdir was touched'
  return ''


def _contents(folder: pathlib.Path) -> set[pathlib.Path]:
  return set(folder.rglob('*'))


def _run_in_child(args: list[str]) -> tuple[int, str, int]:
  """Exit status, stderr and number of compiled programs of the command with these arguments.

  (A child that is forked starts with everything imported.)
  """
  with tempfile.TemporaryFile('w+') as err:
    child = os.fork()
    if not child:
      try:
        os.dup2(err.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _child(args)
      finally:
        os._exit(99)
    _, status = os.waitpid(child, 0)
    err.seek(0)
    *lines, last = err.read().split('\x00')
  n_compiled = int(last) if lines else -1
  return os.waitstatus_to_exitcode(status), ''.join(lines) or last, n_compiled


def _child(args: list[str]) -> None:
  import jax

  compiled = []

  def count(name: str, *_, **__):
    if name.endswith('backend_compile_duration'):
      compiled.append(name)

  def accepted(_):
    raise AssertionError('the config was accepted')

  jax.monitoring.register_event_duration_secs_listener(count)
  workdirs.open_workdir = accepted
  sys.argv = ['compgen_jax/main.py', *args]
  try:
    command_line.launch(main._main)
    status = 0
  except SystemExit as e:
    status = e.code
  except BaseException:
    traceback.print_exc()
    status = 98
  sys.stderr.write(f'\x00{len(compiled)}')
  sys.stderr.flush()
  os._exit(status)


def check(cases: tuple[Case, ...]) -> dict[str, str]:
  """What falls short, by case."""
  logging.use_absl_handler()
  found = {}
  for case in cases:
    with tempfile.TemporaryDirectory() as folder:
      short = short_of(case, pathlib.Path(folder))
    if short:
      name = ' '.join(case.flags) or f'{case.file!r:.80} {case.workdir[:20]}'
      found[name] = short
      print(f'{name}: {short}', file=sys.stderr, flush=True)
  return found


def _main() -> int:
  found = check(CASES)
  print(
    f'badconfig: {len(CASES) - len(found)} of {len(CASES)} malformed configs, flags and workdirs '
    'refused in one line with status 2, nothing compiled and nothing touched'
  )
  return int(bool(found))


if __name__ == '__main__':
  assert run  # imported before the children are forked
  sys.exit(_main())
