"""The numbers of a benchmark as text for a terminal."""

from typing import Any

_TITLES = (
  f'{"part":12} {"shape":8} {"per second":>12}  {"unit":9} {"not padding":>11} {"GFLOP/s":>9} '
  f'{"of peak":>8} {"ms":>10} {"compile s":>10} {"peak MiB":>9}'
)


def text(result: dict[str, Any]) -> str:
  """All numbers of a result, as `bench.measure` makes it; what was not measured is left out."""
  peak, dtype = result['matmul_peak_gflops'], result['dtype']
  lines = [f'matrix product peak {peak:.0f} GFLOP/s ({dtype}), {result["hardware"]}', '', _TITLES]
  lines += [_row(entry) for entry in result['rows']]
  lines += _breakdown(result['breakdown'])
  if 'policy' in result:
    lines += _policy(result['policy'])
  for peer in result.get('peer', ()):
    times = peer['milliseconds'] / peer['ours_milliseconds']
    lines.append(
      f'\n{peer["step"]} at {peer["shape"]} in {peer["what"]}: {peer["milliseconds"]:.1f} ms, '
      f'{times:.2f} times as long as ours'
    )
  if 'first_update' in result:
    first = result['first_update']
    lines.append(
      f'\nfirst SFT update after {first["cold_s"]:.1f} s, with a filled compile cache after '
      f'{first["filled_s"]:.1f} s'
    )
  return '\n'.join(lines)


def _row(entry: dict[str, Any]) -> str:
  gflops = f'{entry["gflops"]:9.1f}' if entry['gflops'] else f'{"-":>9}'
  share = f'{entry["share_of_peak"]:8.1%}' if entry['gflops'] else f'{"-":>8}'
  line = (
    f'{entry["part"]:12} {entry["shape"]:8} {entry["per_second"]:12,.0f}  {entry["unit"]:9} '
    f'{entry["useful_share"]:11.0%} {gflops} {share} {entry["milliseconds"]:10.1f} '
    f'{entry["compile_s"]:10.1f} {entry["peak_mb"]:9.0f}'
  )
  if entry['model_share_of_peak'] < entry['share_of_peak']:
    line += f'   {entry["model_share_of_peak"]:.1%} of peak without the optimizer'
  if 'share_of_sft_step' in entry:
    line += f'   {entry["share_of_sft_step"]:.1%} of the time of an SFT step'
  if 'tokens_per_forward_token' in entry:
    line += f'   {entry["tokens_per_forward_token"]:.2f} times the tokens per second of sft_forward'
  return line


def _breakdown(b: dict[str, Any]) -> list[str]:
  lines = []
  for step in ('sft_step', 'rl_step'):
    pieces = ', '.join(f'{name.replace("_", " ")} {ms:.1f} ms' for name, ms in b[step].items())
    lines.append(f'\n{step} at {b["shape"]}: {pieces}')
    times = b[f'{step}_over_one_seed']
    lines.append(f'  {b["seeds"]} seeds side by side take {times:.2f} times as long as one')
  if not b.get('side_by_side', True):
    lines.append('(on this platform a run trains its seeds one after the other)')
  share = b['rl_rollout_share']
  return [*lines, f'\nrollouts (problems, sampling and verdicts) are {share:.0%} of an rl_step']


def _policy(p: dict[str, Any]) -> list[str]:
  return [
    f'\nrl_step from a trained policy: {p["step_milliseconds"]:.0f} ms, of which rollouts are '
    f'{p["rollout_share"]:.0%}',
    f'  {p["decoded_useful"]:.0%} of the decoded columns hold a token; '
    f'{p["signal"]:.0%} of the samples carry a signal',
  ]


def finding(f: dict[str, Any]) -> str:
  """The minutes to finding 1, as `finding.measure` makes them."""
  what = f'{f["target"]:.0%} at L = {f["depth"]} ({f["split"]}, validation)'

  def minutes(m: float | None) -> str:
    return 'not reached' if m is None else f'{m:.1f} min'

  lines = [
    f'seed {one["seed"]}: SFT {one["sft"]:.1%}, RL {one["best"]:.1%} at best; {what}: '
    f'{minutes(one["minutes"])} (SFT {minutes(one["sft_minutes"])}, '
    f'RL {minutes(one["rl_minutes"])})'
    for one in f['replicates']
  ]
  allowed = f'training alone; SFT {f["parent_at_most"]:.0%} at most'
  return '\n'.join([*lines, f'median: {what}: {minutes(f["minutes"])} ({allowed})'])


def scaling(rows: list[dict[str, Any]]) -> str:
  """What more devices do, as `scaling.measure` makes it."""
  lines = [
    f'{"stage":12} {"processes":>9} {"devices of each":>15} {"":6} {"problems":>8} '
    f'{"updates/s":>9} {"work":>6}'
  ]
  for row in rows:
    lines.append(
      f'{row["stage"]:12} {row["processes"]:9} {row["devices"]:15} {row["kind"]:6} '
      f'{row["batch"]:8} {row["updates_per_s"]:9.2f} {row["work"]:6.2f}'
    )
  return '\n'.join([*lines, 'work: samples a second, over those of one device on one core'])
