"""Which representation lets traces reach unseen depths: their structure, and then their steps?

  for what in default one_marker no_prefix rope none no_conv no_dry; do
    case $what in
      default) change= ;;
      one_marker) change=--config.model.address_markers=1 ;;
      no_prefix)
        change="--config.stages.sft.data=('sft','dry') --config.stages.sft.shares=(.75,.25)" ;;
      rope | none) change=--config.model.positions=$what ;;
      no_conv) change=--config.model.conv_width=0 ;;
      no_dry) change="--config.stages.sft.data=('sft',) --config.stages.sft.shares=(1.0,)" ;;
    esac
    WORKDIR=runs/structure/$what launch/run.sh configs/structure.py $change
  done

A few minutes each on 2 cores. The SFT stage of the quickstart, alone, on the validation pool: read
off `structure_accuracy` and `accuracy` at depths 4 to 8. What came out, of three seeds:
results/NOTES.md, *Again with three markers and dry prefixes*. (results/structure holds some of it
with one marker an address, 100 compositions and no prefix.)
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
  config = quickstart.recipe()
  config.experiment = 'structure'
  config.stages = ConfigDict({'sft': config.stages.sft})
  config.supports.deeper.depths = (4, 5, 6, 7, 8)
  quickstart.on_validation(config)
  config.eval.update(problems=512, pass_k=())
  return config
