"""Limits by which a checkpoint's own processor cuts images into tiles.

InternVLChatModel has them in config.json, transformers in the processor's file.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from sophia_jax.checkpoints.config import CONFIG
from sophia_jax.checkpoints.shards import read_json
from sophia_jax.models import CLIP_MEAN, CLIP_STD, IMAGE_MEAN, IMAGE_STD
from sophia_jax.types import SophiaError

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

_CHAT = {
  "min_tiles": "min_dynamic_patch",
  "max_tiles": "max_dynamic_patch",
  "dynamic": "dynamic_image_size",
  "thumbnail": "use_thumbnail",
}
_HF = {
  "min_tiles": "min_patches",
  "max_tiles": "max_patches",
  "dynamic": "crop_to_patches",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
  """Tiling of one image. The defaults are those of every released model."""

  min_tiles: int = 1
  max_tiles: int = 12
  """Largest grid, in tiles, thumbnail excluded."""
  dynamic: bool = True
  """Whether an image becomes several tiles at all."""
  thumbnail: bool = True
  """Whether a grid of several tiles is followed by the whole image as one."""

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value, default = getattr(self, field.name), field.default
      if type(value) is not type(default):
        raise ValueError(f"{field.name} is {value!r:.80}")
    if not 1 <= self.min_tiles <= self.max_tiles:
      raise ValueError(f"from {self.min_tiles} to {self.max_tiles} tiles")

  def chat(self) -> dict[str, Any]:
    """Returns the keys of InternVLChatModel's config.json."""
    return {key: getattr(self, name) for name, key in _CHAT.items()}

  def hf(self) -> dict[str, Any]:
    """Returns the keys of transformers' image processor.

    Raises:
      SophiaError: no thumbnail, which its processor always adds.
    """
    if not self.thumbnail:
      raise SophiaError(
        "use_thumbnail is false, which the -hf format cannot say; use "
        "internvl_chat"
      )
    return {key: getattr(self, name) for name, key in _HF.items()}


def read_tiling(directory: pathlib.Path | None) -> Tiling:
  """Reads the limits of the checkpoint that a model came from.

  Raises:
    SophiaError: invalid limits, or pixels normalised as this model does
      not.
  """
  if directory is None:
    return Tiling()
  path = directory / CONFIG
  config = read_json(path) if path.is_file() else {}
  if config.get("model_type") == "internvl_chat":
    return _tiling(path, config, _CHAT)
  for path in (directory / PROCESSOR, directory / PREPROCESSOR):
    found: Any = read_json(path) if path.is_file() else {}
    if path.name == PROCESSOR:  # transformers 5 has the one file in the other
      found = found.get("image_processor")
    if isinstance(found, Mapping) and found:
      _check_pixels(path, found)
      return _tiling(path, found, _HF)
  return Tiling()


def read_native_limits(directory: pathlib.Path, side: int) -> tuple[int, int]:
  """Reads the least and the most tiles of an image, where it keeps its size.

  Args:
    side: side of a tile, pixels.

  Raises:
    SophiaError: invalid limits.
  """
  least, most = 4, 16384
  for path in (directory / PROCESSOR, directory / PREPROCESSOR):
    found: Any = read_json(path) if path.is_file() else {}
    if path.name == PROCESSOR:
      found = found.get("image_processor")
    if not isinstance(found, Mapping) or not found:
      continue
    _check_pixels(path, found, (CLIP_MEAN, CLIP_STD))
    size = found.get("size")
    size = size if isinstance(size, Mapping) else {}
    low = found.get("min_pixels") or size.get("shortest_edge")
    high = found.get("max_pixels") or size.get("longest_edge")
    pixels = (low or least * side**2, high or most * side**2)
    if not all(isinstance(n, int) and n >= side**2 for n in pixels):
      raise SophiaError(
        f"{path}: pixels of an image from {low!r:.40} to {high!r:.40}; correct it"
      )
    return tuple(n // side**2 for n in pixels)  # type: ignore[return-value]
  return least, most


def _tiling(
  path: pathlib.Path, found: Mapping[str, Any], names: Mapping[str, str]
) -> Tiling:
  given = {
    name: found[key]
    for name, key in names.items()
    if found.get(key) is not None
  }
  try:
    return Tiling(**given)
  except ValueError as e:
    raise SophiaError(f"{path}: tiles of an image: {e}; correct it") from None


def _check_pixels(
  path: pathlib.Path,
  found: Mapping[str, Any],
  numbers_of: tuple[tuple[float, ...], ...] = (IMAGE_MEAN, IMAGE_STD),
) -> None:
  """Refuses a processor that normalises pixels by other numbers than ours."""
  for key, own in zip(("image_mean", "image_std"), numbers_of, strict=True):
    said = found.get(key)
    if said is None:
      continue
    numbers = isinstance(said, list) and all(
      isinstance(value, int | float) for value in said
    )
    if not numbers or [round(v, 4) for v in said] != [round(v, 4) for v in own]:
      raise SophiaError(
        f"{path}: {key} is {said!r:.80}; only {list(own)} is supported"
      )
