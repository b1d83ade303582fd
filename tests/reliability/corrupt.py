"""Does a damaged file ever load wrong, or end in a traceback?

  python -m tests.reliability.corrupt

Makes one run that was interrupted and one that has finished, and for each of CASES damages a copy
and runs the same command again. It may repair the damage, go on from an older checkpoint, or refuse
in one line that says what is wrong; each case says which. Prints one line, and one for each case
that fell short. Exits with 1 where there is one.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator

import jax
from orbax.checkpoint import v1 as ocp

import compgen_jax
from compgen_jax.errors import UserError
from compgen_jax.experiment import checkpoint
from tests.experiments import tiny

SFT = 'stages/sft/seed-0'
NEWEST = f'{SFT}/checkpoints/8'  # of the interrupted run, which keeps 4 and 8
SAME, REFUSED, FEWER = 'same', 'refused', 'fewer'
Damage = Callable[[pathlib.Path], None]


@dataclasses.dataclass(frozen=True)
class Case:
  """A damage to a run, and what has to come of it.

  `damage`: takes the workdir. `outcome`: SAME rows as without the damage, REFUSED in one line, or
  FEWER rows. `said`: part of the warning or of the refusal; '' is silence. `changes`: of the config
  that is run then.
  """

  name: str
  damage: Damage
  outcome: str
  said: str
  changes: dict = dataclasses.field(default_factory=dict)


def config_of(**changes):
  """One stage, with checkpoints at updates 4, 8 and 12 (before a point of the learning curve one is
  saved as well, so these are at the same updates)."""
  config = tiny(run__checkpoint_every=4, eval__every=4, eval__pass_k=(), contrasts=(), **changes)
  for stage in ('rl', 'rft'):
    del config.stages[stage]
  return config


# Ways to damage files -----------------------------------------------------------------------------


def each(pattern: str, change: Callable[[bytes], bytes | None]) -> Damage:
  """Changes the content of all files that match a pattern; None removes them."""

  def damage(workdir: pathlib.Path) -> None:
    files = [path for path in workdir.glob(pattern) if path.is_file()]
    assert files, f'nothing matches {pattern}'
    for path in files:
      content = change(path.read_bytes())
      path.unlink() if content is None else path.write_bytes(content)

  return damage


def cut(content: bytes) -> bytes:
  return content[: len(content) // 2]


def emptied(_: bytes) -> bytes:
  return b''


def removed(_: bytes) -> None:
  return None


def binary(_: bytes) -> bytes:
  return bytes(range(256))


def flipped(content: bytes) -> bytes:
  """One bit, in the middle."""
  at = len(content) // 2
  return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
  def change(content: bytes) -> bytes:
    assert old.encode() in content, old
    return content.replace(old.encode(), new.encode(), 1)

  return change


def line(n: int, new: bytes) -> Callable[[bytes], bytes]:
  """Line n becomes another."""

  def change(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b''.join([*lines[:n], new, *lines[n + 1 :]])

  return change


def entry(name: str, value) -> Callable[[bytes], bytes]:
  """An entry of a JSON object gets another value."""
  return lambda content: json.dumps(json.loads(content) | {name: value}).encode()


def digest_changed(content: bytes) -> bytes:
  held = json.loads(content)
  digest = held['custom_metadata']['digest']
  held['custom_metadata']['digest'] = digest[:-1] + ('0' if digest[-1] != '0' else '1')
  return json.dumps(held).encode()


def without(name: str) -> Damage:
  """A folder is removed."""
  return lambda workdir: shutil.rmtree(workdir / name)


def file_instead(name: str) -> Damage:
  def damage(workdir: pathlib.Path) -> None:
    shutil.rmtree(workdir / name)
    (workdir / name).write_text('')

  return damage


def renamed(workdir: pathlib.Path) -> None:
  (workdir / NEWEST).rename(workdir / SFT / 'checkpoints/9')


def of_older(workdir: pathlib.Path) -> None:
  """The arrays of an older checkpoint, in the place of the newest one's."""
  shutil.rmtree(workdir / NEWEST / 'state')
  shutil.copytree(workdir / SFT / 'checkpoints/4/state', workdir / NEWEST / 'state')


def saved_as(change: Callable) -> Damage:
  """The newest checkpoint's arrays, loaded, changed and saved by orbax: files without a flaw."""

  def damage(workdir: pathlib.Path) -> None:
    path = (workdir / NEWEST).absolute()
    metadata = (path / '_CHECKPOINT_METADATA').read_bytes()
    state = change(ocp.load(path, checkpointable_name='state'))
    shutil.rmtree(path)
    ocp.save(path, state, checkpointable_name='state')
    (path / '_CHECKPOINT_METADATA').write_bytes(metadata)

  return damage


def wider(state):
  return jax.tree.map(lambda x: jax.numpy.concatenate([x, x]) if x.ndim else x, state)


def half(state):
  def narrow(x):
    return x.astype('bfloat16') if x.dtype == 'float32' else x

  return jax.tree.map(narrow, state)


def negated(state):
  """Every sign bit flipped, the kind of change that a sum does not see."""
  return jax.tree.map(lambda x: -x if x.dtype == 'float32' else x, state)


def lacking(state):
  return {name: part for name, part in state.items() if name != 'opt_state'}


def both(*damages: Damage) -> Damage:
  def damage(workdir: pathlib.Path) -> None:
    for one in damages:
      one(workdir)

  return damage


# What has to come of it ---------------------------------------------------------------------------

OLDER = 'moved to'  # the warning of a run that goes on from an older checkpoint
META = f'{NEWEST}/_CHECKPOINT_METADATA'
DATA = f'{NEWEST}/state/**/d/*'
EVALUATION, METRICS, CURVE = (
  f'{SFT}/{name}' for name in ('evaluation.json', 'metrics.jsonl', 'curve.jsonl')
)
ORIGIN = f'{SFT}/origin.json'
FINAL = f'{SFT}/checkpoints/12/state/**/d/*'
OTHER_LR = {'sft__lr': 0.5}

FLIPPED_ANSWER = replaced('false', 'true')
OTHER_N = replaced('"n": 16', '"n": 61')
OTHER_STEP = replaced('"step": 6', '"step": 5')
TWO_OUTPUTS = both(each('results.jsonl', binary), each('summary.json', binary))
TYPE, RANGE = (each(META, entry('commit_timestamp_nsecs', x)) for x in ('x', 10**40))

OF_CHECKPOINTS = (  # of the interrupted run; the newest, if not said otherwise
  Case('arrays cut', each(DATA, cut), SAME, OLDER),
  Case('arrays emptied', each(DATA, emptied), SAME, OLDER),
  Case('arrays removed', each(DATA, removed), SAME, OLDER),
  Case('arrays with a flipped bit', each(DATA, flipped), SAME, OLDER),
  Case('arrays of another update', of_older, SAME, OLDER),
  Case('arrays of another shape', saved_as(wider), SAME, OLDER),
  Case('arrays of another dtype', saved_as(half), SAME, OLDER),
  Case('arrays with flipped signs', saved_as(negated), SAME, OLDER),
  Case('arrays missing', saved_as(lacking), SAME, OLDER),
  Case('array index cut', each(f'{NEWEST}/state/manifest.ocdbt', cut), SAME, OLDER),
  Case('array index removed', each(f'{NEWEST}/state/manifest.ocdbt', removed), SAME, OLDER),
  Case('structure cut', each(f'{NEWEST}/state/_METADATA', cut), SAME, OLDER),
  Case('structure removed', each(f'{NEWEST}/state/_METADATA', removed), SAME, OLDER),
  Case('structure binary', each(f'{NEWEST}/state/_METADATA', binary), SAME, OLDER),
  Case('metadata emptied', each(META, emptied), SAME, OLDER),
  Case('metadata removed', each(META, removed), SAME, OLDER),
  Case('metadata binary', each(META, binary), SAME, OLDER),
  Case('commit time of another type', TYPE, SAME, OLDER),
  Case('commit time out of range', RANGE, SAME, OLDER),
  Case('digest changed', each(META, digest_changed), SAME, OLDER),
  Case('digest removed', each(META, entry('custom_metadata', None)), SAME, OLDER),
  Case('origin in it changed', each(META, replaced('0.004', '0.005')), SAME, OLDER),
  Case('checkpoint renamed', renamed, SAME, OLDER),
  Case('checkpoint without arrays', without(f'{NEWEST}/state'), SAME, OLDER),
  Case('checkpoint removed', without(NEWEST), SAME, ''),
  Case('all checkpoints cut', each(f'{SFT}/checkpoints/*/state/**/d/*', cut), REFUSED, 'no older'),
  Case('older checkpoint cut', each(f'{SFT}/checkpoints/4/state/**/d/*', cut), SAME, ''),
  Case('older metadata emptied', each(f'{SFT}/checkpoints/4/_CH*', emptied), SAME, OLDER),
  Case('a file `checkpoints`', file_instead(f'{SFT}/checkpoints'), REFUSED, 'a folder is wanted'),
)  # fmt: skip
OF_AN_INTERRUPTED_RUN = (
  Case('origin cut', each(ORIGIN, cut), SAME, ''),
  Case('origin removed, another lr', each(ORIGIN, removed), REFUSED, 'lr=0.004', OTHER_LR),
  Case('origin changed, another lr', each(ORIGIN, flipped), REFUSED, 'lr=0.004', OTHER_LR),
  Case('metrics with a bad line', each(METRICS, line(1, b'\xff\x00\n')), SAME, '1 of 4 lines'),
  Case('metrics with a changed digit', each(METRICS, OTHER_STEP), SAME, '1 of 4 lines'),
  Case('metrics emptied', each(METRICS, emptied), SAME, 'are missing'),
  Case('metrics binary', each(METRICS, binary), SAME, 'are missing'),
  Case('curve cut', each(CURVE, cut), FEWER, 'are missing'),
  Case('curve removed', each(CURVE, removed), FEWER, 'are missing'),
  Case('curve with a changed digit', each(CURVE, OTHER_N), FEWER, 'damaged'),
)  # fmt: skip
OF_A_FINISHED_RUN = (
  Case('config binary', each('config.json', binary), SAME, ''),
  Case('config removed, another lr', each('config.json', removed), REFUSED, 'lr=0.004', OTHER_LR),
  Case('evaluation cut', each(EVALUATION, cut), SAME, 'evaluation.json'),
  Case('evaluation emptied', each(EVALUATION, emptied), SAME, 'is empty'),
  Case('evaluation binary', each(EVALUATION, binary), SAME, 'evaluation.json'),
  Case('evaluation of other JSON', each(EVALUATION, lambda _: b'{}'), SAME, 'evaluation.json'),
  Case('evaluation with a changed answer', each(EVALUATION, FLIPPED_ANSWER), SAME, 'checksum'),
  Case('evaluation with a changed digit', each(EVALUATION, OTHER_N), SAME, 'checksum'),
  Case('evaluation removed', each(EVALUATION, removed), SAME, ''),
  Case('wall time emptied', each('wall_time.json', emptied), SAME, 'wall_time.json'),
  Case('wall time changed', each('wall_time.json', replaced('.', '1.')), SAME, 'wall_time.json'),
  Case('last checkpoint cut', each(FINAL, cut), SAME, ''),
  Case('it and the evaluation cut', both(each(FINAL, cut), each(EVALUATION, cut)), SAME, OLDER),
  Case('results and summary binary', TWO_OUTPUTS, SAME, ''),
  Case('a file `stages`', file_instead('stages'), REFUSED, 'a folder is wanted'),
)  # fmt: skip
CASES = (*OF_CHECKPOINTS, *OF_AN_INTERRUPTED_RUN, *OF_A_FINISHED_RUN)


def short_of(case: Case, source: pathlib.Path, rows: list[dict], folder: pathlib.Path) -> str:
  """What falls short in a case; '' where all is as it should be.

  `source`: the run to be damaged, `rows`: what it gives without damage, `folder`: where to copy it.
  """
  workdir = folder / 'w'
  shutil.rmtree(workdir, ignore_errors=True)
  shutil.copytree(source, workdir)
  case.damage(workdir)
  err = io.StringIO()
  try:
    with contextlib.redirect_stderr(err):
      got = compgen_jax.run(config_of(**case.changes), workdir)
  except UserError as e:
    got, said = None, [str(e)]
    if '\n' in str(e) or len(str(e)) > 500:
      return f'a message that is no short line: {str(e)[:200]!r}'
  except Exception:  # which is what is looked for
    return traceback.format_exc(limit=-3)
  else:
    said = [x for x in err.getvalue().splitlines() if x.startswith('warning')]
  outcome = REFUSED if got is None else SAME if got == rows else FEWER
  if outcome == FEWER and not all(row in rows for row in got):
    return 'rows that an undamaged run does not have'
  if outcome != case.outcome:
    return f'{outcome} instead of {case.outcome}: {said}'
  if bool(said) != bool(case.said) or not any(case.said in x for x in said or ['']):
    return f'said {said}, not {case.said!r}'
  return ''


class Killed(BaseException):
  """Stands for the end of a process."""


@contextlib.contextmanager
def dying_at(step: int) -> Iterator[None]:
  """A run that ends as if it were killed after the checkpoint of an update."""
  whole = checkpoint.StageCheckpoints.save

  def save(self, at, *args):
    whole(self, at, *args)
    if at == step:
      raise Killed

  checkpoint.StageCheckpoints.save = save
  try:
    with contextlib.suppress(Killed):
      yield
  finally:
    checkpoint.StageCheckpoints.save = whole


def make_runs(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, list[dict]]:
  """An interrupted and a finished run, and the rows of both when they have finished."""
  with dying_at(8):
    compgen_jax.run(config_of(), folder / 'interrupted')
  rows = compgen_jax.run(config_of(), folder / 'finished')
  return folder / 'interrupted', folder / 'finished', rows


def main() -> int:
  sys.modules['matplotlib'] = None  # reports without figures: they take longer than the rest
  short = {}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    with contextlib.redirect_stderr(io.StringIO()):
      interrupted, finished, rows = make_runs(folder)
    for case in CASES:
      source = finished if case in OF_A_FINISHED_RUN else interrupted
      found = short_of(case, source, rows, folder)
      if found:
        short[case.name] = found
        print(f'{case.name}: {found}', file=sys.stderr, flush=True)
  by = {
    outcome: sum(case.outcome == outcome for case in CASES) for outcome in (SAME, FEWER, REFUSED)
  }
  print(
    f'corrupt: {len(CASES) - len(short)} of {len(CASES)} kinds of damage as promised: '
    f'{by[SAME]} end in the same results, {by[FEWER]} in fewer points of the learning curve with a '
    f'warning, {by[REFUSED]} are refused in one line'
  )
  return int(bool(short))


if __name__ == '__main__':
  sys.exit(main())
