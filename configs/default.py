"""Every knob, once. Other configs import this one and change what differs; flags change single
fields:

  python -m compgen_jax.main --config=configs/default.py --workdir=runs/d --config.model.d_model=128

Hardware: 2 CPU cores (configs/quickstart.py has times and numbers). Every field is an int, float,
bool, str, or a tuple of these; an override of another type is refused.
"""

import dataclasses
from typing import get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from compgen_jax.learning.kinds import KINDS


def support(**changes) -> ConfigDict:
  """A set of compositions. Fields not given are those of the whole pool `sft` at depths 2 and 3."""
  config = ConfigDict()
  config.depths = (2, 3)  # composition depths, equally likely
  config.pool = 'sft'  # test | validation | sft | rl: disjoint by content (all hold depth 1)
  config.compositions = 0  # keep only the first so many, an equal share per depth; 0 keeps all
  config.balanced = False  # of these, choose such that all modules are used about equally often
  config.covers = 0  # of these, at least so many hold each skill and each routing mechanism in use
  config.subset = 0  # then keep only so many of them, an equal share per depth; 0 keeps all
  config.overlap = ()  # (support, share): that share of them comes from another finite support
  config.without_skills = ()  # names; compositions that use one of them are left out
  config.without_routings = ()  # names, likewise
  config.with_skills = ()  # names; only compositions that use at least one of them; () asks nothing
  config.with_routings = ()  # names, likewise
  config.without_pairs = ()  # steps, as 'merge reverse'; compositions that hold one are left out
  config.with_pairs = ()  # steps; only compositions that hold at least one; () asks nothing
  config.dry = False  # letters are noise without loss: shows a depth's format and no module
  config.prefix = 0  # each problem begins with 0 to so many dry steps, in its trace or given
  config.update(changes)
  return config


def _fields(kind: str) -> list[tuple[str, type]]:
  """Names and types of the settings of a kind of stage."""
  fields = dataclasses.fields(KINDS[kind].section)
  return [(field.name, get_origin(field.type) or field.type) for field in fields]


def stage(
  kind: str,
  init_from: str,
  steps: int,
  data: tuple[str, ...],
  shares: tuple[float, ...] = (1.0,),
  **settings,
) -> ConfigDict:
  """A node of the experiment's graph. `settings`: what differs for it from its kind's section."""
  config = ConfigDict()
  config.kind = kind  # sft | rl | rft: which section below holds its settings
  config.init_from = init_from  # stage that it starts from, or WORKDIR:STAGE; '' is from scratch
  config.steps = steps  # updates (rl, rft: batches of prompts)
  config.data = data  # names of `supports`
  config.shares = shares  # share of each batch that each support of `data` fills; they add up to 1
  config.settings = ConfigDict(  # any field of its kind's section; None is as it stands there
    {name: placeholder(t) for name, t in _fields(kind)}
  )
  config.settings.update(settings)
  return config


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.experiment = 'default'  # name in results and reports
  config.seed = 0  # initialisation, data order, sampling (the split of compositions is pools.salt)
  config.seeds = ()  # replicates, e.g. (0, 1, 2), in place of `seed`; () uses `seed`

  config.task = ConfigDict()
  config.task.alphabet = 8  # letters; even
  config.task.width = 6  # width cap: longest string, letters
  config.task.min_input = 3  # shortest input, letters
  config.task.max_input = 4  # longest input, letters
  config.task.max_depth = 8  # depth cap of anything in this experiment, steps
  config.task.n_labels = 10  # labels that name values: max_depth + 2 or more; the first is random
  config.task.trace = (
    'explicit'  # explicit: a step shows operand and result | compact: the result only
  )
  config.task.skills = ()  # names of the skills in use; () is all
  config.task.routings = ()  # names of the routing mechanisms in use; () is all

  config.pools = ConfigDict()
  config.pools.salt = 1  # of the content hash: another salt is another split of compositions
  config.pools.test = 0.2  # share of all compositions; reported numbers come from here
  config.pools.validation = 0.1  # settings are chosen here
  config.pools.sft = 0.35  # SFT trains here
  config.pools.rl = 0.35  # stages that explore train here

  config.supports = ConfigDict(sort_keys=False)  # named sets, in the order in which they are given
  config.supports.sft = support(compositions=100)  # what SFT trains on
  config.supports.unseen = support(pool='test')  # never trained on
  config.supports.deeper = support(pool='test', depths=(4, 5))  # likewise, and deeper
  config.supports.atoms = support(depths=(1,))  # every pair of modules alone

  config.model = ConfigDict()
  config.model.d_model = 64  # width
  config.model.n_layers = 2  # blocks of attention and feed-forward part
  config.model.repeats = 1  # times that all blocks are run, in order, with the same weights
  config.model.n_heads = 2  # attention heads; 4 were behind (results/NOTES.md)
  config.model.d_ff = 256  # hidden width of the feed-forward part
  config.model.positions = 'segment'  # segment: name of its segment and index in it | rope | none
  config.model.address_markers = 3  # of `segment`: so many last markers are part of an address
  config.model.conv_width = 4  # columns seen by the causal convolution before attention; 0 is none
  config.model.tied = True  # the output head is the token embedding's transpose
  config.model.dtype = 'float32'  # of activations: float32 | bfloat16 (the rest stays float32)
  config.model.remat = False  # recompute activations for gradients: less memory, more time
  config.model.scan_layers = False  # one compiled layer for all: compiles faster, runs slower

  config.optimizer = ConfigDict()
  config.optimizer.b1 = 0.9  # AdamW: decay of the first moment
  config.optimizer.b2 = 0.98  # AdamW: decay of the second moment
  config.optimizer.eps = 1e-8  # keeps divisions by moments and norms finite
  config.optimizer.weight_decay = 0.01  # decoupled, of all parameters
  config.optimizer.clip_norm = 1.0  # global gradient norm
  config.optimizer.muon_scale = (
    5.0  # muon: learning rate of the weight matrices over that of the rest
  )

  config.sft = ConfigDict()
  config.sft.batch = 64  # problems an update
  config.sft.optimizer = 'muon'  # adamw | muon
  config.sft.lr = 4e-3  # peak
  config.sft.warmup = 100  # updates from 0 to the peak
  config.sft.schedule = 'cosine'  # constant | cosine (to a tenth of the peak)
  config.sft.schedule_steps = 0  # updates until the cosine ends; 0: as many as the stage has

  config.rl = ConfigDict()
  config.rl.prompts = 128  # problems a batch
  config.rl.group = 4  # sampled traces a problem
  config.rl.temperature = 1.2  # of sampling; the gradient is of the same tempered policy
  config.rl.reward = 'answer'  # answer | strict | steps (learning/exploration.py)
  config.rl.anchor = ()  # supports of an auxiliary SFT loss in every update; () is none
  config.rl.anchor_batch = 32  # its problems an update
  config.rl.anchor_weight = 0.1  # of its loss
  config.rl.optimizer = 'muon'  # adamw | muon
  config.rl.lr = 4e-4  # peak
  config.rl.warmup = 20  # updates from 0 to the peak
  config.rl.schedule = 'cosine'  # constant | cosine (to a tenth of the peak)
  config.rl.schedule_steps = 0  # updates until the cosine ends; 0: as many as the stage has
  config.rl.estimator = 'rloo'  # reinforce | rloo | grpo | dr_grpo (learning/losses.py)
  config.rl.average = 'token'  # token | sequence | constant: how token losses become one
  config.rl.epochs = 1  # updates on each batch; 1 is exactly on-policy
  config.rl.clip_low = 0.2  # the probability ratio is clipped to [1 - clip_low, 1 + clip_high]
  config.rl.clip_high = 0.28  # see clip_low
  config.rl.kl = 0.0  # weight of KL(policy || the stage's initial policy), per token
  config.rl.entropy = 0.0  # weight of the entropy bonus, nats per token
  config.rl.drop_no_signal = False  # leave out groups whose samples all earn the same

  config.rft = ConfigDict()
  config.rft.prompts = 128  # problems a batch
  config.rft.group = 4  # sampled traces a problem; those rewarded are learned from
  config.rft.temperature = 1.2  # of sampling
  config.rft.reward = 'answer'  # answer | strict | steps (learning/exploration.py)
  config.rft.anchor = ()  # supports of an auxiliary SFT loss in every update; () is none
  config.rft.anchor_batch = 32  # its problems an update
  config.rft.anchor_weight = 0.1  # of its loss
  config.rft.optimizer = 'muon'  # adamw | muon
  config.rft.lr = 4e-4  # peak
  config.rft.warmup = 20  # updates from 0 to the peak
  config.rft.schedule = 'cosine'  # constant | cosine (to a tenth of the peak)
  config.rft.schedule_steps = 0  # updates until the cosine ends; 0: as many as the stage has
  config.rft.sampler = 'parent'  # whose traces: parent (the stage's initial parameters) | current

  config.stages = ConfigDict(sort_keys=False)  # the arms, in the order of tables and figures
  config.stages.sft = stage('sft', '', 2000, ('sft',))  # kind, init_from, steps, data

  config.eval = ConfigDict()
  config.eval.problems = 1024  # per split and depth, greedy
  config.eval.every = 500  # updates between points of learning curves; 0: only the end
  config.eval.curve = ('atoms', 'seen', 'unseen', 'deeper')  # splits of learning curves
  config.eval.curve_problems = 256  # per split and depth at a point, greedy; 0 is `problems`
  config.eval.pass_k = (1, 4, 16)  # unbiased pass@k; () is none
  config.eval.pass_samples = 16  # traces a problem for it (the first problems / pass_samples)
  config.eval.splits = ConfigDict(sort_keys=False)  # split -> name of a support
  config.eval.splits.atoms = 'atoms'  # single steps
  config.eval.splits.seen = 'sft'  # the SFT compositions, new inputs
  config.eval.splits.unseen = 'unseen'  # trained depths, compositions of the pool `test`
  config.eval.splits.deeper = 'deeper'  # likewise, deeper than anything trained on
  # Splits that training may share compositions with. All others are checked to be unseen.
  config.eval.trained = ('atoms', 'seen')

  # What summary.json reports: (name, ((weight, arm, split, depth), ...)). Depth 0 is the mean over
  # the split's depths.
  config.contrasts = ()

  config.mesh = ConfigDict()
  config.mesh.replicate = 1  # groups of devices that replicates are spread over
  config.mesh.data = -1  # devices of a group, which share a batch; -1 is the rest (on CPU: cores)
  config.mesh.model = 1  # devices that parameters are split over, for models too large for one
  config.mesh.parts = 0  # N: a batch in N parts, for the same bits on any mesh; 0: one a device

  config.run = ConfigDict()
  config.run.steps_per_call = 20  # updates a row of metrics, a dispatch where it takes seconds
  config.run.checkpoint_every = 500  # updates
  config.run.checkpoint_every_s = 60.0  # seconds, beside it
  config.run.grace_s = 8.0  # seconds from SIGTERM or Ctrl-C to a save; later it is given up
  config.run.max_skipped = 3  # updates in a row that NaN or infinity may spoil; then the run stops
  config.run.max_log_prob_gap = 0.01  # nats between sampler and learner, likewise (bfloat16: 1.0)
  config.run.microbatch_rows = (
    0  # packed rows whose gradient a device computes at a time; 0 suits it
  )
  config.run.distributed = 'auto'  # is this one of several processes of a run? auto | on | off
  config.run.join_s = 300.0  # seconds that the processes of a run wait for each other at its start
  config.run.stuck_s = 1800.0  # seconds in which the processes of a run must meet, or it ends
  config.run.writers = ()  # metrics go there too: tensorboard | wandb (pip extras tb, wandb)
  config.run.profile = ()  # (first, last) update of every stage to profile; () is none
  for name, kind in KINDS.items():  # kinds of stage that are not written out above
    if name not in config:
      config[name] = ConfigDict(dataclasses.asdict(kind.section()))
  return config
