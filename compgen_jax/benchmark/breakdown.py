"""What an update of SFT and one of RL are made of, and what several seeds cost side by side."""

from typing import Any, NamedTuple

import jax

from compgen_jax.benchmark.parts import Parts
from compgen_jax.benchmark.timing import Program
from compgen_jax.benchmark.workload import STEPS, Workload
from compgen_jax.experiment import platform
from compgen_jax.learning import batches, state


class Pieces(NamedTuple):
  """Programs that do the first pieces of an update (or, `update`, the last one)."""

  sft_draw: Program
  sft_draw_and_pack: Program
  update: Program
  rl_draw: Program
  rl_explore: Program
  sft_step_of_all_seeds: Program
  rl_step_of_all_seeds: Program


def compiled(work: Workload, n_seeds: int) -> Pieces:
  """All pieces, ready to be timed."""
  sft, rl = work.stage(work.chosen.sft).setup, work.stage(work.chosen.rl).setup

  def sft_draw(key):
    return batches.draw(key, sft.sources, work.samplers, sft)[2].trace

  def rl_draw(key):
    return batches.draw(jax.random.split(key)[0], rl.sources, work.samplers, rl)[2].trace

  def update(train_state):
    return state.update(train_state, train_state.params, {}, sft, learning_rate=1e-3)[0]

  create = jax.jit(lambda params: state.create(sft, params))
  return Pieces(
    sft_draw=work.on_devices(sft_draw, work.key),
    sft_draw_and_pack=work.on_devices(lambda key: work.sft_rows(key)[0], work.key),
    update=work.on_devices(update, create(work.params), row_outputs=False),
    rl_draw=work.on_devices(rl_draw, work.key),
    rl_explore=work.explore(),
    sft_step_of_all_seeds=work.step(work.chosen.sft, n_seeds),
    rl_step_of_all_seeds=work.step(work.chosen.rl, n_seeds),
  )


def result(pieces: Pieces, parts: Parts, shape: str, n_seeds: int) -> dict[str, Any]:
  """Milliseconds of each piece, and the time of an update of several seeds over that of one."""
  ms = Pieces(*(1e3 * piece.median for piece in pieces))
  sft_ms, rl_ms = parts.sft_step.step_ms, parts.rl_step.step_ms
  return dict(
    shape=shape,
    sft_step=dict(
      sample=ms.sft_draw,
      pack=ms.sft_draw_and_pack - ms.sft_draw,
      gradient=sft_ms - ms.sft_draw_and_pack - ms.update,
      update=ms.update,
    ),
    rl_step=dict(
      sample=ms.rl_draw,
      rollout_and_verify=ms.rl_explore - ms.rl_draw,
      gradient=rl_ms - ms.rl_explore - ms.update,
      update=ms.update,
    ),
    rl_rollout_share=ms.rl_explore / rl_ms,
    seeds=n_seeds,
    side_by_side=platform.side_by_side(),
    sft_step_over_one_seed=ms.sft_step_of_all_seeds / STEPS / sft_ms,
    rl_step_over_one_seed=ms.rl_step_of_all_seeds / STEPS / rl_ms,
  )
