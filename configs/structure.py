"""Which representation lets a trace's *structure* (right modules, right order, right length) reach unseen depths?

  WORKDIR=runs/structure/segment launch/run.sh configs/structure.py
  WORKDIR=runs/structure/rope launch/run.sh configs/structure.py --config.model.positions=rope
  WORKDIR=runs/structure/none launch/run.sh configs/structure.py --config.model.positions=none
  WORKDIR=runs/structure/no_conv launch/run.sh configs/structure.py --config.model.conv_width=0

About 8 minutes each on 2 cores. `with_dry` is the quickstart's SFT stage; `without_dry` is the same without dry traces. Read off
`structure_accuracy` at depths 4 to 6 (results/NOTES.md has what was measured).
"""

from ml_collections import ConfigDict

from configs import default, quickstart


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.experiment = 'structure'
  sft = config.stages.sft
  config.stages = ConfigDict({'with_dry': sft, 'without_dry': default.stage('sft', '', sft.steps, ('sft',))})
  config.supports.deeper = default.support(pool='validation', depths=(4, 5, 6))
  config.supports.unseen = default.support(pool='validation')
  config.eval.update(problems=512, pass_k=())
  config.contrasts = ()
  return config
