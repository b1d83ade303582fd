"""The smallest experiment that goes through every kind of stage, and how its files are read."""

import json
import pathlib

from compgen_jax.config import from_config_dict, to_dict
from configs import default


def tiny(**overrides):
  """A ConfigDict of three stages that trains in seconds.

  `overrides`: flattened names with '.' written '__'.
  """
  config = default.get_config()
  config.experiment = 'tiny'
  config.task.max_depth = 3
  config.task.skills = ('reverse', 'successor', 'drop_last', 'climb')
  config.task.routings = ('previous', 'earlier', 'merge')
  config.task.n_labels = 6
  config.model.update(d_model=16, n_layers=1, n_heads=2, d_ff=32)
  config.supports.sft = default.support(compositions=8, depths=(1, 2))
  config.supports.rl = default.support(pool='rl', depths=(2,))
  config.supports.unseen = default.support(pool='test', depths=(2,))
  config.supports.deeper = default.support(pool='test', depths=(3,))
  config.sft.update(batch=8, warmup=2)
  config.rl.update(prompts=4, group=2, warmup=2)
  # A model that small earns nothing: what rft learns comes from its anchor.
  config.rft.update(prompts=2, group=4, warmup=1, anchor=('sft',), anchor_batch=4)
  config.stages.sft = default.stage('sft', '', 12, ('sft',))
  config.stages.rl = default.stage('rl', 'sft', 4, ('rl', 'atoms'), (0.5, 0.5))
  config.stages.rft = default.stage('rft', 'sft', 2, ('rl',))
  config.eval.update(problems=16, every=5, pass_samples=4, pass_k=(1, 4))
  config.run.update(steps_per_call=3, checkpoint_every=6)
  config.mesh.data = 1
  config.contrasts = (
    ('tiny.unseen.rl_minus_sft', ((1, 'rl', 'unseen', 0), (-1, 'sft', 'unseen', 0))),
  )
  changes = {name.replace('__', '.'): value for name, value in overrides.items()}
  config.update_from_flattened_dict(changes)
  return config


def plain(**changes) -> dict:
  """`tiny` as nested dicts, with changes (flattened names with '.' written '__')."""
  config = to_dict(from_config_dict(tiny()))
  for path, value in changes.items():
    *sections, field = path.split('__')
    node = config
    for section in sections:
      node = node[section]
    assert field in node or sections[-1:] in (['splits'], ['settings']), path
    node[field] = value
  return config


def history(workdir: pathlib.Path, stage: str, seed: int = 0) -> list[dict]:
  """The training metrics of a stage, without times and checksums."""
  file = workdir / 'stages' / stage / f'seed-{seed}' / 'metrics.jsonl'
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  return [{k: v for k, v in row.items() if k not in ('seconds', 'crc')} for row in rows]


def trained_files(workdir: pathlib.Path, seed: int | None = None) -> dict[pathlib.Path, int]:
  """What training wrote (all seeds, or one): file -> when it was last written, in ns."""
  pattern = '*' if seed is None else f'seed-{seed}'
  files = [f for f in (workdir / 'stages').glob(f'*/{pattern}/**/*') if f.is_file()]
  return {
    f.relative_to(workdir): f.stat().st_mtime_ns for f in files if f.name != 'evaluation.json'
  }
