"""Puts finished runs together: replicates pooled, variants side by side.

python -m compgen_jax.collect runs/lr/* --out=runs/lr/collected

Runs whose configs agree in all but their seeds are replicates of one experiment: their rows are
pooled, with intervals over replicates, into what a single run of all seeds would have written.
Runs whose configs differ become variants named by what differs: one summary.json, table.csv,
figures and report.html compare them, and each has a folder of its own beside these.
"""

import pathlib

from absl import flags

from compgen_jax import command_line

_OUT = flags.DEFINE_string('out', None, 'Folder for what is put together.')


def _main(folders: list[str]):
  from compgen_jax.errors import ConfigError
  from compgen_jax.experiment import collected, summary
  from compgen_jax.report import comparison, page

  if not folders or not _OUT.value:
    missing = 'folders are' if not folders else '--out is'
    command_line.fail(f'{missing} missing; legal is DIR [DIR …] --out=DIR')
  out = pathlib.Path(_OUT.value)
  if out.resolve() in {pathlib.Path(folder).resolve() for folder in folders}:
    raise ConfigError(f'--out={str(out)!r}: it is one of the runs; legal is another folder')
  variants = collected.collect(folders)
  for i, variant in enumerate(variants):
    folder = out if len(variants) == 1 else out / f'variant-{i}'
    collected.write(folder, variant)
    page.write(folder, variant.config, variant.rows, variant.summary)
  if len(variants) == 1:
    print(summary.table_text(variants[0].summary))
  else:
    comparison.write(out, variants)
    print(comparison.text(variants))
  print(f'report: {out / "report.html"}')


if __name__ == '__main__':
  command_line.launch(_main, takes_arguments=True)
