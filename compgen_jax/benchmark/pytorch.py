"""The same SFT step in PyTorch, as one would write it there.

The parameters, the loss (checked), the problems and the optimizer (AdamW, fused) are the same. Each
problem has a row of its own, padded on the right to the longest of the batch; attention is
`scaled_dot_product_attention`. PyTorch gets its batch for free; our step samples and packs its own.
"""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from compgen_jax.benchmark import timing
from compgen_jax.benchmark.workload import ROWS, STEPS, Workload, at_shape
from compgen_jax.errors import ConfigError
from compgen_jax.experiment import platform
from compgen_jax.learning import sft
from compgen_jax.learning.devices import Devices

# What is written there. The rest of the config is free.
_MODEL = dict(
  model__positions='segment',
  model__conv_width=4,
  model__tied=True,
  model__dtype='float32',
  model__repeats=1,
)


def require() -> None:
  """Raises ConfigError where PyTorch or TRL is not installed."""
  if any(importlib.util.find_spec(name) is None for name in ('torch', 'trl')):
    raise ConfigError("peer=True: needs PyTorch and TRL; legal is after pip install '.[peer]'")


def compare(
  config: ConfigDict, shapes: list[tuple[int, int]], repeats: int
) -> list[dict[str, Any]]:
  """Milliseconds of a step at each shape: ours, PyTorch eager and PyTorch compiled, in turn."""
  import torch

  torch.set_num_threads(platform.cores())
  found = []
  for d_model, n_layers in shapes:
    changed = at_shape(config, d_model, n_layers, sft={'optimizer': 'adamw'}, **_MODEL)
    work = Workload(changed, ROWS)
    batch, loss = golden_batch(work)
    steps = {'eager': _step(work, batch, loss, False), 'compiled': _step(work, batch, loss, True)}
    ours = work.step(work.chosen.sft)
    taken: dict[str, list[float]] = {how: [] for how in steps}
    for _ in range(repeats):
      timing.in_turn([ours], 1)
      for how, step in steps.items():
        taken[how].append(_seconds(step))
    for how, seconds in taken.items():
      found.append(
        dict(
          shape=f'd{d_model}x{n_layers}',
          what=f'PyTorch {torch.__version__}, {how}',
          step='sft_step',
          milliseconds=1e3 * statistics.median(seconds),
          ours_milliseconds=1e3 * ours.median / STEPS,
        )
      )
  return found


def _seconds(step: Callable[[], None]) -> float:
  """Seconds of a step: the mean of STEPS of them, after one that is not timed."""
  step()
  started = time.perf_counter()
  for _ in range(STEPS):
    step()
  return (time.perf_counter() - started) / STEPS


def golden_batch(work: Workload) -> tuple[dict[str, np.ndarray], float]:
  """A whole batch of SFT, one problem a row, and our loss on it.

  Arrays [B, T]: `token`, `target`, `marker` ([B, T, I]) and `index` int, `weight` float32,
  `markers_only` bool, as `sft.golden_rows` makes them (`marker` and `index` are `Model.addresses`).
  """
  setup = dataclasses.replace(work.stage(work.chosen.sft).setup, devices=Devices())
  rows, _ = jax.jit(lambda key: sft.golden_rows(key, setup.sources, work.samplers, setup))(work.key)
  batch = unpacked(jax.device_get(rows), work.task.pad)
  document = (batch['token'] != work.task.pad).astype(np.int32)
  loss_of = jax.jit(lambda params, rows: sft.cross_entropy(params, rows, setup)[0])
  loss = loss_of(work.params, batch | dict(document=document))
  marker, index = jax.device_get(work.model.addresses(jnp.asarray(batch['token'])))
  return batch | dict(marker=marker, index=index), float(loss)


def unpacked(rows: dict[str, np.ndarray], pad: int) -> dict[str, np.ndarray]:
  """Packed rows with a row for each document, in their order, as wide as the longest of them.

  Behind a document's end `token` and `target` hold `pad`, everything else 0.
  """
  document_X = rows['document'].reshape(-1)
  cells = [np.flatnonzero(document_X == d) for d in np.unique(document_X[document_X > 0])]
  width = max(map(len, cells))
  batch = {}
  for name in rows.keys() - {'document'}:
    feature_X = rows[name].reshape(-1)
    fill = pad if name in ('token', 'target') else 0
    batch[name] = np.full((len(cells), width), fill, feature_X.dtype)
    for row, at in zip(batch[name], cells):
      row[: len(at)] = feature_X[at]
  return batch


def _step(
  work: Workload, batch: dict[str, np.ndarray], our_loss: float, compiled: bool
) -> Callable[[], None]:
  """One update, ready to be called; its loss on our parameters is checked."""
  import torch

  def tensor(a):
    copy = torch.from_numpy(np.array(a))
    return copy.long() if a.dtype.kind == 'i' else copy

  params = jax.tree.map(lambda a: tensor(a).requires_grad_(), jax.device_get(work.params))
  data = {name: tensor(a) for name, a in batch.items()}

  def eager_loss(params, data):
    return _loss(work, params, data)

  optimizer = torch.optim.AdamW(jax.tree.leaves(params), lr=1e-4, fused=True)
  loss = torch.compile(eager_loss) if compiled else eager_loss
  found = loss(params, data).item()
  same = abs(found - our_loss) < 1e-3 * our_loss
  assert same, f'PyTorch computes another loss: {found} against {our_loss}'

  def step():
    optimizer.zero_grad(set_to_none=True)
    loss(params, data).backward()
    optimizer.step()

  step()
  return step


def _loss(work: Workload, params, data):
  """`sft.cross_entropy` in PyTorch."""
  import torch

  logits = _logits(work, params, data)
  is_letter = torch.arange(logits.shape[-1]) < work.model.n_content
  logits = logits.masked_fill(data['markers_only'][..., None] & is_letter, -1e30)
  flat = logits.flatten(0, 1), data['target'].flatten()
  of_token = torch.nn.functional.cross_entropy(*flat, reduction='none')
  return (of_token * data['weight'].flatten()).sum()


def _logits(work: Workload, params, data):
  """`Model.apply` in PyTorch."""
  import torch

  functions, cfg = torch.nn.functional, work.config.model
  ends, blocks = params['ends'], params['blocks']
  residual_scale = (2 * cfg.n_layers) ** -0.5

  def norm(x, scale):
    return functions.rms_norm(x, (cfg.d_model,), scale, 1e-6)

  x = functions.embedding(data['token'], ends['token'])
  for i in range(data['marker'].shape[-1]):
    x = x + functions.embedding(data['marker'][..., i], ends[f'marker_{i}'])
  x = x + functions.embedding(data['index'], ends['index'])
  for i in range(cfg.n_layers):
    h = norm(x, blocks['attention_norm']['scale'][i])
    mixed = _attend(_convolve(h, blocks['conv'][i]), blocks['qkv'][i], cfg.n_heads)
    x = x + mixed @ blocks['attention_out'][i] * residual_scale
    h = norm(x, blocks['ff_norm']['scale'][i])
    h = functions.relu(h @ blocks['ff_in'][i]).square()
    x = x + h @ blocks['ff_out'][i] * residual_scale
  logits = norm(x, ends['norm']['scale']) @ ends['token'].T * cfg.d_model**-0.5
  return logits.masked_fill(torch.arange(logits.shape[-1]) == work.task.pad, -1e30)


def _convolve(h_BxTxD, kernel_OxD):
  """The causal depthwise convolution, added to its input."""
  import torch

  n_taps, width = kernel_OxD.shape
  taps_Dx1xO = kernel_OxD.T.flip(1)[:, None]  # PyTorch correlates
  padded = torch.nn.functional.pad(h_BxTxD.transpose(1, 2), (n_taps - 1, 0))
  convolved = torch.nn.functional.conv1d(padded, taps_Dx1xO, groups=width)
  return h_BxTxD + convolved.transpose(1, 2)


def _attend(h_BxTxD, qkv_weight, n_heads: int):
  """Causal multi-head attention, before its output projection."""
  import torch

  n_rows, n_columns, width = h_BxTxD.shape
  qkv = (h_BxTxD @ qkv_weight).view(n_rows, n_columns, 3, n_heads, width // n_heads)
  q, k, v = qkv.permute(2, 0, 3, 1, 4)
  mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
  return mixed.transpose(1, 2).reshape(n_rows, n_columns, width)
