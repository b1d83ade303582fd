"""The report in a real browser, where one is installed: at the width of a phone and of a screen."""

import json
import re
import shutil
import subprocess

import pytest

from compgen_jax.report import page
from tests.reports import make_config, make_run

BROWSER = next(filter(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')), None)
# What the page finds of itself, told to the page that frames it.
TELL = """<script>
addEventListener('load', () => parent.postMessage(JSON.stringify({
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  pictures: document.images.length,
  broken: [...document.images].filter(image => !image.naturalWidth).length,
}), '*'))
</script>"""
FRAME = """<script>addEventListener('message', e => {{ document.title = e.data }})</script>
<iframe src="report.html" width="{width}" height="900" style="border: 0"></iframe>"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with a report that tells what it finds of itself."""
  folder = tmp_path_factory.mktemp('browser')
  config = make_config()
  page.write(folder, config, *make_run(folder, config), {})
  with open(folder / 'report.html', 'a') as file:
    file.write(TELL)
  return folder


@pytest.mark.skipif(BROWSER is None, reason='no Chromium is installed')
@pytest.mark.parametrize('width', [400, 1280])
def test_the_report_fits_its_window(folder, width):
  """A report that must be scrolled sideways, or whose pictures can't be seen."""
  frame = folder / f'{width}.html'
  frame.write_text(FRAME.format(width=width))
  command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={folder}/p']
  command += ['--window-size=1400,1000', '--virtual-time-budget=5000', '--dump-dom', frame.as_uri()]
  shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
  found = json.loads(re.search('<title>(.*)</title>', shown)[1].replace('&quot;', '"'))
  assert found['width'] == width and found['needed'] <= width
  assert found['pictures'] > 0 and found['broken'] == 0
