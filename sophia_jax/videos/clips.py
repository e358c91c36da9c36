"""Frames of a video file, evenly spaced in time.

A file is opened by its content and in known formats alone: a name is never an
address, and a list of further files is not followed.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from sophia_jax.types import SophiaError

FORMATS = (
  "mov,mp4,m4a,3gp,3g2,mj2",
  "matroska,webm",
  "avi",
  "flv",
  "gif",
  "mpeg",
  "mpegts",
  "ogg",
)
"""Formats that are decoded, by FFmpeg's names; none refers to other files."""
COUNT = 16
"""Frames of a video where nothing else is asked for."""
_WHOLE = 0.9
"""Share of the frames that a header promises, at least: some are rounded."""


class Frame(NamedTuple):
  """A picture of a video."""

  time: float
  """Seconds since the first frame."""
  image: Image.Image
  """Upright, RGB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Bounds of a video file that is decoded."""

  bytes: int = 4 << 30
  """Largest file, bytes."""
  seconds: float = 7200.0
  """Longest video, seconds."""
  frames: int = 500_000
  """Most frames of a video."""
  pixels: int = 8192 * 4320
  """Most pixels of a frame."""


LIMITS = Limits()


def read_frames(
  path: str | os.PathLike[str],
  count: int = COUNT,
  fps: float | None = None,
  limits: Limits = LIMITS,
) -> list[Frame]:
  """Reads the frames at the middles of n equal stretches of a video's time.

  Frame k is the one on the screen at (k + 1/2) length / n. A video of fewer
  frames gives each of them once.

  Args:
    count: most frames.
    fps: frames a second, as long as `count` allows as many; None: `count`
      frames, however long the video is.

  Returns:
    The frames in the order of their times.

  Raises:
    SophiaError: missing, damaged, without frames, over a limit, or in none of
      FORMATS; PyAV is not installed.
  """
  if count < 1 or (fps is not None and not 0 < fps < float("inf")):
    raise SophiaError(
      f"{path}: count={count}, fps={fps}: use count from 1 and fps above 0"
    )
  path = Path(path)
  _regular(path, limits)
  with _failures(path):
    times, unit = _times(path, limits)
    wanted = [times[i] for i in _places(times, unit, count, fps)]
    return list(_pictures(path, wanted, times[0], unit, limits))


def _places(
  times: Sequence[int], unit: Fraction, count: int, fps: float | None
) -> list[int]:
  """Returns the indices of the frames that are shown at the middles."""
  shown = times[-1] - times[0]
  # The last frame stays for as long as the others do on average.
  length = shown + Fraction(shown, max(len(times) - 1, 1))
  if fps is not None:
    count = min(count, max(1, round(float(length * unit) * fps)))
  middles = (
    times[0] + length * Fraction(2 * k + 1, 2 * count) for k in range(count)
  )
  found = (bisect.bisect_right(times, middle) - 1 for middle in middles)
  return list(dict.fromkeys(found))


# -------------------------------------------------------------------- the file
def _regular(path: Path, limits: Limits) -> None:
  """Raises SophiaError if there is no file, or a larger one than allowed."""
  try:
    stats = path.stat()
  except (OSError, ValueError) as e:
    what = getattr(e, "strerror", None) or str(e)
    raise SophiaError(
      f"{path}: cannot read this video ({what}); check the path"
    ) from None
  if not stat.S_ISREG(stats.st_mode):
    raise SophiaError(f"{path}: is no file; give a video file")
  if stats.st_size > limits.bytes:
    raise SophiaError(
      f"{path}: {stats.st_size} bytes, over the limit of {limits.bytes}; cut "
      "the video"
    )


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
  """Turns what PyAV raises on a damaged file into one line.

  Raises:
    SophiaError: PyAV raised, or is not installed.
  """
  try:
    import av
  except ImportError:
    raise SophiaError(
      f"{path}: videos need PyAV; run pip install 'sophia-jax[video]'"
    ) from None
  try:
    yield
  except (av.FFmpegError, OSError, ValueError) as e:
    what = getattr(e, "strerror", None) or str(e)
    what = what.splitlines()[0] if what else type(e).__name__
    raise SophiaError(
      f"{path}: cannot decode this video ({what}); re-encode it as MP4"
    ) from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
  """Opens a file; yields its container and its video stream.

  Raises:
    SophiaError: it has no video stream, or one of an unknown codec.
  """
  import av

  with contextlib.ExitStack() as stack:
    # PyAV gets a file, not a name: FFmpeg takes "http://..." for an address.
    file = stack.enter_context(open(path, "rb"))
    options = {"format_whitelist": ",".join(FORMATS)}
    container = stack.enter_context(av.open(file, options=options))
    if not container.streams.video:
      raise SophiaError(f"{path}: has no frames; give a video")
    stream = container.streams.video[0]
    # PyAV has no context for a codec that FFmpeg does not know, and no unit of
    # time where the file's is 0.
    if stream.codec_context is None or not stream.time_base:
      raise SophiaError(
        f"{path}: cannot decode this video (unknown codec or times); re-encode "
        "it as MP4"
      )
    yield container, stream


def _times(path: Path, limits: Limits) -> tuple[list[int], Fraction]:
  """Returns the times of all frames without decoding any, and their unit.

  Headers often give another length and number than the file has.
  """
  times: set[int] = set()
  with _opened(path) as (container, stream):
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.pixels:
      raise SophiaError(
        f"{path}: frames of {width}x{height} pixels, over the limit of "
        f"{limits.pixels}; scale the video down"
      )
    for packet in container.demux(stream):
      # An empty packet ends the file; one to discard is cut off at the front.
      if not packet.size or packet.is_discard:
        continue
      time = packet.dts if packet.pts is None else packet.pts
      if time is None:
        raise SophiaError(
          f"{path}: its frames have no times; re-encode the video as MP4"
        )
      times.add(time)
      if len(times) > limits.frames:
        raise SophiaError(
          f"{path}: over the limit of {limits.frames} frames; cut the video"
        )
    unit, promised = stream.time_base, stream.frames
  if len(times) < _WHOLE * promised:
    raise SophiaError(
      f"{path}: holds {len(times)} of {promised} frames, it is cut off; copy "
      "the file again"
    )
  if not times:
    raise SophiaError(f"{path}: has no frames; give a video")
  seconds = float((max(times) - min(times)) * unit)
  if seconds > limits.seconds:
    raise SophiaError(
      f"{path}: {seconds:.0f} seconds, over the limit of {limits.seconds:.0f}; "
      "cut the video"
    )
  return sorted(times), unit


def _pictures(
  path: Path,
  wanted: Sequence[int],
  first: int,
  unit: Fraction,
  limits: Limits,
) -> Iterator[Frame]:
  """Decodes a video up to the last wanted time; yields the frames of those."""
  left = list(reversed(wanted))
  with _opened(path) as (container, stream):
    stream.thread_type = "AUTO"
    for frame in container.decode(stream):
      time = frame.dts if frame.pts is None else frame.pts
      if time is None or time < left[-1]:
        continue
      if frame.width * frame.height > limits.pixels:
        raise SophiaError(
          f"{path}: a frame of {frame.width}x{frame.height} pixels, over the "
          f"limit of {limits.pixels}; scale the video down"
        )
      # Some formats hold pictures that are never shown: the next one is.
      while left and left[-1] <= time:
        left.pop()
      yield Frame(float((time - first) * unit), _upright(frame))
      if not left:
        return
  raise SophiaError(
    f"{path}: {len(left)} of {len(wanted)} frames cannot be decoded; re-encode "
    "the video as MP4"
  )


def _upright(frame: Any) -> Image.Image:
  """Returns a decoded frame as RGB, turned as its file says."""
  image = frame.to_image()
  turns = round(frame.rotation / 90) % 4
  return image.rotate(90 * turns, expand=True) if turns else image
