"""How far a run has come, while it runs."""

import dataclasses
import os
import subprocess
import sys

import numpy as np

from compgen_jax import config as config_lib
from compgen_jax.experiment import files, workdirs
from compgen_jax.report import progress
from tests.reports import make_config, write_learning_curves


def _begun(folder, config, arms, seed):
  """A run whose replicate `seed` is at the last of these arms."""
  rng = np.random.default_rng(0)
  one = dataclasses.replace(config, seeds=(seed,))
  for arm in arms:
    write_learning_curves(folder, one, arm, rng)
    rows = [
      dict(arm=arm, split='unseen', depth=2, metric='accuracy', step=step, value=step / 400)
      for step in (0, 100, 200)
    ]
    files.write_sealed_jsonl(workdirs.stage_folder(folder, arm, seed) / 'curve.jsonl', rows)


def test_the_page_has_what_is_there(tmp_path):
  """A replicate that has not begun and hides the one at work; a page that is never loaded again."""
  config = make_config(seeds=(0, 1))
  assert not progress.write(tmp_path, config, 30)  # nothing is there yet
  _begun(tmp_path, config, ('sft', 'compound'), 0)
  _begun(tmp_path, config, ('sft',), 1)
  path = workdirs.stage_folder(tmp_path, 'sft', 1) / 'metrics.jsonl'
  os.utime(path, (2e9, 2e9))
  done = progress.updates_done(tmp_path, config)
  assert done['compound'] == {0: 300, 1: 0} and done['atomic'] == {0: 0, 1: 0}
  assert progress.current_seeds(tmp_path, config, done) == (1,)
  assert not progress.write(tmp_path, config, 30)
  text = (tmp_path / progress.NAME).read_text()
  assert '<meta http-equiv="refresh" content="30">' in text and 'at work (seed 1)' in text
  assert '300 of 300' in text and text.count('<img') == 2
  os.utime(path, (1e9, 1e9))
  assert progress.current_seeds(tmp_path, config, done) == (0,)
  assert set(os.listdir(tmp_path)) == {'stages', progress.NAME}  # nothing else of the run changes


def test_replicates_side_by_side_are_shown_together(tmp_path):
  config = make_config(seeds=(0, 1, 2))
  for seed in (0, 1):
    _begun(tmp_path, config, ('sft',), seed)
  done = progress.updates_done(tmp_path, config)
  assert progress.current_seeds(tmp_path, config, done) == (0, 1)


def test_it_ends_with_the_run(tmp_path):
  """A watcher that runs for ever, or a page that stays at the last minute but one."""
  config = make_config()
  files.write_json(tmp_path / 'config.json', config_lib.to_dict(config))
  (tmp_path / 'report.html').write_text('the report')
  command = [sys.executable, '-m', 'compgen_jax.watch', f'--workdir={tmp_path}']
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith('finished; report: ')
  assert 'url=report.html' in (tmp_path / progress.NAME).read_text()


def test_a_folder_without_a_run_is_one_line(tmp_path):
  command = [sys.executable, '-m', 'compgen_jax.watch', f'--workdir={tmp_path}/nothing']
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'config.json' in done.stderr
