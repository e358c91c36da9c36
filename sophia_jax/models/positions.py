"""Rotary positions with three axes: time, row and column (M-RoPE).

Text moves along all three at once. An image stays at one time, its tiles stand
at their rows and columns, and what follows continues after its longer side.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int


def spatial_positions(
  positions: Int[Array, "B T"],
  tile_slots: Int[Array, "B T"],
  tile_places: Int[Array, "I 3"],
) -> tuple[Int[Array, "B T 3"], Int[Array, "B T"]]:
  """Returns the three positions of every token, and the next token's.

  They follow from where a token's tile lies, so that packing and caches have
  nothing to carry along.

  Args:
    positions: 0, 1, ... in a segment.
    tile_slots: index of each token's tile, row by row of an image; -1 for text.
    tile_places: number of the image, row and column of each tile.
  """
  shown = tile_slots >= 0
  at = jnp.take(tile_places, jnp.maximum(tile_slots, 0), axis=0)
  image, row, column = jnp.moveaxis(at, -1, 0)
  first = shown & (row == 0) & (column == 0)
  # The same image may follow itself: then its first tile comes again.
  same = _next(shown & ~first) & (_next(image) == image)
  same &= _next(positions) == positions + 1
  side = jnp.maximum(row, column) + 1  # of the last tile: the longer side
  advance = jnp.where(shown, jnp.where(same, 0, side), 1)
  after = jnp.cumsum(advance, axis=1)
  before = after - advance
  start = jnp.arange(positions.shape[1]) - positions
  start = jnp.take_along_axis(before, start, axis=1)
  before, after = before - start, after - start
  axes = (0, jnp.where(shown, row, 0), jnp.where(shown, column, 0))
  return jnp.stack([before + axis for axis in axes], -1), after


def _next(x: Array) -> Array:
  """Returns at t what is at t + 1; 0 at the end."""
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
