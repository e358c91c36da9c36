"""Attention kernels of accelerators, each on its device's part of the mesh.

  splash   jax's splash attention; TPU
  tokamax  the same kernel as tokamax develops it: tiles of scores that lie
           between different segments are left out; TPU, Python 3.12
  pallas   jax's fused attention in Triton; NVIDIA GPU

On a CPU they are interpreted: slow, and the same numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

LANES = 128
"""Tokens and head widths that TPU and GPU kernels count in."""
KERNEL_BLOCK = 1024
"""Queries, and keys, that a TPU kernel holds at a time, at most."""
GRADIENT_KEYS = 2048
"""Keys that its backward pass holds, at most. For every so many it writes a part
of the queries' gradient of the whole size: few are little memory."""
RESIDUALS = "attention"
"""Name of what a rematerialisation policy may keep of attention."""

Q = Float[Array, "B T N H"]
KV = Float[Array, "B T M H"]
Segments = Int[Array, "B T"]


@dataclasses.dataclass(frozen=True)
class Layout:
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


ROWS = Layout("act_batch", "act_length", "act_heads", causal=True)
TILES = Layout("act_tiles", None, None, causal=False)


def splash(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """jax.experimental.pallas.ops.tpu.splash_attention."""
  return _shared(_splash(q, layout), q, k, v, segment_ids, layout)


def tokamax(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """tokamax._src.ops.experimental.tpu.splash_attention, which may move."""
  return _shared(_tokamax(q, layout), q, k, v, segment_ids, layout)


class _Kernel(NamedTuple):
  """A splash kernel, made for the shape of its queries."""

  run: Any
  """A pytree: it knows which queries every device works on."""
  axes: tuple[str | None, ...]
  """Logical axes of what it knows."""
  segments: Callable[..., Any]


def _shared(
  kernel: _Kernel, q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout
) -> Q:
  """Runs it on every device's rows and heads.

  With a context axis every device gathers all keys and values of its rows and
  works on a share of the queries that is as much work as any other's.
  """
  h, share = q.shape[3], Share.of(layout.length)

  def local(run, q, k, v, ids):
    k, v, seen = (share.whole(x) for x in (k, v, ids))
    q, ids = share.given(q), share.given(ids)
    q, k, v = (x.swapaxes(1, 2) for x in (q * h**-0.5, k, v))
    one = lambda q, k, v, a, b: run(q, k, v, kernel.segments(q=a, kv=b))
    out = jax.vmap(one)(q, k, v, ids, seen).swapaxes(1, 2)
    return share.returned(out)

  args = q, k, v, segment_ids
  mesh = current_mesh()
  if mesh is None:
    return local(kernel.run, *args)
  place = NamedSharding(mesh, _spec(*kernel.axes))
  return _per_device(local, mesh, layout)(
    (kernel.run.manual_sharding_spec(place),), (kernel.run, *args)
  )


def _splash(q: Q, layout: Layout) -> _Kernel:
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  share = Share.of(layout.length)
  run = kernels.make_splash_mha(
    masks.MultiHeadMask([_mask(masks, q, layout)] * q.shape[2]),
    block_sizes=kernels.BlockSizes(**_blocks(q, share)),
    head_shards=shards(layout.heads),
    q_seq_shards=share.devices,
    residual_checkpoint_name=RESIDUALS,
    interpret=platform() == "cpu",
  )
  return _Kernel(run, (layout.heads, layout.length), kernels.SegmentIds)


def _tokamax(q: Q, layout: Layout) -> _Kernel:
  from tokamax._src.ops.experimental.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from tokamax._src.ops.experimental.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  share = Share.of(layout.length)
  run = kernels.make_splash_mha(
    _mask(masks, q, layout),
    config=kernels.SplashConfig(
      **_blocks(q, share),
      residual_checkpoint_name=RESIDUALS,
      interpret=platform() == "cpu",
    ),
    q_seq_shards=share.devices,
  )
  return _Kernel(run, (layout.length,), kernels.SegmentIds)


def _mask(masks: Any, q: Q, layout: Layout) -> Any:
  """What a head sees, of the queries in the order in which they are shared."""
  t = q.shape[1]
  if not layout.causal:
    return masks.FullMask((t, t))
  mask = masks.CausalMask((t, t))
  mask.q_sequence = Share.of(layout.length).order(t)
  return mask


def _blocks(q: Q, share: Share) -> dict[str, Any]:
  """Tokens that a kernel holds at a time, forward and backward."""
  t = q.shape[1]
  queries = math.gcd(t // share.stretches, KERNEL_BLOCK)
  keys = math.gcd(t, KERNEL_BLOCK)
  return {
    "block_q": queries,
    "block_kv": keys,
    "block_kv_compute": min(keys, 512),
    "block_q_dkv": queries,
    "block_kv_dkv": math.gcd(t, GRADIENT_KEYS),
    "block_kv_dkv_compute": min(keys, 512),
    "use_fused_bwd_kernel": True,
  }


@dataclasses.dataclass(frozen=True)
class Share:
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

  @classmethod
  def of(cls, length: str | None) -> Share:
    """Of a logical axis on the current mesh."""
    return cls(_axes(length), shards(length))

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
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
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
      interpret=platform() == "cpu",
    )

  args = q, k, v, segment_ids
  mesh = current_mesh()
  if mesh is None:
    return local(*args)
  return _per_device(local, mesh, layout)((), args)


# ------------------------------------------------------------------------- mesh
def _per_device(
  local: Callable[..., Q], mesh: Any, layout: Layout
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


def current_mesh() -> Any:
  """The mesh of `jax.set_mesh`, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty else mesh


def platform() -> str:
  """Of the devices that are computed for; they need not be attached."""
  mesh = current_mesh()
  return mesh.abstract_device.platform if mesh else jax.default_backend()


def shards(name: str | None) -> int:
  """How many devices share an activation axis."""
  return math.prod(current_mesh().shape[axis] for axis in _axes(name))


def _axes(name: str | None) -> tuple[str, ...]:
  """The mesh axes that share an activation axis."""
  axes = None if current_mesh() is None or name is None else _spec(name)[0]
  return (axes,) if isinstance(axes, str) else axes or ()
