"""A GRPO step of the same size in TRL (von Werra et al.), the library that most who do this in
PyTorch would take.

The same prompts and number of samples, samples as long as ours, one update; the policy is a Llama
of the same width, depth, heads and number of parameters. Ours draws its own problems and checks
every step of each trace; TRL gets its prompts for free, compares the end of a string, and updates
with AdamW.
"""

import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import RL, STEPS, Workload, at_shape
from compgen_jax.experiment import platform


def compare(config, shapes: list[tuple[int, int]], rows: int, repeats: int) -> list[dict[str, Any]]:
  """`beside` ours at each shape, every sample written to its last column and learned from."""
  out = []
  for d_model, n_layers in shapes:
    work = Workload(
      at_shape(config, d_model, n_layers, rows, model__dtype='float32', rl__optimizer='adamw'), rows
    )
    out.append(beside(work, np.full(rows, work.n_trace), repeats, 'rl_step'))
  return out


def beside(work: Workload, length_B: np.ndarray, repeats: int, step: str) -> dict[str, Any]:
  """Milliseconds of an RL step, ours beside TRL's with samples of these lengths, in turn."""
  import torch
  import trl

  torch.set_num_threads(platform.cores())
  ours = work.step(RL)
  seconds = _train(work, length_B, repeats, lambda: timing.in_turn([ours], 1))
  model = work.config.model
  return dict(
      shape=f'd{model.d_model}x{model.n_layers}', what=f'GRPO, TRL {trl.__version__}, PyTorch {torch.__version__}',
      step=step, milliseconds=1e3 * statistics.median(seconds), ours_milliseconds=1e3 * ours.median / STEPS,
  )  # fmt: skip


def _train(work: Workload, length_B: np.ndarray, repeats: int, between) -> list[float]:
  """Seconds of each of TRL's steps but the first; calls `between` after each."""
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  import torch
  from datasets import Dataset
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
  )
  from transformers.generation import LogitsProcessor
  from trl import GRPOConfig, GRPOTrainer

  task, cfg, rl = work.task, work.config.model, work.config.rl
  words = Tokenizer(
    models.WordLevel({str(i): i for i in range(task.vocab_size)}, unk_token=str(task.pad))
  )
  words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words,
    pad_token=str(task.pad),
    unk_token=str(task.pad),
    eos_token=str(task.end),
    padding_side='left',
  )
  prompts = work.batch(RL).prompt.tolist()
  # Its feed-forward part has three matrices, not two.
  llama = LlamaConfig(
      vocab_size=task.vocab_size, max_position_embeddings=work.n_prompt + work.n_trace, hidden_size=cfg.d_model,
      intermediate_size=round(cfg.d_ff * 2 / 3), num_hidden_layers=cfg.n_layers, num_attention_heads=cfg.n_heads,
      tie_word_embeddings=cfg.tied, bos_token_id=task.end, eos_token_id=task.end, pad_token_id=task.pad,
  )  # fmt: skip
  seconds, since = [], [0.0]

  class OnTime(LogitsProcessor):
    """Ends each row at its length, and not before."""

    n_written = 0

    def __call__(self, tokens, scores):
      self.n_written += 1
      scores[:, task.end] = torch.where(torch.from_numpy(length_B <= self.n_written), 1e9, -1e9)
      return scores

  class Policy(LlamaForCausalLM):
    def generate(self, *args, **kwargs):
      return super().generate(*args, logits_processor=[OnTime()], **kwargs)

  class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
      since[0] = time.perf_counter()

    def on_step_end(self, *_, **__):
      seconds.append(time.perf_counter() - since[0])
      between()

  with tempfile.TemporaryDirectory() as folder:
    args = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False,
        report_to='none', save_strategy='no', logging_strategy='no', disable_tqdm=True,
        per_device_train_batch_size=work.rows, num_generations=rl.group, temperature=rl.temperature, beta=0.0,
        max_completion_length=work.n_trace, max_steps=repeats + 1,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=Policy(llama), args=args, processing_class=tokenizer, callbacks=[Clock()],
        reward_funcs=lambda completions, **_: [float(c.endswith('1')) for c in completions],
        train_dataset=Dataset.from_list([{'prompt': ' '.join(str(t) for t in p if t != task.pad)} for p in prompts]),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
  return seconds[1:]
