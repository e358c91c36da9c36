"""Key frames of a video: frames that show much that the last one did not.

ORB features of a frame are matched with those of the last key frame, and a
homography by RANSAC carries the frame's outline into that key frame. The share of
the area that both cover is their overlap (Embodied-R, arXiv 2504.12680).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from sophia_jax.types import SophiaError

Pixels = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyFrameConfig:
  """The rule that chooses key frames."""

  overlap: float = 0.5
  """Overlap with the last key frame below which a frame is one."""
  features: int = 1000
  """Features of a frame, at most."""
  distance: float = 5.0
  """Distance of a match from its homography, pixels, at most."""
  inliers: int = 12
  """Matches that agree on a homography, at least; fewer are no match."""
  share: float = 0.2
  """Share of all matches that agree on it, at least: among many wrong matches
  some always do."""

  def __post_init__(self) -> None:
    for name in ("overlap", "share"):
      value = getattr(self, name)
      if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}; use above 0, at most 1")
    if self.inliers < 4 or self.features < self.inliers or self.distance <= 0:
      raise ValueError(
        f"inliers={self.inliers}, features={self.features}, "
        f"distance={self.distance}: use 4 inliers or more, no fewer features, "
        "a distance above 0"
      )


def key_frames(
  frames: Sequence[Pixels], config: KeyFrameConfig = KeyFrameConfig()
) -> list[int]:
  """Selects the key frames of a video, by their places.

  The first frame is one, and so is every frame that overlaps the last key frame
  by less than `config.overlap`, or matches it nowhere.

  Raises:
    SophiaError: frames of two sizes, or OpenCV is not installed.
  """
  chosen: list[int] = []
  last: _Features | None = None
  for place, frame in enumerate(frames):
    found = _features(frame, config)
    if last is not None and found.size != last.size:
      raise SophiaError(
        f"frame {place} is {_said(found.size)} pixels, those before it are "
        f"{_said(last.size)}; give frames of one size"
      )
    share = None if last is None else _overlap(last, found, config)
    if share is None or share < config.overlap:
      chosen.append(place)
      last = found
  return chosen


def overlap(
  before: Pixels, after: Pixels, config: KeyFrameConfig = KeyFrameConfig()
) -> float | None:
  """Returns the share of a frame's area that another one shows too.

    c = |L(before) & H L(after)| / |L(before)|

  L is a frame's outline, H the homography from `after` to `before`.

  Returns:
    0 to 1; None: the frames do not match.

  Raises:
    SophiaError: OpenCV is not installed.
  """
  return _overlap(_features(before, config), _features(after, config), config)


def opencv() -> Any:
  """Returns the module of OpenCV.

  Raises:
    SophiaError: it is not installed.
  """
  try:
    import cv2
  except ImportError:
    raise SophiaError(
      "key frames need OpenCV, which is not installed; pip install "
      "'sophia-jax[video]'"
    ) from None
  return cv2


# ------------------------------------------------------------------- internals
@dataclasses.dataclass(frozen=True)
class _Features:
  size: tuple[int, int]
  """Height and width of the frame, pixels."""
  points: Float[np.ndarray, "N 2"]
  words: UInt8[np.ndarray, "N 32"] | None
  """Descriptors; None: the frame has no features."""


def _features(frame: Pixels, config: KeyFrameConfig) -> _Features:
  cv2 = opencv()
  grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
  orb = cv2.ORB_create(nfeatures=config.features)
  points, words = orb.detectAndCompute(grey, None)
  places = np.array([p.pt for p in points], np.float32).reshape(-1, 2)
  return _Features(frame.shape[:2], places, words)


def _overlap(
  before: _Features, after: _Features, config: KeyFrameConfig
) -> float | None:
  homography = _homography(before, after, config)
  if homography is None:
    return None
  cv2 = opencv()
  outline = _outline(*after.size)
  moved = cv2.perspectiveTransform(outline[None], homography)[0]
  # A plane that is folded over matches nothing.
  if not (np.isfinite(moved).all() and cv2.isContourConvex(moved)):
    return None
  high, wide = before.size
  return min(_area(_clipped(moved, high, wide)) / (high * wide), 1.0)


def _clipped(
  polygon: Float[np.ndarray, "N 2"], height: int, width: int
) -> Float[np.ndarray, "M 2"]:
  """Returns the part of a convex polygon inside a frame (Sutherland, Hodgman).

  cv2.intersectConvexConvex is wrong where edges nearly coincide, as those of a
  frame that has not moved do.
  """
  for axis, bound, sign in (
    (0, 0, 1),
    (0, width, -1),
    (1, 0, 1),
    (1, height, -1),
  ):
    inside = sign * (polygon[:, axis] - bound)
    corners = []
    for here, there, a, b in zip(
      polygon, np.roll(polygon, -1, 0), inside, np.roll(inside, -1)
    ):
      if a >= 0:
        corners.append(here)
      if (a >= 0) != (b >= 0):
        corners.append(here + (there - here) * (a / (a - b)))
    polygon = np.array(corners).reshape(-1, 2)
  return polygon


def _area(polygon: Float[np.ndarray, "N 2"]) -> float:
  x, y = polygon.T
  return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _homography(
  before: _Features, after: _Features, config: KeyFrameConfig
) -> Float[np.ndarray, "3 3"] | None:
  """Returns the homography from `after` to `before`; None: they do not match."""
  if before.words is None or after.words is None:
    return None
  cv2 = opencv()
  matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
  matches = matcher.match(after.words, before.words)
  if len(matches) < config.inliers:
    return None
  here = after.points[[m.queryIdx for m in matches]]
  there = before.points[[m.trainIdx for m in matches]]
  found, agree = cv2.findHomography(here, there, cv2.RANSAC, config.distance)
  least = max(config.inliers, config.share * len(matches))
  if found is None or int(agree.sum()) < least:
    return None
  return found


def _outline(height: int, width: int) -> Float[np.ndarray, "4 2"]:
  corners = [(0, 0), (width, 0), (width, height), (0, height)]
  return np.array(corners, np.float32)


def _said(size: tuple[int, int]) -> str:
  return f"{size[1]} x {size[0]}"
