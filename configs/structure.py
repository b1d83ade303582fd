"""Which representation lets a trace's *structure* (right modules, right order, right length) reach
unseen depths?

  for what in segment rope none no_conv no_dry; do
    case $what in
      segment) change= ;;
      rope | none) change=--config.model.positions=$what ;;
      no_conv) change=--config.model.conv_width=0 ;;
      no_dry) change="--config.stages.sft.data=('sft',) --config.stages.sft.shares=(1.0,)" ;;
    esac
    WORKDIR=runs/structure/$what launch/run.sh configs/structure.py $change
  done

About 2 minutes each on 2 cores. The SFT stage of the quickstart, alone; read off
`structure_accuracy` at depths 4 to 6, on the validation pool (results/NOTES.md has what was
measured).
"""

from ml_collections import ConfigDict

from configs import default, quickstart


def get_config() -> ConfigDict:
  config = quickstart.get_config()
  config.experiment = 'structure'
  config.stages = ConfigDict({'sft': config.stages.sft})
  config.supports.deeper = default.support(pool='validation', depths=(4, 5, 6))
  config.supports.unseen = default.support(pool='validation')
  config.eval.update(problems=512, pass_k=())
  config.contrasts = ()
  return config
