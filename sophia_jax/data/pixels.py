"""Pixels of any mode to 8-bit RGB: scaled where Pillow alone would clip them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Num
from PIL import Image

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts a loaded image to RGB.

  Alpha is dropped, as InternVL's own recipe does. A picture whose colours are
  all the same lies in its alpha alone (a formula drawn in black on a transparent
  ground): that one is shown on the ground it contrasts with.

  Raises:
    ValueError: pixel values of more than 16 bits, or floats, in no known range.
  """
  if image.mode == "RGB":
    # A transparent colour of a true-colour PNG is a colour like any other.
    return image  # it is loaded, so it outlives its file
  if image.mode == "F":
    return _grey(_of_floats(np.asarray(image)))
  if image.mode.startswith("I"):
    return _grey(_of_integers(np.asarray(image).astype(np.int64), image.mode))
  if image.mode in _ALPHA or "transparency" in image.info:
    return _without_alpha(image)
  return image.convert("RGB")


def _grey(values: Num[np.ndarray, "H W"]) -> Image.Image:
  return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _of_floats(values: Num[np.ndarray, "H W"]) -> Num[np.ndarray, "H W"]:
  """Scales 0..1 to 0..255; keeps what lies in 0..255 already."""
  low, high = float(values.min()), float(values.max())
  if not (low >= 0 and high <= 255):  # nan fails both
    raise ValueError(f"floating-point pixels from {low:g} to {high:g}")
  return np.rint(values * 255 if high <= 1 else values)


def _of_integers(
  values: Num[np.ndarray, "H W"], mode: str
) -> Num[np.ndarray, "H W"]:
  """Scales 16 bits to 8; mode I also holds 8-bit values, which are kept."""
  low, high = int(values.min()), int(values.max())
  if low < 0 or high > 65535:
    raise ValueError(f"integer pixels from {low} to {high}")
  return values if mode == "I" and high <= 255 else values >> 8


def _without_alpha(image: Image.Image) -> Image.Image:
  if image.mode == "La":  # a TIFF's premultiplied grey
    image = image.convert("LA")
  rgba = image.convert("RGBA")
  rgb, alpha = rgba.convert("RGB"), rgba.getchannel("A")
  one_colour = rgb.getcolors(1) is not None
  if not one_colour or alpha.getcolors(1) is not None:
    return rgb
  light = np.asarray(rgb.crop((0, 0, 1, 1))).mean() > 127
  ground = Image.new("RGB", image.size, "black" if light else "white")
  ground.paste(rgb, mask=alpha)
  return ground
