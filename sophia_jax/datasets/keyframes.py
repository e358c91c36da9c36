"""Problems about videos as problems about key frames.

A line of the source is a problem with a path to a video, `video`, in the place of
images. Each video is read once, however many questions it has, and what is there
already is not read again:

  frames/<digest of the file>/0003.jpg   the key frames, numbered from 1
  frames/<digest of the file>/frames.json   how they were chosen; written last
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sophia_jax.data.images import image_digest
from sophia_jax.data.schema import numbered_lines, parse_record, record_errors
from sophia_jax.files import replacing, write_json, write_jsonl
from sophia_jax.types import SophiaError
from sophia_jax.videos.clips import read_frames
from sophia_jax.videos.keyframes import KeyFrameConfig, key_frames

RECORD = "frames.json"
QUALITY = 95
"""Quality of the JPEG files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
  """How the frames of a video are read, and chosen."""

  fps: float = 1.0
  """Frames a second that are looked at."""
  frames: int = 256
  """Frames of a video that are looked at, at most."""
  rule: KeyFrameConfig = dataclasses.field(default_factory=KeyFrameConfig)


class Counts(NamedTuple):
  """Numbers of what was written."""

  problems: int
  videos: int
  frames: int
  """Key frames of all videos."""


def convert(source: Path, target: Path, how: Chosen = Chosen()) -> Counts:
  """Writes the problems of `source` with key frames for images.

  Raises:
    SophiaError: a broken line, or a video that cannot be read; names the line.
      `target` is not written then; key frames of videos before it stay.
  """
  found: dict[str, list[str]] = {}
  rows = list(_rows(source, target, how, found))
  if not rows:
    raise SophiaError(f"{source}: holds no line; write one problem a line")
  write_jsonl(target, rows)
  return Counts(len(rows), len(found), sum(map(len, found.values())))


def _rows(
  source: Path, target: Path, how: Chosen, found: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
  """Yields the lines of the target; adds the frames of each video to `found`."""
  for number, line in numbered_lines(source):
    where = f"{source}:{number}"
    record, errors = parse_record(line)
    if record is None:
      raise SophiaError(f"{where}: {errors[0]}")
    video = record.pop("video", None)
    if not isinstance(video, str) or not video:
      raise SophiaError(f"{where}: video is missing; give the path of a video")
    if record.get("images"):
      raise SophiaError(
        f"{where}: images beside a video; leave them out, its key frames are "
        "the images"
      )
    if errors := record_errors(record):
      raise SophiaError(f"{where}: {errors[0]}")
    try:
      frames = _frames(source.parent / video, target.parent, how)
    except SophiaError as e:
      raise SophiaError(f"{where}: {e}") from None
    name, images = frames
    found[name] = images
    yield {**record, "images": images}


def _frames(video: Path, folder: Path, how: Chosen) -> tuple[str, list[str]]:
  """Returns a video's digest and its key frames, written unless they are there.

  Raises:
    SophiaError: the video cannot be read, or a frame cannot be written.
  """
  name = image_digest(str(video))
  place = folder / "frames" / name
  record, settings = place / RECORD, dataclasses.asdict(how)
  images = _known(record, settings)
  if images is None:
    pictures = [f.image for f in read_frames(video, how.frames, how.fps)]
    chosen = key_frames([np.asarray(p) for p in pictures], how.rule)
    images = [f"{i:04d}.jpg" for i in range(1, len(chosen) + 1)]
    for image, at in zip(images, chosen):
      with replacing(place / image, "wb") as file:
        pictures[at].save(file, "jpeg", quality=QUALITY)
    write_json(record, {"how": settings, "images": images})
  inside = os.path.relpath(place, folder)
  return name, [f"{inside}/{image}" for image in images]


def _known(record: Path, settings: dict[str, Any]) -> list[str] | None:
  """Returns the frames that were chosen in the same way; None: none were."""
  try:
    found = json.loads(record.read_bytes())
    images = [str(name) for name in found["images"]]
    same = found["how"] == settings
  except (OSError, ValueError, KeyError, TypeError):
    return None
  whole = all((record.parent / name).is_file() for name in images)
  return images if same and whole else None
