"""Copies between memory orders, in blocks that stay in a core's cache.

A whole matrix transposed by numpy misses the cache at every element; a block at a
time it is several times as fast.
"""

from __future__ import annotations

import numpy as np

BLOCK_BYTES = 256
"""Row of a block: as many rows of bfloat16 are 32 KiB, an L1 cache."""


def copy(out: np.ndarray, x: np.ndarray) -> None:
  """Copies `x` into `out`, of the same shape, converted to its dtype.

  Either may have any strides.
  """
  if x.ndim != 2 or abs(x.strides[0]) >= abs(x.strides[1]):
    out[...] = x
    return
  same = x.dtype == out.dtype
  # As bits: numpy is slower at moving a dtype that is not its own.
  source, target = bits(x) if same else x, bits(out)
  side = max(1, BLOCK_BYTES // x.itemsize)
  for row in range(0, x.shape[0], side):
    for column in range(0, x.shape[1], side):
      at = slice(row, row + side), slice(column, column + side)
      if same:
        target[at] = source[at]
      else:  # converted in its own order: numpy is slow at both at once
        target[at] = bits(source[at].T.astype(out.dtype, order="C")).T


def bits(x: np.ndarray) -> np.ndarray:
  """Returns a view of `x` as unsigned integers of the same size."""
  return x.view(f"u{x.dtype.itemsize}")
