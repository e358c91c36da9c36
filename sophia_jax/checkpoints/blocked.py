"""Copies between memory orders, in blocks that stay in a core's cache.

A whole matrix transposed by numpy misses the cache at every element; a block at a
time it is several times as fast.
"""

from __future__ import annotations

import numpy as np

ROWS_BYTES = 1024
"""Rows of a block, which lie side by side in the source: pages that are read."""
COLUMNS_BYTES = 128
"""Columns of a block, which lie side by side in the target: two cache lines."""


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
  rows, columns = ROWS_BYTES // x.itemsize, COLUMNS_BYTES // x.itemsize
  for column in range(0, x.shape[1], columns):
    for row in range(0, x.shape[0], rows):
      at = slice(row, row + rows), slice(column, column + columns)
      if same:
        target[at] = source[at]
      else:  # converted in its own order: numpy is slow at both at once
        target[at] = bits(source[at].T.astype(out.dtype, order="C")).T


def bits(x: np.ndarray) -> np.ndarray:
  """Returns a view of `x` as unsigned integers of the same size."""
  return x.view(f"u{x.dtype.itemsize}")
