"""Boxes in images: how they are written, and how far two overlap."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = r"\s{0,4}(-?\d{1,9}(?:\.\d{0,9})?)\s{0,4}"
_COMMA = r"(?:,|\)\s{0,4},\s{0,4}\()"
_BOX = re.compile(
  rf"[\[(]?{_NUMBER},{_NUMBER}{_COMMA}{_NUMBER},{_NUMBER}[\])]?"
)
_OVERLAP = 0.5
"""Least intersection over union of a right answer, as detection has it."""


class Box(NamedTuple):
  """A rectangle of positive area, in any unit of length."""

  left: float
  top: float
  right: float
  bottom: float

  @property
  def area(self) -> float:
    return (self.right - self.left) * (self.bottom - self.top)


def read_box(text: str) -> Box | None:
  """Reads "[left, top, right, bottom]" or "(left, top), (right, bottom)".

  None where it is no box.
  """
  found = _BOX.fullmatch(text.strip())
  if found is None:
    return None
  box = Box(*map(float, found.groups()))
  return box if box.left < box.right and box.top < box.bottom else None


def overlap(one: Box, other: Box) -> float:
  """Returns the intersection over union of two boxes, 0 to 1."""
  width = min(one.right, other.right) - max(one.left, other.left)
  height = min(one.bottom, other.bottom) - max(one.top, other.top)
  common = max(width, 0.0) * max(height, 0.0)
  return common / (one.area + other.area - common)


def matches(one: Box, other: Box) -> bool:
  """Returns whether two boxes overlap by half or more."""
  return overlap(one, other) >= _OVERLAP
