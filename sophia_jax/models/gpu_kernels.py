"""Attention kernels of NVIDIA GPUs, run on each device's part of the mesh.

  cudnn           cuDNN's fused attention; bf16 and fp16, Hopper and later
  pallas          jax's fused attention in Triton; any dtype
  tokamax_mosaic  tokamax's attention in Mosaic; Python 3.12, an attached GPU
  tokamax_triton  tokamax's attention in Triton; the same

jax's own attention in Mosaic (pallas.ops.gpu.attention_mgpu) knows no segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from sophia_jax.models import cudnn as fused
from sophia_jax.models import device_kernels as device
from sophia_jax.models.device_kernels import KV, ROWS, Layout, Q, Segments

BLOCK = 64
"""Queries, and keys, that the Triton kernel holds at a time."""


def cudnn(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """Runs cuDNN's fused attention; tiles are whole, so their ids are not read."""

  def local(q, k, v, ids):
    if layout.causal:
      return fused.rows(q, k, v, ids, _triton)
    return fused.tiles(q, k, v)

  return device.on_each(local, layout, q, k, v, segment_ids)


def pallas(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """Runs jax.experimental.pallas.ops.gpu.attention."""

  def local(q, k, v, ids):
    return _triton(q, k, v, ids, layout.causal)

  return device.on_each(local, layout, q, k, v, segment_ids)


def _triton(
  q: Q, k: KV, v: KV, segment_ids: Segments, causal: bool = True
) -> Q:
  """Repeats key and value heads: the kernel has as many as query heads."""
  from jax.experimental.pallas.ops.gpu import attention

  k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
  return attention.mha(
    *(q, k, v, segment_ids),
    sm_scale=q.shape[-1] ** -0.5,
    causal=causal,
    block_sizes=attention.BlockSizes(*(BLOCK,) * 6),
    interpret=device.platform() == "cpu",
  )


def tokamax_mosaic(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """Runs tokamax's attention in Mosaic."""
  run = _tokamax("mosaic_gpu", layout)
  return device.on_each(run, layout, q, k, v, segment_ids)


def tokamax_triton(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """Runs tokamax's attention in Triton."""
  run = _tokamax("triton", layout)
  return device.on_each(run, layout, q, k, v, segment_ids)


def _tokamax(name: str, layout: Layout) -> Callable[..., Q]:
  """Returns tokamax's implementation as a function of segments."""
  from tokamax._src.ops.attention import api, base

  def local(q, k, v, ids):
    first = begins(ids)[:, None] if layout.causal else None
    mask = base.Mask(k_start=first, is_causal=layout.causal)
    run: Any = api.IMPLEMENTATIONS[name]
    return run(q, k, v, mask=mask, logits_scale=q.shape[-1] ** -0.5)

  return local


def begins(segment_ids: Segments) -> Int[Array, "B T"]:
  """Returns where each token's segment begins in its row."""
  index = jnp.arange(segment_ids.shape[1])
  new = segment_ids[:, 1:] != segment_ids[:, :-1]
  new = jnp.pad(new, ((0, 0), (1, 0)))
  return jax.lax.cummax(jnp.where(new, index, 0), axis=1)
