"""Images at nearly their own size: whole tiles, each of which is a token.

Qwen2.5-VL's way. An image keeps its aspect ratio; only what is beyond the limits
is scaled. A tile of a video shows two frames, so that a pair of frames is a
picture; an image beside videos is such a pair of the same frame.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from sophia_jax.data import clips
from sophia_jax.types import SophiaError

MAX_RATIO = 200
"""Longest side over the shortest, beyond which an image is refused."""

Tiles = UInt8[np.ndarray, "*grid S S C"]
"""Tiles of an image: [n, S, S, C] where each is a picture, [rows, columns, S, S, C]
where all are one, or of a video [pairs, rows, columns, S, S, C]."""
NOWHERE = (-1, 0, 0, 0)
"""Place of no tile."""


@functools.lru_cache(maxsize=65536)
def native_grid(
  width: int, height: int, min_tiles: int, max_tiles: int, tile_size: int
) -> tuple[int, int]:
  """Returns (columns, rows) of the tiles that an image is resized to.

  Raises:
    SophiaError: one side is more than MAX_RATIO times the other.
  """
  if max(width, height) > MAX_RATIO * min(width, height):
    raise SophiaError(
      f"{width}x{height} pixels, one side is over {MAX_RATIO} times the other; "
      "crop the image or leave it out"
    )
  area = tile_size**2
  columns, rows = (round(side / tile_size) for side in (width, height))
  if columns * rows > max_tiles:
    shrink = math.sqrt(width * height / (max_tiles * area))
    columns, rows = (
      max(1, math.floor(side / shrink / tile_size)) for side in (width, height)
    )
  elif columns * rows < min_tiles:
    grow = math.sqrt(min_tiles * area / (width * height))
    columns, rows = (
      math.ceil(side * grow / tile_size) for side in (width, height)
    )
  return columns, rows


def in_pairs(frames: Sequence[Tiles]) -> Tiles:
  """Returns a video's tiles: two frames each, the last of which may be one twice.

  Raises:
    SophiaError: frames of different sizes.
  """
  if len({frame.shape for frame in frames}) > 1:
    raise SophiaError("frames of a video are of different sizes")
  first, second = frames[::2], [*frames[1::2], *frames[-1:]]
  pairs = [np.concatenate(pair, axis=-1) for pair in zip(first, second)]
  return np.stack(pairs)


def placed(
  tiles: Tiles, first: int, name: str = ""
) -> tuple[UInt8[np.ndarray, "n S S C"], Int32[np.ndarray, "n 4"]]:
  """Returns tiles in a row, and the places that a batch has for them.

  Args:
    first: index of the first of them in the batch.
    name: of the image or video; a video's says when its pictures are shown.

  Returns:
    The tiles; and number of the picture, row, column and milliseconds of each.
  """
  grid = tiles.shape[:-3]
  shape = {1: (*grid, 1, 1), 2: (1, *grid), 3: grid}[len(grid)]
  at = np.zeros((math.prod(shape), 4), np.int32)
  at[:, :3] = np.indices(shape).reshape(3, -1).T
  clip = clips.read(name)
  if clip is not None:
    at[:, 3] = np.array(clip.milliseconds(shape[0]), np.int32)[at[:, 0]]
  at[:, 0] += first
  return tiles.reshape(-1, *tiles.shape[-3:]), at


def pictures(tiles: Tiles) -> UInt8[np.ndarray, "n H W 3"]:
  """Returns the pictures that tiles are parts of: each itself, or one of all.

  A video's are the first frames of its pairs.
  """
  if tiles.ndim == 4:
    return tiles[..., :3]
  *pairs, rows, columns, side, _, _ = tiles.shape
  whole = tiles[..., :3].swapaxes(-4, -3)
  return whole.reshape(math.prod(pairs), rows * side, columns * side, 3)
