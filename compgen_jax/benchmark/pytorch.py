"""The same SFT step in PyTorch, the way it would be written there: what a JAX codebase has to be worth.

Same parameters, loss (checked), problems and optimizer (AdamW, in its fused form), padded on the right to the longest of the
batch; attention by `scaled_dot_product_attention`. It gets its batch for free; our step samples and packs its own.
"""

import importlib.util
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import STEPS, Workload, at_shape
from compgen_jax.config import ConfigError
from compgen_jax.experiment import platform
from compgen_jax.learning import sft


def require() -> None:
  """Raises ConfigError where PyTorch or TRL is not installed."""
  if any(importlib.util.find_spec(name) is None for name in ('torch', 'trl')):
    raise ConfigError("peer=True: needs PyTorch and TRL; legal is after pip install '.[peer]'")


def compare(config, shapes: list[tuple[int, int]], repeats: int) -> list[dict[str, Any]]:
  """Milliseconds of a step, ours beside PyTorch eager and compiled, in turn, at each shape."""
  import torch

  torch.set_num_threads(platform.cores())
  out = []
  for d_model, n_layers in shapes:
    written_there = dict(
      model__positions='segment',
      model__address_markers=1,
      model__conv_width=4,
      model__tied=True,
      model__dtype='float32',
    )
    written_there['sft__optimizer'] = 'adamw'
    work = Workload(at_shape(config, d_model, n_layers, **written_there), rows=512)
    batch, loss = _batch(work)
    steps = {
      what: _step(torch, work, batch, loss, compiled=what == 'compiled')
      for what in ('eager', 'compiled')
    }
    ours = work.step('sft')
    taken = {what: [] for what in steps}
    for _ in range(repeats):
      timing.in_turn([ours], 1)
      for what, step in steps.items():
        step()
        started = time.perf_counter()
        for _ in range(STEPS):
          step()
        taken[what].append((time.perf_counter() - started) / STEPS)
    out += [
        dict(shape=f'd{d_model}x{n_layers}', what=f'PyTorch {torch.__version__}, {what}', step='sft_step',
             milliseconds=1e3 * statistics.median(seconds), ours_milliseconds=1e3 * ours.median / STEPS)
        for what, seconds in taken.items()
    ]  # fmt: skip
  return out


def _batch(work: Workload) -> tuple[dict[str, np.ndarray], float]:
  """A batch of the SFT stage, one problem a row, padded on the right; and our loss on it."""
  rendered = jax.device_get(work.batch('sft'))
  counted = np.arange(rendered.trace.shape[1]) < rendered.trace_length[:, None]
  dry = np.arange(rendered.trace.shape[1]) < rendered.dry_length[:, None]
  counted &= (rendered.trace >= work.task.alphabet) | ~dry
  tokens = np.concatenate([rendered.prompt, rendered.trace], axis=1)
  no_prompt = np.zeros(rendered.prompt.shape, bool)
  weight = np.concatenate([no_prompt, counted], axis=1) / counted.sum()
  heads_only = np.concatenate([no_prompt, dry], axis=1)
  left = rendered.prompt.shape[1] - rendered.prompt_length
  width = int(np.max(rendered.prompt_length + rendered.trace_length))
  at = np.minimum(left[:, None] + np.arange(width), tokens.shape[1] - 1)
  real = np.arange(width) < (rendered.prompt_length + rendered.trace_length)[:, None]
  tokens = np.where(real, np.take_along_axis(tokens, at, axis=1), work.task.pad)
  weight = np.where(real, np.take_along_axis(weight, at, axis=1), 0.0).astype(np.float32)
  heads_only = real & np.take_along_axis(heads_only, at, axis=1)
  heads, indices = jax.device_get(work.model._segments(jnp.asarray(tokens[:, :-1])))
  batch = dict(token=tokens[:, :-1], target=tokens[:, 1:], weight=weight[:, 1:], indices=indices,
               heads=heads[..., 0], heads_only=heads_only[:, 1:])  # fmt: skip
  document = (batch['token'] != work.task.pad).astype(np.int32)
  loss, _ = jax.jit(lambda p, b: sft.cross_entropy(p, b, work.base))(
    work.params, batch | dict(document=document)
  )
  return batch, float(loss)


def _step(torch, work: Workload, batch: dict[str, np.ndarray], our_loss: float, compiled: bool):
  """One update: a function of nothing."""
  F, cfg = torch.nn.functional, work.config.model
  d_head, scale = cfg.d_model // cfg.n_heads, (2 * cfg.n_layers) ** -0.5
  tensor = lambda a: torch.from_numpy(np.array(a))
  params = jax.tree.map(lambda a: tensor(a).requires_grad_(), jax.device_get(work.params))
  data = {name: tensor(a).long() if a.dtype.kind == 'i' else tensor(a) for name, a in batch.items()}

  def norm(x, weight):
    return F.rms_norm(x, (cfg.d_model,), weight, 1e-6)

  def logits(p, data):
    ends, blocks = p['ends'], p['blocks']
    x = F.embedding(data['token'], ends['token'])
    x = (
      x
      + F.embedding(data['heads'], ends['segment_head'])
      + F.embedding(data['indices'], ends['segment_index'])
    )
    rows, columns, _ = x.shape
    for i in range(cfg.n_layers):
      h = norm(x, blocks['attention_norm']['scale'][i])
      taps = blocks['conv'][i].T.flip(1)[:, None]  # [D, 1, C]; torch correlates
      h = h + F.conv1d(
        F.pad(h.transpose(1, 2), (cfg.conv_width - 1, 0)), taps, groups=cfg.d_model
      ).transpose(1, 2)
      q, k, v = (
        (h @ blocks['qkv'][i]).view(rows, columns, 3, cfg.n_heads, d_head).permute(2, 0, 3, 1, 4)
      )
      mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
      x = (
        x
        + mixed.transpose(1, 2).reshape(rows, columns, cfg.d_model)
        @ blocks['attention_out'][i]
        * scale
      )
      h = norm(x, blocks['ff_norm']['scale'][i])
      x = x + F.relu(h @ blocks['ff_in'][i]).square() @ blocks['ff_out'][i] * scale
    return norm(x, ends['norm']['scale']) @ ends['token'].T * cfg.d_model**-0.5

  def loss(p, data):
    z = logits(p, data)
    token = torch.arange(z.shape[-1])
    barred = data['heads_only'][..., None] & (token < work.model.n_content)
    barred |= token == work.model.pad
    z = z.masked_fill(barred, -1e30).flatten(0, 1)
    return (
      F.cross_entropy(z, data['target'].flatten(), reduction='none') * data['weight'].flatten()
    ).sum()

  optimizer = torch.optim.AdamW(jax.tree.leaves(params), lr=1e-4, fused=True)
  loss = torch.compile(loss) if compiled else loss
  found = loss(params, data).item()
  assert abs(found - our_loss) < 1e-3 * our_loss, (
    f'PyTorch computes another loss: {found} against {our_loss}'
  )

  def step():
    optimizer.zero_grad(set_to_none=True)
    loss(params, data).backward()
    optimizer.step()

  step()
  return step
