"""Attention kernels of TPUs, and how a kernel runs on a device's part of the mesh.

  splash   jax's splash attention
  tokamax  tokamax's version of that kernel, which skips tiles of scores
           between different segments; Python 3.12

On a CPU they are interpreted: slow, with the same numbers.
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
"""Unit of tokens and head widths in TPU and GPU kernels."""
KERNEL_BLOCK = 1024
"""Most queries, and most keys, that a TPU kernel holds at a time."""
GRADIENT_KEYS = 2048
"""Most keys that its backward pass holds at a time. Each such block writes a
partial gradient of all queries: fewer blocks need less memory."""
RESIDUALS = "attention"
"""Checkpoint name of attention's output."""

Q = Float[Array, "B T N H"]
KV = Float[Array, "B T M H"]
Segments = Int[Array, "B T"]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Logical axes of an attention, and whether it is causal."""

  batch: str
  length: str | None
  heads: str | None
  causal: bool

  @property
  def specs(self) -> tuple[PartitionSpec, ...]:
    """Specs of q, k, v and the segment ids."""
    tokens = _spec(self.batch, self.length, self.heads, None)
    return tokens, tokens, tokens, _spec(self.batch, self.length)


ROWS = Layout("act_batch", "act_length", "act_heads", causal=True)
TILES = Layout("act_tiles", None, None, causal=False)


def splash(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """Runs jax.experimental.pallas.ops.tpu.splash_attention."""
  return _sharded(_splash(q, layout), q, k, v, segment_ids, layout)


def tokamax(
  q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout = ROWS
) -> Q:
  """Runs tokamax._src.ops.experimental.tpu.splash_attention."""
  return _sharded(_tokamax(q, layout), q, k, v, segment_ids, layout)


class _Kernel(NamedTuple):
  """A splash kernel, made for the shape of its queries."""

  run: Any
  """The kernel, a pytree that holds which queries each device computes."""
  axes: tuple[str | None, ...]
  """Logical axes of the kernel's arrays."""
  segments: Callable[..., Any]
  """Type of its segment ids."""


def _sharded(
  kernel: _Kernel, q: Q, k: KV, v: KV, segment_ids: Segments, layout: Layout
) -> Q:
  """Runs a kernel on every device's rows and heads.

  With a context axis every device gathers all keys and values of its rows and
  computes queries that are as much work as any other device's.
  """
  h, split = q.shape[3], ContextSplit.of(layout.length)

  def local(run, q, k, v, ids):
    k, v, seen = (split.gather(x) for x in (k, v, ids))
    q, ids = split.balance(q), split.balance(ids)
    q, k, v = (x.swapaxes(1, 2) for x in (q * h**-0.5, k, v))
    one = lambda q, k, v, a, b: run(q, k, v, kernel.segments(q=a, kv=b))
    out = jax.vmap(one)(q, k, v, ids, seen).swapaxes(1, 2)
    return split.restore(out)

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

  split = ContextSplit.of(layout.length)
  run = kernels.make_splash_mha(
    masks.MultiHeadMask([_mask(masks, q, layout)] * q.shape[2]),
    block_sizes=kernels.BlockSizes(**_blocks(q, split)),
    head_shards=shards(layout.heads),
    q_seq_shards=split.devices,
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

  split = ContextSplit.of(layout.length)
  run = kernels.make_splash_mha(
    _mask(masks, q, layout),
    config=kernels.SplashConfig(
      **_blocks(q, split),
      residual_checkpoint_name=RESIDUALS,
      interpret=platform() == "cpu",
    ),
    q_seq_shards=split.devices,
  )
  return _Kernel(run, (layout.length,), kernels.SegmentIds)


def _mask(masks: Any, q: Q, layout: Layout) -> Any:
  """Returns a head's mask, queries in the order of their devices."""
  t = q.shape[1]
  if not layout.causal:
    return masks.FullMask((t, t))
  mask = masks.CausalMask((t, t))
  mask.q_sequence = ContextSplit.of(layout.length).order(t)
  return mask


def _blocks(q: Q, split: ContextSplit) -> dict[str, Any]:
  """Returns the tokens that a kernel holds at a time, forward and backward."""
  t = q.shape[1]
  queries = math.gcd(t // split.pieces, KERNEL_BLOCK)
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
class ContextSplit:
  """How the queries of a row are divided among its devices.

  A row lies on c devices as 2 c pieces, two neighbours on each. Causality makes
  late pieces more work than early ones, so device i computes pieces i and
  2 c - 1 - i. One of the two is even and one odd: the first pieces of all
  devices are a permutation of devices, and so are the second. `balance`,
  `restore` and `gather` run on a device, inside `shard_map`.
  """

  axes: tuple[str, ...]
  """Mesh axes that divide a row."""
  devices: int
  """Devices of a row."""

  @property
  def pieces(self) -> int:
    """Pieces of a row."""
    return 2 * self.devices if self.devices > 1 else 1

  def order(self, length: int) -> np.ndarray:
    """Returns the index in the row of every query, device by device."""
    index = np.arange(length, dtype=np.int32)
    if self.devices == 1:
      return index
    last = self.pieces - 1
    pairs = (
      sorted((i, last - i), key=lambda piece: piece % 2)
      for i in range(self.devices)
    )
    pieces = list(itertools.chain.from_iterable(pairs))
    return index.reshape(self.pieces, -1)[pieces].reshape(-1)

  @classmethod
  def of(cls, length: str | None) -> ContextSplit:
    """Returns the split of a logical axis on the current mesh."""
    return cls(_axes(length), shards(length))

  def balance(self, x: Array) -> Array:
    """Exchanges [B, T/c, ...] in the row's order for pieces of equal work."""
    return self._exchanged(x, lambda here, there: (here, there))

  def restore(self, x: Array) -> Array:
    """Undoes `balance`."""
    return self._exchanged(x, lambda here, there: (there, here))

  def gather(self, x: Array) -> Array:
    """Gathers [B, T/c, ...] to [B, T, ...]; the gradient is scattered."""
    if self.devices == 1:
      return x
    return jax.lax.all_gather(x, self.axes, axis=1, tiled=True)

  def _exchanged(
    self, x: Array, way: Callable[[int, int], tuple[int, int]]
  ) -> Array:
    if self.devices == 1:
      return x
    last = self.pieces - 1
    parts = []
    for half, part in enumerate(jnp.split(x, 2, axis=1)):
      held = [2 * i + half for i in range(self.devices)]
      moves = [way(i, min(s, last - s)) for i, s in enumerate(held)]
      parts.append(jax.lax.ppermute(part, self.axes, moves))
    return jnp.concatenate(parts, axis=1)


# ------------------------------------------------------------------------- mesh
def on_each(
  local: Callable[..., Q],
  layout: Layout,
  q: Q,
  k: KV,
  v: KV,
  segment_ids: Segments,
) -> Q:
  """Runs a kernel on each device's part of the mesh, if there is one."""
  args, mesh = (q, k, v, segment_ids), current_mesh()
  if mesh is None:
    return local(*args)
  return _per_device(local, mesh, layout)((), args)


def _per_device(
  local: Callable[..., Q], mesh: Any, layout: Layout
) -> Callable[[tuple[Any, ...], tuple[Any, ...]], Q]:
  """Returns a function of (the kernel's specs, all arguments) that runs a kernel
  on each device's part."""

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
  """Returns the mesh of `jax.set_mesh`, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty else mesh


def platform() -> str:
  """Returns the platform of the target devices, which may be absent."""
  if mesh := current_mesh():
    return mesh.abstract_device.platform
  chosen = getattr(jax.config, "jax_default_device", None)
  return getattr(chosen, "platform", chosen) or jax.default_backend()


def shards(name: str | None) -> int:
  """Returns the number of devices that share an activation axis."""
  return math.prod(current_mesh().shape[axis] for axis in _axes(name))


def _axes(name: str | None) -> tuple[str, ...]:
  """Returns the mesh axes that share an activation axis."""
  axes = None if current_mesh() is None or name is None else _spec(name)[0]
  return (axes,) if isinstance(axes, str) else axes or ()
