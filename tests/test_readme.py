"""What README.md shows works as it stands there."""

import pathlib
import re

from configs import default, quickstart
from tests.experiments import tiny

README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
  """An example that has fallen behind the code. (The quickstart is replaced by a tiny run.)"""
  config = tiny(eval__every=0, eval__pass_k=(), contrasts=())
  config.supports.compounds = default.support(pool='rl', depths=(2,))
  config.stages = {'sft': config.stages.sft, 'compound': config.stages.rl}
  monkeypatch.setattr(quickstart, 'get_config', lambda: config)
  monkeypatch.chdir(tmp_path)
  (example,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names = {}
  exec(compile(example, 'README.md', 'exec'), names)
  assert config.stages.compound.settings.lr == 2e-4
  assert {row['arm'] for row in names['rows']} == {'sft', 'compound'}
  printed = capsys.readouterr().out
  assert printed.count('    answer ') == 2 and 'accuracy, %' in printed
  assert len((tmp_path / 'problems.jsonl').read_text().splitlines()) == 1000
