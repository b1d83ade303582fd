"""How much must SFT show, and how new must RL's prompts be? SFT compositions K x RL novelty.

  launch/sweep.py configs/phase.py --out=runs/phase --jobs=2 --seeds=0 \\
    --set supports.sft.compositions,supports.sft_prefixed.compositions=12,24,48,96,192
  launch/sweep.py configs/phase.py:0+100 --out=runs/exposure --jobs=2 --seeds=0,1,2 \\
    --set supports.sft.compositions,supports.sft_prefixed.compositions=12,24,48,96 \\
    --set stages.sft.steps=500,1000,2000

Hardware: one CPU core about ten minutes per K and replicate, on the small task (that of the
quickstart). The sweep's report (runs/phase/collected) draws each arm over K. The second sweep asks
how long SFT should show them: two arms, K x SFT's updates, a minute or two each. To expect, at L =
2 on `unseen`, all new minus none new: 11, 13, 2, 0 and 1 points for K = 12 to 192 (results/phase);
23 after 2,000 updates of SFT on 12, none after 500 (results/exposure).

Novelty is the share of RL's prompts whose compositions are outside C_SFT, the K compositions that
SFT saw: of `novel_Q`, Q percent are of the pool `rl`, the others are SFT's own. All arms start from
the SFT parent of their K, and see equally many prompts and samples. The argument is the arms'
novelties in percent, with + between them; all five without it.
"""

from ml_collections import ConfigDict

from configs import finding1, quickstart

UPDATES = 100
NOVELTY = ('0', '25', '50', '75', '100')  # percent


def get_config(novelty: str = '+'.join(NOVELTY)) -> ConfigDict:
  """`novelty`: of each arm of RL, some of NOVELTY with + between them."""
  arms = finding1.named('novelty', novelty, NOVELTY)
  config = finding1.common('phase', {'small': UPDATES}, 'small')
  quickstart.update_support(config, 'sft', covers=1)  # as many as twelve compositions can cover
  for percent in arms:
    new, mixture = int(percent) / 100, {}
    for source, share in (('sft', 1 - new), ('compounds', new)):
      if share:
        mixture |= quickstart.half_prefixed(source, share)
    finding1.add_arm(config, f'novel_{percent}', 'rl', mixture)
  config.eval.update(problems=512, pass_k=(), every=0)
  compared = [*((f'novel_{percent}', 'sft') for percent in arms), ('sft_continued', 'sft')]
  if len(arms) > 1:
    compared.append((f'novel_{arms[-1]}', f'novel_{arms[0]}'))
  config.contrasts = tuple(
    finding1.difference(f'phase.L{depth}.{arm}_minus_{other}', arm, other, split, depth)
    for split, depth in (('unseen', 2), ('deeper', 4))
    for arm, other in compared
  )
  return config
