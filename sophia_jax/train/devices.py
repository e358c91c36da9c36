"""Figures of accelerators, which MFU and plans are relative to."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """One device as JAX sees it, from its vendor's data sheet."""

  flops: float
  """Dense bf16 FLOP/s."""
  memory: float
  """Bytes that a program may use."""
  bandwidth: float
  """Bytes/s of that memory."""
  links: float = 0.0
  """Bytes/s that a TPU sends to its neighbours, all links together."""
  attention: float = 0.5
  """Assumed share of `flops` in an attention kernel with heads of 128."""


GIB = 1 << 30
# v6e multiplies squares of 256: a head of 128 leaves half of it idle, so that no
# kernel can reach more than 0.5 there.
ACCELERATORS = {
  "v4": Accelerator(275e12, 31.25 * GIB, 1228e9, 300e9),
  "v5e": Accelerator(197e12, 15.75 * GIB, 819e9, 200e9),
  "v5p": Accelerator(459e12, 95.0 * GIB, 2765e9, 600e9),
  "v6e": Accelerator(918e12, 31.24 * GIB, 1640e9, 448e9, 0.3),
  "a100": Accelerator(312e12, 79.0 * GIB, 2039e9),
  "h100": Accelerator(989.5e12, 79.0 * GIB, 3350e9, attention=0.35),
  "h200": Accelerator(989.5e12, 140.0 * GIB, 4800e9, attention=0.35),
}
CPU = Accelerator(flops=1e11, memory=8.0 * GIB, bandwidth=1e10)
"""A part of a small machine: for trying plans out."""

# What jax calls them (Device.device_kind).
_KINDS = {
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
}


def accelerator(kind: str) -> Accelerator | None:
  """Returns the figures of a `Device.device_kind`; None if they are unknown."""
  if kind in _KINDS:
    return ACCELERATORS[_KINDS[kind]]
  for name in ("h200", "h100", "a100"):
    if name in kind.lower():
      return ACCELERATORS[name]
  return None
