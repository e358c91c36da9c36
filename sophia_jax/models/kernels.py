"""Implementations of causal attention over packed rows, by name.

  xla        scores of the whole row at once; anywhere, any shape
  blockwise  skips what causality and segments exclude; what a CPU is fast with
  splash     jax's splash attention; TPU
  pallas     jax's fused attention in Triton; NVIDIA GPU

All are the same function of (q, k, v, segment_ids). "auto" is what suits the
platform that the program is traced for; what does not fit a shape gives way to
"xla", with one line in the log.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

MASKED = -1e30
LANES = 128
"""Tokens and head widths that TPU and GPU kernels count in."""
KERNEL_BLOCK = 1024
"""Queries, and keys, that a TPU kernel holds at a time, at most."""
GRADIENT_KEYS = 2048
"""Keys that its backward pass holds, at most. For every so many it writes a part
of the queries' gradient of the whole size: few are little memory."""
QUERIES = 256
"""Queries of a tile whose scores exist at the same time without a kernel."""
RESIDUALS = "attention"
"""Name of what a rematerialisation policy may keep of attention."""

BY_PLATFORM = {"cpu": "blockwise", "tpu": "splash", "gpu": "pallas"}

_log = logging.getLogger(__name__)

Q = Float[Array, "B T N H"]
KV = Float[Array, "B T M H"]
Segments = Int[Array, "B T"]


def attend(
  name: str, q: Q, k: KV, v: KV, segment_ids: Segments
) -> Float[Array, "B T N H"]:
  """A token attends to itself and to earlier tokens of its own segment.

  Raises:
    ValueError: there is no such implementation.
  """
  name = BY_PLATFORM.get(_platform(), "xla") if name == "auto" else name
  if name not in IMPLEMENTATIONS:
    raise ValueError(
      f"attention {name!r}: known: auto, {', '.join(IMPLEMENTATIONS)}"
    )
  if obstacle := _obstacle(name, q, k):
    _say_once(f"attention: xla instead of {name}: {obstacle}")
    name = "xla"
  out = IMPLEMENTATIONS[name](q, k, v, segment_ids)
  # splash names its own, as it lays them out; named twice they are kept twice.
  return out if name == "splash" else checkpoint_name(out, RESIDUALS)


def _obstacle(name: str, q: Q, k: KV) -> str:
  """Why the implementation cannot compute this shape; "" if it can."""
  _, t, n, h = q.shape
  m, sharded = k.shape[2], _shards("act_length")
  if name in ("blockwise", "pallas") and sharded > 1:
    return "rows are sharded over the context axis"
  if (
    name in ("splash", "pallas") and _mesh() is None and jax.device_count() > 1
  ):
    return "there are several devices and no mesh is set"
  least = LANES * _share("act_length").stretches
  if name in ("splash", "pallas") and t % least:
    return f"{t} tokens are no multiple of {least}"
  if name == "pallas" and h not in (64, 128):
    return f"a head width of {h} is neither 64 nor 128"
  if name == "splash" and h % 64:
    return f"a head width of {h} is no multiple of 64"
  heads = _shards("act_heads")
  if name != "xla" and (n % heads or m % heads):
    return f"{n} and {m} heads do not divide among {heads} devices"
  return ""


@functools.cache
def _say_once(line: str) -> None:
  _log.info(line)


# -------------------------------------------------------------------- anywhere
def xla(q: Q, k: KV, v: KV, segment_ids: Segments) -> Q:
  """The reference: every score is computed, most are masked."""
  index = jnp.arange(q.shape[1])
  return dot_product(q, k, v, _visible(segment_ids, index, segment_ids, index))


def dot_product(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B S M H"],
  v: Float[Array, "B S M H"],
  mask: Any = None,
) -> Float[Array, "B T N H"]:
  """Softmax attention, scores in fp32; `mask` [B, T, S] or None for all.

  The query heads of a key head are rows of one product, beside their token: a
  CPU multiplies many small matrices slowly. The division by the sum comes last,
  where there is least to divide.
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


def every_pair(q: Q, k: Q, v: Q) -> Q:
  """Every query sees every key; so few queries at a time that their scores stay
  in a CPU's cache."""
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
  """Which keys a query may see: earlier ones of its own segment, and itself."""
  same = q_segments[:, :, None] == k_segments[:, None, :]
  return same & (q_index[:, None] >= k_index[None, :])


def blockwise(q: Q, k: KV, v: KV, segment_ids: Segments) -> Q:
  """Blocks of queries against no more keys than causality and segments leave.

  Later keys are cut off statically. How far back a block must look depends on
  where its first segment begins, which is data: a few windows, each half as
  long as the next, are compiled, and the shortest that reaches is run.
  """
  t = q.shape[1]
  size = max(LANES, -(-t // 16))
  index = jnp.arange(t)
  new = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
  begins = jax.lax.cummax(jnp.where(new, index, 0), axis=1)

  def window(
    block: int, blocks: int, q: Q, k: KV, v: KV, segment_ids: Segments
  ) -> Q:
    """Block number `block` of queries against the last `blocks` of keys."""
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
    # Only the branch taken is computed again; kept, the residuals of all
    # branches would be allocated.
    run = jax.checkpoint(
      lambda need, *args, branches=branches, lengths=lengths: jax.lax.switch(
        jnp.searchsorted(jnp.asarray(lengths), need), branches, *args
      )
    )
    args = q, k, v, segment_ids
    out.append(run(need, *args) if len(lengths) > 1 else branches[0](*args))
  return jnp.concatenate(out, axis=1)


def _windows(blocks: int, least: int = 4) -> list[int]:
  """16 -> [4, 8, 16]: shorter windows would save less than their choice costs."""
  lengths = [blocks]
  while lengths[0] > least:
    lengths.insert(0, max(least, -(-lengths[0] // 2)))
  return lengths


# --------------------------------------------------------- kernels of a platform
@dataclasses.dataclass(frozen=True)
class _Layout:
  """Logical axes of what is attended to: all of it, or the past, is seen."""

  batch: str
  length: str | None
  heads: str | None
  causal: bool

  @property
  def specs(self) -> tuple[PartitionSpec, ...]:
    """Of q, k, v and their segments."""
    tokens = _spec(self.batch, self.length, self.heads, None)
    return tokens, tokens, tokens, _spec(self.batch, self.length)


_ROWS = _Layout("act_batch", "act_length", "act_heads", causal=True)
_TILES = _Layout("act_tiles", None, None, causal=False)


def splash(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: _Layout = _ROWS
) -> Q:
  """jax.experimental.pallas.ops.tpu.splash_attention.

  With a context axis every device gathers all keys and values of its rows and
  works on a share of the queries that is as much work as any other's.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )

  h = q.shape[3]
  share = _share(layout.length)
  kernel = _splash_kernel(q, layout, share)

  def local(kernel, q, k, v, ids):
    k, v, seen = (share.whole(x) for x in (k, v, ids))
    q, ids = share.given(q), share.given(ids)
    q, k, v = (x.swapaxes(1, 2) for x in (q * h**-0.5, k, v))
    one = lambda q, k, v, a, b: kernel(q, k, v, kernels.SegmentIds(q=a, kv=b))
    out = jax.vmap(one)(q, k, v, ids, seen).swapaxes(1, 2)
    return share.returned(out)

  args = q, k, v, segment_ids
  mesh = _mesh()
  if mesh is None:
    return local(kernel, *args)
  place = NamedSharding(mesh, _spec(layout.heads, layout.length))
  return _per_device(local, mesh, layout)(
    (kernel.manual_sharding_spec(place),), (kernel, *args)
  )


def _splash_kernel(q: Q, layout: _Layout, share: _Share) -> Any:
  """The kernel for q's shape; it knows which queries every device works on."""
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  t, n = q.shape[1:3]
  mask: masks.Mask = masks.FullMask((t, t))
  if layout.causal:
    mask = masks.CausalMask((t, t))
    mask.q_sequence = share.order(t)
  queries = math.gcd(t // share.stretches, KERNEL_BLOCK)
  keys = math.gcd(t, KERNEL_BLOCK)
  sizes = kernels.BlockSizes(
    block_q=queries,
    block_kv=keys,
    block_kv_compute=min(keys, 512),
    block_q_dkv=queries,
    block_kv_dkv=math.gcd(t, GRADIENT_KEYS),
    block_kv_dkv_compute=min(keys, 512),
    use_fused_bwd_kernel=True,
  )
  return kernels.make_splash_mha(
    masks.MultiHeadMask([mask] * n),
    block_sizes=sizes,
    head_shards=_shards(layout.heads),
    q_seq_shards=share.devices,
    residual_checkpoint_name=RESIDUALS,
    interpret=_platform() == "cpu",
  )


@dataclasses.dataclass(frozen=True)
class _Share:
  """Which queries of a row each of its devices works on.

  A row lies on c devices as 2 c stretches, two neighbours on each. Causality
  makes late ones more work than early ones, so device i works on stretches i
  and 2 c - 1 - i. One of the two is even and one odd: what every device holds
  first, and what it holds second, is a permutation of devices each.
  """

  axes: tuple[str, ...]
  """Of the mesh; the methods `given`, `returned`, `whole` run on a device."""
  devices: int

  @property
  def stretches(self) -> int:
    return 2 * self.devices if self.devices > 1 else 1

  def order(self, length: int) -> np.ndarray:
    """Index in the row of every query, device by device."""
    index = np.arange(length, dtype=np.int32)
    if self.devices == 1:
      return index
    last = self.stretches - 1
    pairs = (
      sorted((i, last - i), key=lambda stretch: stretch % 2)
      for i in range(self.devices)
    )
    stretches = list(itertools.chain.from_iterable(pairs))
    return index.reshape(self.stretches, -1)[stretches].reshape(-1)

  def given(self, x: Array) -> Array:
    """[B, T/c, ...] as the row lies -> as it is worked on."""
    return self._exchanged(x, lambda here, there: (here, there))

  def returned(self, x: Array) -> Array:
    """Undoes `given`."""
    return self._exchanged(x, lambda here, there: (there, here))

  def whole(self, x: Array) -> Array:
    """[B, T/c, ...] -> [B, T, ...]; its gradient is summed in shares."""
    if self.devices == 1:
      return x
    return jax.lax.all_gather(x, self.axes, axis=1, tiled=True)

  def _exchanged(
    self, x: Array, way: Callable[[int, int], tuple[int, int]]
  ) -> Array:
    if self.devices == 1:
      return x
    last = self.stretches - 1
    parts = []
    for half, part in enumerate(jnp.split(x, 2, axis=1)):
      held = [2 * i + half for i in range(self.devices)]
      moves = [way(i, min(s, last - s)) for i, s in enumerate(held)]
      parts.append(jax.lax.ppermute(part, self.axes, moves))
    return jnp.concatenate(parts, axis=1)


def pallas(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: _Layout = _ROWS
) -> Q:
  """jax.experimental.pallas.ops.gpu.attention: one head of keys per query head."""
  from jax.experimental.pallas.ops.gpu import attention

  def local(q, k, v, ids):
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    sizes = attention.BlockSizes(
      block_q=64,
      block_k=64,
      block_q_dkv=64,
      block_kv_dkv=64,
      block_q_dq=64,
      block_kv_dq=64,
    )
    return attention.mha(
      q,
      k,
      v,
      ids,
      sm_scale=q.shape[-1] ** -0.5,
      causal=layout.causal,
      block_sizes=sizes,
      interpret=_platform() == "cpu",
    )

  args = q, k, v, segment_ids
  mesh = _mesh()
  if mesh is None:
    return local(*args)
  return _per_device(local, mesh, layout)((), args)


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
  "xla": xla,
  "blockwise": blockwise,
  "splash": splash,
  "pallas": pallas,
}


def attend_all(q: Q, k: Q, v: Q) -> Q:
  """Every token of a tile attends to every other.

  A kernel counts in lanes: tokens are padded, and the padding is a segment of
  its own.
  """
  name, h = BY_PLATFORM.get(_platform(), "xla"), q.shape[-1]
  if name not in ("splash", "pallas") or h not in (64, 128):
    return every_pair(q, k, v)
  b, t = q.shape[:2]
  padding = ((0, 0), (0, -t % LANES), (0, 0), (0, 0))
  q, k, v = (jnp.pad(x, padding) for x in (q, k, v))
  ids = jnp.broadcast_to(jnp.arange(q.shape[1]) < t, (b, q.shape[1]))
  return IMPLEMENTATIONS[name](q, k, v, ids.astype(jnp.int32), _TILES)[:, :t]


# ------------------------------------------------------------------------- mesh
def _share(length: str | None) -> _Share:
  return _Share(_axes(length), _shards(length))


def _per_device(
  local: Callable[..., Q], mesh: Any, layout: _Layout
) -> Callable[[tuple[Any, ...], tuple[Any, ...]], Q]:
  """Runs a kernel on each device's part: (specs of its own, all arguments)."""

  def run(own: tuple[Any, ...], args: tuple[Any, ...]) -> Q:
    return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(*own, *layout.specs),
      out_specs=layout.specs[0],
      check_vma=False,
    )(*args)

  return run


def _spec(*names: str | None) -> PartitionSpec:
  return nn.logical_to_mesh_axes(names) or PartitionSpec()


def _mesh() -> Any:
  """The mesh of `jax.set_mesh`, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty else mesh


def _platform() -> str:
  """Of the devices that are computed for; they need not be attached."""
  mesh = _mesh()
  return mesh.abstract_device.platform if mesh else jax.default_backend()


def _shards(name: str | None) -> int:
  """How many devices share an activation axis."""
  return math.prod(_mesh().shape[axis] for axis in _axes(name))


def _axes(name: str | None) -> tuple[str, ...]:
  """The mesh axes that share an activation axis."""
  axes = None if _mesh() is None or name is None else _spec(name)[0]
  return (axes,) if isinstance(axes, str) else axes or ()
