"""Videos as a prompt shows them: files of frames and how fast they follow.

A name stands where the path of an image stands: 'clip:2.0:["/data/1.png",
"/data/2.png"]'. Paths of images are absolute, so that none of them is such a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

MARK = re.compile(r"<video(?: ([0-9]{1,9}(?:\.[0-9]{1,9})?))?>")
"""Position of a video in a question, and its frames a second."""
_PREFIX = "clip:"
FRAMES = 2
"""Frames that a tile of a video shows, one after the other."""


class Clip(NamedTuple):
  """The frames of a video."""

  rate: float
  """Frames a second."""
  paths: tuple[str, ...]

  def milliseconds(self, pairs: int) -> list[int]:
    """Returns when each of so many pairs of frames begins."""
    return [round(1000 * i * FRAMES / self.rate) for i in range(pairs)]


def name(paths: Sequence[str], rate: float) -> str:
  """Returns the name of a video.

  Args:
    paths: its frames, in their order.
    rate: frames a second.
  """
  return f"{_PREFIX}{rate!r}:{json.dumps(list(paths))}"


def read(path: str) -> Clip | None:
  """Returns the video that a name is of; None if it is an image's path."""
  if not path.startswith(_PREFIX):
    return None
  rate, paths = path.removeprefix(_PREFIX).split(":", 1)
  return Clip(float(rate), tuple(json.loads(paths)))


def files(path: str) -> tuple[str, ...]:
  """Returns the files of a video's name, or the path of an image."""
  clip = read(path)
  return (path,) if clip is None else clip.paths
