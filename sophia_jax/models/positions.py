"""Rotary positions with three axes: time, row and column (M-RoPE).

Text moves along all three at once. An image stays at one time, its tiles stand
at their rows and columns, and what follows continues after its longer side. A
video moves in time, too, and what follows continues after the longest of the three.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int


def spatial_positions(
  positions: Int[Array, "B T"],
  tile_slots: Int[Array, "B T"],
  tile_places: Int[Array, "I 4"],
  rate: int = 1,
) -> tuple[Int[Array, "B T 3"], Int[Array, "B T"]]:
  """Returns the three positions of every token, and the next token's.

  They follow from where a token's tile lies, so that packing and caches have
  nothing to carry along. Tiles with no word between them are one image or video.

  Args:
    positions: 0, 1, ... in a segment.
    tile_slots: index of each token's tile, row by row of an image; -1 for text.
    tile_places: picture, row, column and milliseconds of each tile.
    rate: positions in time for a second of video.
  """
  shown = tile_slots >= 0
  at = jnp.take(tile_places, jnp.maximum(tile_slots, 0), axis=0)
  _, row, column, milliseconds = jnp.moveaxis(at, -1, 0)
  time = milliseconds * rate // 1000
  more = _next(shown) & (_next(positions) == positions + 1)
  # Of the last tile: the longest axis.
  longest = jnp.maximum(jnp.maximum(row, column), time) + 1
  advance = jnp.where(shown, jnp.where(more, 0, longest), 1)
  after = jnp.cumsum(advance, axis=1)
  before = after - advance
  start = jnp.arange(positions.shape[1]) - positions
  start = jnp.take_along_axis(before, start, axis=1)
  before, after = before - start, after - start
  axes = (jnp.where(shown, axis, 0) for axis in (time, row, column))
  return jnp.stack([before + axis for axis in axes], -1), after


def _next(x: Array) -> Array:
  """Returns at t what is at t + 1; 0 at the end."""
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
