"""From a request's images to the tiles its prompt has room for.

Images come inline and only so: a server that others can reach opens no path and
no URL for them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from sophia_jax.data.images import ImageConfig, load_tiles
from sophia_jax.data.native import Tiles
from sophia_jax.types import SophiaError

IMAGE_VARIABLE = "SOPHIA_IMAGES"
"""Environment variable with an ImageConfig as JSON; launch.serve sets it."""
MAX_BYTES = 64 << 20
"""Largest encoded image, bytes."""

Span = tuple[int, int]


class Inline(io.BytesIO):
  """A file that came with a request; errors call it by its place there."""

  def __init__(self, data: bytes, name: str):
    super().__init__(data)
    self._name = name

  def __str__(self) -> str:
    return self._name


def spans(ids: Sequence[int], image_id: int) -> list[Span]:
  """Returns every run of image tokens, as [start, end)."""
  found = []
  at = 0
  for is_image, run in itertools.groupby(ids, lambda i: i == image_id):
    length = sum(1 for _ in run)
    if is_image:
      found.append((at, at + length))
    at += length
  return found


def tile_counts(
  places: Sequence[Span], images: int, tokens_per_tile: int
) -> list[int]:
  """Counts the tiles that the prompt has room for, image by image.

  Raises:
    SophiaError: not as many runs as images, or a run of no whole tiles.
  """
  if len(places) != images:
    raise SophiaError(
      f"{images} images where input_ids have {len(places)} runs of image "
      "tokens; send Renderer.prompt's ids and every image once"
    )
  for number, (start, end) in enumerate(places, 1):
    if (end - start) % tokens_per_tile:
      raise SophiaError(
        f"image {number}: {end - start} image tokens are no whole tiles of "
        f"{tokens_per_tile}; send Renderer.prompt's ids"
      )
  return [(end - start) // tokens_per_tile for start, end in places]


def spatial_positions(
  length: int, places: Sequence[Span], grids: Sequence[tuple[int, int]]
) -> Int[np.ndarray, "3 T"]:
  """Returns time, row and column of every token of a prompt, for M-RoPE.

  They are those of `models.positions`, for one prompt on the host. An answer's
  tokens continue after the largest of them.

  Args:
    length: tokens T of the prompt.
    places: image tokens of each image.
    grids: rows and columns of the tiles of each image.
  """
  found = np.empty((3, length), np.int64)
  at = following = 0
  for (start, end), (rows, columns) in zip(places, grids, strict=True):
    found[:, at:start] = np.arange(start - at) + following
    following += start - at
    picture = np.indices((1, rows, columns)).reshape(3, -1)
    found[:, start:end] = picture + following
    following += max(rows, columns)
    at = end
  found[:, at:] = np.arange(length - at) + following
  return found


def read_tiles(
  source: Any, count: int, config: ImageConfig, name: str
) -> Tiles:
  """Returns the tiles of one image of a request.

  Args:
    source: base64 of a file, bare or as a data URL, or tiles already cut.
    count: how many the prompt has room for.
    name: of the image, in errors.

  Raises:
    SophiaError: not inline, not an image, too large, or not `count` tiles.
  """
  if isinstance(source, dict) and isinstance(source.get("url"), str):
    source = source["url"]
  if isinstance(source, str):
    return load_tiles(_file(source, name), count, config)
  if isinstance(source, dict) and source.keys() == {"tiles", "count"}:
    if config.method == "native":
      raise SophiaError(
        f"{name}: tiles do not say how many a row of the image has; send base64 "
        "of the file"
      )
    return _ready_tiles(source, count, config.tile_size, name)
  raise SophiaError(
    f'{name}: send base64 of the file, or {{"tiles": base64, "count": n}}'
  )


def _file(source: str, name: str) -> Inline:
  if source.startswith("data:"):
    head, _, source = source.partition(",")
    if not head.endswith(";base64"):
      raise SophiaError(f"{name}: a data URL without ;base64; encode it so")
  elif "://" in source[:16]:
    raise SophiaError(
      f"{name}: URLs are not opened here; send base64 of the file"
    )
  return Inline(_decoded(source, name), name)


def _decoded(source: Any, name: str) -> bytes:
  if not isinstance(source, str):
    raise SophiaError(f"{name}: not base64 text; files are sent inline")
  if len(source) > MAX_BYTES * 4 // 3 + 4:
    raise SophiaError(f"{name}: more than {MAX_BYTES} bytes; shrink it")
  try:
    return base64.b64decode(source, validate=True)
  except (binascii.Error, ValueError):
    raise SophiaError(
      f"{name}: not base64; files are sent inline, paths are not opened here"
    ) from None


def _ready_tiles(
  source: dict[str, Any], count: int, side: int, name: str
) -> UInt8[np.ndarray, "n S S 3"]:
  data = _decoded(source["tiles"], name)
  if source["count"] != count or len(data) != count * side * side * 3:
    raise SophiaError(
      f"{name}: {source['count']} tiles in {len(data)} bytes where the prompt "
      f"has {count} of {side * side * 3} bytes; cut them as the prompt says"
    )
  return np.frombuffer(data, np.uint8).reshape(count, side, side, 3)


def digest(source: Any, count: int) -> int:
  """Names an image among those whose embeddings are kept: 64 bits."""
  text = source if isinstance(source, str) else repr(source)
  key = hashlib.sha256(f"{count}:{text}".encode("utf-8", "replace")).digest()
  return int.from_bytes(key[:8], "big")
