"""Grouped-query attention: three entry points, several implementations.

  attend         causal attention over packed rows
  attend_all     attention of every token of a tile to every other
  attend_cached  attention of one new token of each row to its cache

Scores and softmax are fp32; the weights are cast to the compute dtype before
they multiply the values. Key and value heads are never repeated in memory: the
query heads that share one are a separate axis. Implementations of `attend`:

  xla        all scores of a row at once; any device, any shape
  blockwise  skips what causality and segments exclude; fast on a CPU
  splash, tokamax: models/device_kernels.py; TPU
  cudnn, pallas, tokamax_mosaic, tokamax_triton: models/gpu_kernels.py; NVIDIA GPU

All compute the same function of (q, k, v, segment_ids). "auto" selects by the
platform that the program is traced for. An implementation that does not support
a shape, or is not installed, is replaced by another, with one line in the log.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from sophia_jax.models import cudnn
from sophia_jax.models import device_kernels as device
from sophia_jax.models import gpu_kernels as gpu
from sophia_jax.models.device_kernels import (
  KV,
  LANES,
  RESIDUALS,
  TILES,
  Q,
  Segments,
)

MASKED = -1e30
QUERIES = 256
"""Queries of a tile whose scores exist at the same time, without a kernel."""

BY_PLATFORM = {"cpu": "blockwise", "tpu": "splash", "gpu": "cudnn"}
FALLBACK = {
  "tokamax": "splash",
  "tokamax_mosaic": "cudnn",
  "tokamax_triton": "cudnn",
}
"""Replacement of an implementation that does not fit, if not "xla"."""
SPLASH = ("splash", "tokamax")
ON_GPU = ("cudnn", "pallas", "tokamax_mosaic", "tokamax_triton")

_log = logging.getLogger(__name__)


def attend(
  name: str, q: Q, k: KV, v: KV, segment_ids: Segments
) -> Float[Array, "B T N H"]:
  """Attends from each token to itself and earlier tokens of its segment.

  Args:
    name: implementation, or "auto".

  Raises:
    ValueError: there is no such implementation.
  """
  name = BY_PLATFORM.get(device.platform(), "xla") if name == "auto" else name
  if name not in IMPLEMENTATIONS:
    raise ValueError(
      f"attention {name!r}: known: auto, {', '.join(IMPLEMENTATIONS)}"
    )
  asked, obstacles = name, []
  while why := obstacle(name, q, k):
    if why not in obstacles:
      obstacles.append(why)
    name = _replacement(name)
  if obstacles:
    reasons = "; ".join(obstacles)
    _log_once(f"attention: {name} instead of {asked}: {reasons}")
  out = IMPLEMENTATIONS[name](q, k, v, segment_ids)
  # They name their residuals themselves; named twice they would be kept twice.
  named = name in (*SPLASH, "cudnn")
  return out if named else checkpoint_name(out, RESIDUALS)


def _replacement(name: str) -> str:
  # Triton is interpreted on a CPU, for tests: nobody wants to train with that.
  if name == "cudnn" and device.platform() == "gpu":
    return "pallas"
  return FALLBACK.get(name, "xla")


def obstacle(name: str, q: Q, k: KV) -> str:
  """Returns why an implementation cannot compute this shape; "" if it can."""
  return _absent(name, q) or _of_mesh(name) or _of_shape(name, q, k)


def _absent(name: str, q: Q) -> str:
  """Returns why an implementation does not run in this process."""
  if name.startswith("tokamax") and not _installed("tokamax"):
    return "it is not installed"
  if name in ("tokamax_mosaic", "tokamax_triton") and not _has_gpu():
    return "it is made for the GPU of this process, and there is none"
  if name == "cudnn":
    return cudnn.obstacle(q.dtype, q.shape[-1], packed=True)
  return ""


def _of_mesh(name: str) -> str:
  """Returns why an implementation does not run on the current mesh."""
  if name in ("blockwise", *ON_GPU) and device.shards("act_length") > 1:
    return "rows are sharded over the context axis"
  kernel = name in (*SPLASH, *ON_GPU)
  if kernel and device.current_mesh() is None and jax.device_count() > 1:
    return "there are several devices and no mesh is set"
  return ""


def _of_shape(name: str, q: Q, k: KV) -> str:
  """Returns why an implementation does not take a shape."""
  _, t, n, h = q.shape
  m = k.shape[2]
  least = LANES * device.ContextSplit.of("act_length").pieces
  if name in (*SPLASH, *ON_GPU) and t % least:
    return f"{t} tokens are no multiple of {least}"
  if name in ON_GPU and h not in (64, 128):
    return f"a head width of {h} is neither 64 nor 128"
  if name in SPLASH and h % 64:
    return f"a head width of {h} is no multiple of 64"
  heads = device.shards("act_heads")
  if name != "xla" and (n % heads or m % heads):
    return f"{n} and {m} heads do not divide among {heads} devices"
  return ""


@functools.cache
def _installed(name: str) -> bool:
  return importlib.util.find_spec(name) is not None


def _has_gpu() -> bool:
  return jax.default_backend() == "gpu"


@functools.cache
def _log_once(line: str) -> None:
  _log.info(line)


# -------------------------------------------------------------------- anywhere
def xla(q: Q, k: KV, v: KV, segment_ids: Segments) -> Q:
  """Computes every score and masks most: the reference."""
  index = jnp.arange(q.shape[1])
  return dot_product(q, k, v, _visible(segment_ids, index, segment_ids, index))


def dot_product(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S M H"],
  v: Float[Array, "B S M H"],
  mask: Any = None,
) -> Float[Array, "B T N H"]:
  """Computes softmax attention with scores in fp32.

  The query heads of a key head become rows of one product, because a CPU is slow
  at many small products. The division by the sum comes last, where there is
  least to divide.

  Args:
    mask: [B, T, S], True where a key is visible; None: everywhere.
  """
  b, t, n, h = q.shape
  m = k.shape[2]
  f32, merged = jnp.float32, (b, m, t * (n // m), -1)
  q = q.reshape(b, t, m, n // m, h) * h**-0.5
  q = q.swapaxes(1, 2).reshape(merged)
  scores = jnp.einsum("bmth,bsmh->bmts", q, k, preferred_element_type=f32)
  scores = scores.reshape(b, m, t, n // m, -1)
  if mask is not None:
    scores = jnp.where(mask[:, None, :, None], scores, MASKED)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights.astype(v.dtype).reshape(merged)
  out = jnp.einsum("bmts,bsmh->bmth", weights, v, preferred_element_type=f32)
  out = (out.reshape(b, m, t, n // m, h) / total).astype(v.dtype)
  return out.swapaxes(1, 2).reshape(b, t, n, h)


def full(q: Q, k: Q, v: Q) -> Q:
  """Attends from every query to every key, a block of queries at a time.

  A block is small enough that its scores stay in a CPU's cache.
  """
  parts = [
    dot_product(q[:, first : first + QUERIES], k, v)
    for first in range(0, q.shape[1], QUERIES)
  ]
  return jnp.concatenate(parts, axis=1)


def _visible(
  q_segments: Int[Array, "B T"],
  q_index: Int[Array, "T"],
  k_segments: Int[Array, "B S"],
  k_index: Int[Array, "S"],
) -> Any:
  """Returns a mask: earlier keys of a query's segment, and itself."""
  same = q_segments[:, :, None] == k_segments[:, None, :]
  return same & (q_index[:, None] >= k_index[None, :])


def blockwise(q: Q, k: KV, v: KV, segment_ids: Segments) -> Q:
  """Attends block by block to the keys that causality and segments allow.

  Later keys are cut off statically. How far back a block must look depends on
  where its first segment begins, which is data: a few windows, each half as
  long as the next, are compiled, and the shortest sufficient one is run.
  """
  t = q.shape[1]
  size = max(LANES, -(-t // 16))
  index = jnp.arange(t)
  new = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
  begins = jax.lax.cummax(jnp.where(new, index, 0), axis=1)

  def window(
    block: int, blocks: int, q: Q, k: KV, v: KV, segment_ids: Segments
  ) -> Q:
    """Attends from block `block` of queries to the last `blocks` of keys."""
    end = min((block + 1) * size, t)
    rows = slice(block * size, end)
    seen = slice((block + 1 - blocks) * size, end)
    mask = _visible(
      segment_ids[:, rows], index[rows], segment_ids[:, seen], index[seen]
    )
    return dot_product(q[:, rows], k[:, seen], v[:, seen], mask)

  out = []
  for block in range(-(-t // size)):
    lengths = _windows(block + 1)
    need = block + 1 - jnp.min(begins[:, block * size]) // size
    branches = [functools.partial(window, block, n) for n in lengths]
    # Recomputation covers the taken branch only; if residuals were kept, those
    # of all branches would be allocated.
    run = jax.checkpoint(
      lambda need, *args, branches=branches, lengths=lengths: jax.lax.switch(
        jnp.searchsorted(jnp.asarray(lengths), need), branches, *args
      )
    )
    args = q, k, v, segment_ids
    out.append(run(need, *args) if len(lengths) > 1 else branches[0](*args))
  return jnp.concatenate(out, axis=1)


def _windows(blocks: int, least: int = 4) -> list[int]:
  """Returns window lengths: 16 -> [4, 8, 16].

  Shorter windows would save less than the choice among them costs.
  """
  lengths = [blocks]
  while lengths[0] > least:
    lengths.insert(0, max(least, -(-lengths[0] // 2)))
  return lengths


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
  "xla": xla,
  "blockwise": blockwise,
  "splash": device.splash,
  "tokamax": device.tokamax,
  "cudnn": gpu.cudnn,
  "pallas": gpu.pallas,
  "tokamax_mosaic": gpu.tokamax_mosaic,
  "tokamax_triton": gpu.tokamax_triton,
}


def attend_all(q: Q, k: Q, v: Q) -> Q:
  """Attends from every token of a tile to every other.

  cuDNN takes any number of tokens. For other kernels they are padded to whole
  lanes; the padding is a separate segment.
  """
  name, h = BY_PLATFORM.get(device.platform(), "xla"), q.shape[-1]
  b, t = q.shape[:2]
  if name == "cudnn" and cudnn.obstacle(q.dtype, h, packed=False):
    name = "pallas"
  if name == "cudnn":
    return gpu.cudnn(q, k, v, jnp.ones((b, t), jnp.int32), TILES)
  if name not in ("splash", "pallas") or h not in (64, 128):
    return full(q, k, v)
  padding = ((0, 0), (0, -t % LANES), (0, 0), (0, 0))
  q, k, v = (jnp.pad(x, padding) for x in (q, k, v))
  ids = jnp.broadcast_to(jnp.arange(q.shape[1]) < t, (b, q.shape[1]))
  return IMPLEMENTATIONS[name](q, k, v, ids.astype(jnp.int32), TILES)[:, :t]


def attend_cached(
  q: Float[Array, "B N H"],
  k: Float[Array, "B M H C"],
  v: Float[Array, "B M C H"],
  lengths: Int[Array, "B"],
) -> Float[Array, "B N H"]:
  """Attends from one token of each row to the first `lengths` cache columns."""
  b, n, h = q.shape
  m, c = v.shape[1:3]
  q = q.reshape(b, m, n // m, h) * jnp.asarray(h**-0.5, q.dtype)
  f32 = jnp.float32
  scores = jnp.einsum("bmgh,bmhc->bmgc", q, k, preferred_element_type=f32)
  seen = jnp.arange(c) < lengths[:, None]
  scores = jnp.where(seen[:, None, None], scores, MASKED)
  weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
  weights /= jnp.sum(weights, axis=-1, keepdims=True)
  out = jnp.einsum("bmgc,bmch->bmgh", weights.astype(v.dtype), v)
  return out.reshape(b, n, h)
