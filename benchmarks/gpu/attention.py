"""Attention alone: TFLOP/s of every implementation at 8k and 32k tokens.

Forward, and forward with backward, of one row: as one segment, and packed with
segments of an eighth of a row. FLOPs are those of the visible pairs alone, 4 H a
pair and head forward, 2.5 times that backward. PyTorch's fused attention is
beside it; packed, it is given a row for each segment, which have one length here.
The encoder's attention over tiles of 1,025 tokens comes last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.common import arguments, attempted, emit, seconds_of
from sophia_jax.models import kernels

NAMES = ("cudnn", "pallas", "tokamax_mosaic", "tokamax_triton")
FORWARD, BACKWARD = 4.0, 10.0
"""FLOPs of a pair, head and unit of its width."""
PIECES = 8


def main() -> None:
  args = arguments(__doc__)
  lengths = (256,) if args.dry else (8192, 32768)
  names = ("blockwise", "xla") if args.dry else NAMES
  heads = (2, 1, 64) if args.dry else (12, 2, 128)  # InternVL3-2B
  for length in lengths:
    for packed in (False, True):
      pieces = PIECES if packed else 1
      pairs = length * (length // pieces + 1) / 2
      shape = {"length": length, "segments": pieces}
      for name in names:
        run = functools.partial(kernels.attend, name)
        measured(name, run, operands(1, length, *heads), pieces, pairs, shape)
      with_torch(length, pieces, heads, pairs, shape, args.dry)
  tiles, tokens, width = (2, 17, 64) if args.dry else (13, 1025, 64)
  q = operands(tiles, tokens, 16, 16, width)
  run = lambda q, k, v, ids: kernels.attend_all(q, k, v)
  pairs = tiles * tokens**2
  shape = {"tiles": tiles, "length": tokens}
  measured("tiles", run, q, 1, pairs, shape)


def operands(rows: int, length: int, n: int, m: int, h: int) -> list[Any]:
  """Draws q, k and v."""
  keys = jax.random.split(jax.random.key(0), 3)
  return [
    jax.random.normal(key, (rows, length, count, h), jnp.bfloat16)
    for key, count in zip(keys, (n, m, m))
  ]


def measured(
  name: str,
  run: Callable[..., Any],
  qkv: list[Any],
  pieces: int,
  pairs: float,
  shape: dict[str, int],
) -> None:
  """Times an implementation and prints a line."""
  rows, length, n, h = qkv[0].shape
  ids = 1 + jnp.arange(length) // (length // pieces)
  ids = jnp.broadcast_to(ids, (rows, length)).astype(jnp.int32)
  loss = lambda q, k, v: jnp.sum(run(q, k, v, ids), dtype=jnp.float32)
  both = jax.jit(jax.grad(loss, (0, 1, 2)))
  forward = jax.jit(lambda q, k, v: run(q, k, v, ids))
  line = {"name": name, **shape}
  if name in kernels.IMPLEMENTATIONS and (
    why := kernels.obstacle(name, *qkv[:2])
  ):
    emit({**line, "skipped": why})
    return
  work = functools.partial(
    rates,
    lambda: jax.block_until_ready(forward(*qkv)),
    lambda: jax.block_until_ready(both(*qkv)),
    pairs * n * h,
  )
  attempted(line, work)


def rates(
  forward: Callable[[], Any], both: Callable[[], Any], units: float
) -> dict[str, float]:
  """Returns milliseconds and TFLOP/s of a pass forward, and of both."""
  one, two = seconds_of(forward), seconds_of(both)
  return {
    "forward_ms": round(1e3 * one, 3),
    "both_ms": round(1e3 * two, 3),
    "forward_tflops": round(FORWARD * units / one / 1e12, 2),
    "both_tflops": round((FORWARD + BACKWARD) * units / two / 1e12, 2),
  }


def with_torch(
  length: int,
  pieces: int,
  heads: tuple[int, int, int],
  pairs: float,
  shape: dict[str, int],
  dry: bool,
) -> None:
  """Times torch's attention; one row for each segment."""
  import torch
  from torch.nn.functional import scaled_dot_product_attention

  n, m, h = heads
  device = "cpu" if dry else "cuda"
  draw = lambda count: torch.randn(
    *(pieces, count, length // pieces, h),
    device=device,
    dtype=torch.bfloat16,
    requires_grad=True,
  )
  q, k, v = draw(n), draw(m), draw(m)

  def done() -> None:
    if not dry:
      torch.cuda.synchronize()

  def forward() -> Any:
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    done()
    return out

  def both() -> None:
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.autograd.grad(out.sum(), (q, k, v))
    done()

  work = functools.partial(rates, forward, both, pairs * n * h)
  attempted({"name": "torch sdpa", **shape}, work)


if __name__ == "__main__":
  main()
