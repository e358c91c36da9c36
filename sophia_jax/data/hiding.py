"""Images with parts hidden before they are resized, named by how that is done.

A name stands where the path of an image stands: "hidden:0.6:14:3:/data/1.png".
Paths of images are absolute, so that none of them is such a name.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from sophia_jax.data import clips

_PREFIX = "hidden:"


def name(path: str, share: float, patch: int, draw: int) -> str:
  """Returns the name of an image, or of a video's frames, with black squares.

  Args:
    share: probability that a square is black.
    patch: side of a square, pixels of the file.
    draw: number of the draw; an image has the same squares in it everywhere.
  """
  clip = clips.read(path)
  if clip is not None:
    frames = [name(frame, share, patch, draw) for frame in clip.paths]
    return clips.name(frames, clip.rate)
  return f"{_PREFIX}{share!r}:{patch}:{draw}:{path}"


def plain(path: str) -> str:
  """Returns the path of the file that a name or a path is of."""
  return path.split(":", 4)[4] if path.startswith(_PREFIX) else path


def hidden(image: Image.Image, path: str) -> Image.Image:
  """Returns an image as its name says; as it is, if `path` is its path."""
  if not path.startswith(_PREFIX):
    return image
  share, patch, draw = path.split(":", 4)[1:4]
  pixels = np.array(image)
  seed = int.from_bytes(
    hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "big"
  )
  side = int(patch)
  grid = [-(-n // side) for n in pixels.shape[:2]]
  black = np.random.default_rng([seed, int(draw)]).random(grid) < float(share)
  spread = black.repeat(side, 0).repeat(side, 1)
  height, width = pixels.shape[:2]
  pixels[spread[:height, :width]] = 0
  return Image.fromarray(pixels)
