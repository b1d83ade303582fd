"""A GRPO step of the same size in TRL (von Werra et al.), the usual library for it in PyTorch.

The prompts, the number of samples and their lengths are ours, and each batch gets one update. The
policy is a Llama of the same width, depth, heads and number of parameters. Our step draws its own
problems and verifies every step of each trace; TRL gets its prompts for free, compares the end of a
string, and updates with AdamW.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import STEPS, Workload, at_shape
from compgen_jax.experiment import platform


def compare(
  config: ConfigDict, shapes: list[tuple[int, int]], rows: int, repeats: int
) -> list[dict[str, Any]]:
  """`beside` at each shape: every sample is written to its last column and learned from."""
  found = []
  for d_model, n_layers in shapes:
    changes = dict(rl={'optimizer': 'adamw'}, model__dtype='float32', model__repeats=1)
    work = Workload(at_shape(config, d_model, n_layers, rows, **changes), rows)
    found.append(beside(work, np.full(rows, work.n_trace), repeats, 'rl_step'))
  return found


def beside(work: Workload, length_B: np.ndarray, repeats: int, step: str) -> dict[str, Any]:
  """Milliseconds of an RL step: ours and TRL's with samples of these lengths, in turn."""
  import torch
  import trl

  torch.set_num_threads(platform.cores())
  ours = work.step(work.chosen.rl)
  seconds = _train(work, length_B, repeats, lambda: timing.in_turn([ours], 1))
  model = work.config.model
  return dict(
    shape=f'd{model.d_model}x{model.n_layers}',
    what=f'GRPO, TRL {trl.__version__}, PyTorch {torch.__version__}',
    step=step,
    milliseconds=1e3 * statistics.median(seconds),
    ours_milliseconds=1e3 * ours.median / STEPS,
  )


def _train(
  work: Workload, length_B: np.ndarray, repeats: int, between: Callable[[], None]
) -> list[float]:
  """Seconds of each of TRL's steps but the first; calls `between` after each."""
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  from transformers import PrinterCallback
  from trl import GRPOConfig, GRPOTrainer

  rl = work.config.settings(work.chosen.rl)
  seconds: list[float] = []
  with tempfile.TemporaryDirectory() as folder:
    args = GRPOConfig(
      output_dir=folder,
      use_cpu=True,
      bf16=False,
      report_to='none',
      save_strategy='no',
      logging_strategy='no',
      disable_tqdm=True,
      per_device_train_batch_size=work.rows,
      num_generations=rl.group,
      temperature=rl.temperature,
      beta=0.0,
      max_completion_length=work.n_trace,
      max_steps=repeats + 1,
    )
    trainer = GRPOTrainer(
      model=_policy(work, length_B),
      args=args,
      processing_class=_tokenizer(work),
      callbacks=[_clock(seconds, between)],
      reward_funcs=_reward,
      train_dataset=_prompts(work),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
  return seconds[1:]


def _policy(work: Workload, length_B: np.ndarray):
  """A Llama of the size of our model, which ends each sample at its length, and not before."""
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM
  from transformers.generation import LogitsProcessor

  task, cfg = work.task, work.config.model

  class OnTime(LogitsProcessor):
    n_written = 0

    def __call__(self, tokens, scores):
      self.n_written += 1
      is_over = torch.from_numpy(length_B <= self.n_written)
      scores[:, task.end] = torch.where(is_over, 1e9, -1e9)
      return scores

  class Policy(LlamaForCausalLM):
    def generate(self, *args, **kwargs):
      return super().generate(*args, logits_processor=[OnTime()], **kwargs)

  llama = LlamaConfig(
    vocab_size=task.vocab_size,
    max_position_embeddings=work.n_prompt + work.n_trace,
    hidden_size=cfg.d_model,
    intermediate_size=round(cfg.d_ff * 2 / 3),  # its feed-forward part has three matrices, not two
    num_hidden_layers=cfg.n_layers,
    num_attention_heads=cfg.n_heads,
    tie_word_embeddings=cfg.tied,
    bos_token_id=task.end,
    eos_token_id=task.end,
    pad_token_id=task.pad,
  )
  return Policy(llama)


def _tokenizer(work: Workload):
  """Token ids as words: `7 12 3` is a prompt."""
  from tokenizers import Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  pad, end = str(work.task.pad), str(work.task.end)
  ids = {str(i): i for i in range(work.task.vocab_size)}
  words = Tokenizer(models.WordLevel(ids, unk_token=pad))
  words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token=pad, unk_token=pad, eos_token=end, padding_side='left'
  )


def _prompts(work: Workload):
  """A batch of prompts as TRL's data set, without padding."""
  from datasets import Dataset

  prompts = work.whole_batch(work.chosen.rl).prompt.tolist()
  pad = work.task.pad
  lines = [' '.join(str(token) for token in prompt if token != pad) for prompt in prompts]
  return Dataset.from_list([{'prompt': line} for line in lines])


def _reward(completions: list[str], **_) -> list[float]:
  return [float(completion.endswith('1')) for completion in completions]


def _clock(seconds: list[float], between: Callable[[], None]):
  """A callback that appends the seconds of each step, and calls `between` after it."""
  from transformers import TrainerCallback

  class Clock(TrainerCallback):
    started = 0.0

    def on_step_begin(self, *_, **__):
      self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
      seconds.append(time.perf_counter() - self.started)
      between()

  return Clock()
