"""Resizing of images: Pillow's, and an implementation three times as fast.

Both are bicubic (a = -0.5) with antialiasing, in two passes with 8 bits between
them. `fast` is fast_image_resize's vector code: single bytes differ from
Pillow's by rounding, at most 2 levels.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image

from sophia_jax.types import SophiaError

RESIZES = ("pil", "fast")

Resize = Callable[[int, int], UInt8[np.ndarray, "H W 3"]]
"""Function from (width, height) to the image at this size."""

_ROWS_CAN_BE_FIRST = int(PIL.__version__.split(".")[0]) >= 13


def resizer(image: Image.Image, how: str) -> Resize:
  """Prepares an RGB image for several resizes.

  Args:
    how: one of RESIZES.

  Raises:
    SophiaError: `fast` is not installed.
  """
  return _fast(image) if how == "fast" else functools.partial(_pil, image)


def _pil(
  image: Image.Image, width: int, height: int
) -> UInt8[np.ndarray, "H W 3"]:
  return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def rows_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
  """Returns whether Pillow shrinks the height before it changes the width.

  The first pass clips to 8 bits, so the order changes sharp edges, by up to 29
  levels. Pillow 11 and 12 always begin with the width; the rule of Pillow 13 was
  found by comparison, and a test repeats it.
  """
  (w, h), (to_w, to_h) = source, target
  return _ROWS_CAN_BE_FIRST and to_h < h and h - to_h > 2 * (w - to_w)


# A resizer has scratch memory and must not be shared between threads.
_of_thread = threading.local()


def _resize_rust(source: Any, target: Any) -> None:
  import cykooz_resizer as rust

  if not hasattr(_of_thread, "resizer"):
    bicubic = rust.ResizeAlg.convolution(rust.FilterType.catmull_rom)
    _of_thread.options = rust.ResizeOptions(bicubic, use_alpha=False)
    _of_thread.resizer = rust.Resizer()
  _of_thread.resizer.resize(source, target, _of_thread.options)


def _fast(image: Image.Image) -> Resize:
  try:
    import cykooz_resizer as rust
  except ImportError:
    raise SophiaError(
      "config.images.resize: 'fast' needs cykooz-resizer, which has no wheel "
      "for every machine; pip install cykooz-resizer, or use 'pil'"
    ) from None
  kind = rust.PixelType.U8x3
  source = rust.ImageData(*image.size, kind, image.tobytes())

  def resize(width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    # Two calls, one a pass: in one call the library chooses another order.
    size = (width, height)
    between = (width, image.height)
    if rows_first(image.size, size):
      between = (image.width, height)
    image_data = source
    for w, h in (between, size):
      if (w, h) != (image_data.width, image_data.height):
        before, image_data = image_data, rust.ImageData(w, h, kind)
        _resize_rust(before, image_data)
    pixels = np.frombuffer(image_data.get_buffer(), np.uint8)
    return pixels.reshape(height, width, 3)

  return resize
