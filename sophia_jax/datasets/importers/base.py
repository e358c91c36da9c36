"""The parts of every importer: rows in, records out, reasons counted."""

from __future__ import annotations

import base64
import binascii
import collections
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sophia_jax.data.images import image_size
from sophia_jax.datasets.importers.media import Media
from sophia_jax.types import SophiaError, quoted
from sophia_jax.videos.clips import read_frames

FRAME_SIDE = 448
"""Longest short side of a frame that is written, pixels: a tile of InternVL."""

Record = dict[str, Any]
"""Keys of a Problem or an Example; None and empty lists are left out."""


class Skip(Exception):
  """Raised for a valid row that is not wanted; the text is counted."""


class Broken(Exception):
  """Raised for a row that cannot be used; the text is "what; remedy"."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
  """One record of a data set, as it was read.

  Example: Row(place="test.jsonl:12", number=12, folder=Path("mathvision"),
    file="test", value={"id": "12", "question": "How many?"})
  """

  place: str
  """FILE:LINE, or "FILE: row 7" where the file has no lines."""
  number: int
  """Number of the row, from 1, over all files of the data set."""
  folder: Path
  """Folder of the file, where its image paths start."""
  file: str
  """Name of the file up to its first dot."""
  value: Any
  key: str = ""
  """Key of the row in a JSON object of rows."""
  error: str = ""
  """Reason why there is no value, "what; remedy"."""


class Context:
  """Gives a converter what it needs besides the row: images, columns, notes."""

  def __init__(
    self,
    root: Path,
    media: Media,
    columns: Mapping[str, str],
    split: str | None = None,
  ):
    self.root = root
    self.columns = columns
    """Column map: our key -> name of the column."""
    self.split = split
    """Split that was asked for; None: rows of any."""
    self.written = media.dst
    """File that is written."""
    self.notes: collections.Counter[str] = collections.Counter()
    """Changes to rows that were used, and files passed over."""
    self.row: Row
    """Row being converted."""
    self._media = media

  def image(self, value: Any, *folders: str) -> str:
    """Returns an image of the row as a path relative to the file written.

    Only its header is read, as when problems are loaded; the check decodes
    every image.

    Args:
      value: a path, the bytes of an image, the same in base64 or as a data
        URL, or Hugging Face's {"bytes": ..., "path": ...}; bytes win and are
        written out.
      folders: where paths start, relative to the row's file or to the data
        set; the folder itself if there are none.

    Raises:
      Broken: missing, not an image, or a path that leads out of the folder.
    """
    if isinstance(value, Mapping):
      value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
      value = embedded(value) or value.removeprefix("file://")
    try:
      if isinstance(value, bytes):
        return self._media.add(value)
      if isinstance(value, str) and value:
        path = self._find(value, folders or (".",))
        image_size(path)
        return os.path.relpath(path, self._media.folder)
    except SophiaError as e:
      raise Broken(f"image {e}") from None
    raise Broken("image is neither a path nor bytes; fix the row")

  def frames(self, value: Any, count: int, *folders: str) -> list[str]:
    """Returns frames of a video, in their order, as images that are written out.

    Args:
      value: path of the video.
      count: most frames.
      folders: as for `image`.

    Raises:
      Broken: missing, not a video, or a path that leads out of the folder.
    """
    if not isinstance(value, str) or not value:
      raise Broken("video is no path; fix the row")
    path = self._find(value, folders or (".",), "video")
    try:
      return [self._written(f.image) for f in read_frames(path, count)]
    except SophiaError as e:
      raise Broken(f"video {e}") from None

  def _written(self, frame: Image.Image) -> str:
    """Writes a frame, with a short side of a tile where it was larger."""
    scale = FRAME_SIDE / min(frame.size)
    if scale < 1:
      width, height = (max(1, round(side * scale)) for side in frame.size)
      frame = frame.resize((width, height), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    frame.save(data, "JPEG", quality=95)
    return self._media.add(data.getvalue())

  def _find(
    self, name: str, folders: tuple[str, ...], what: str = "image"
  ) -> str:
    for base in dict.fromkeys((self.row.folder, self.root)):
      top = os.path.abspath(base)
      for folder in folders:
        start = os.path.normpath(os.path.join(top, folder))
        path = os.path.normpath(os.path.join(start, name))
        if not path.startswith(os.path.join(start, "")):
          raise Broken(
            f"{what} {quoted(name)} leads out of {start}; fix the path"
          )
        if os.path.isfile(path):
          return path
    where = os.path.normpath(os.path.join(self.root, folders[0]))
    raise Broken(
      f"{what} {quoted(name)} is not in {where}; unpack the {what}s there"
    )


def embedded(text: str) -> bytes | None:
  """Returns the image in base64 or in a data URL; None for any other text.

  A short text that could be both is a path.
  """
  head, comma, rest = text.partition(",")
  if comma and head.startswith("data:"):
    text = rest
  elif len(text) < 64:
    return None
  try:
    return base64.b64decode("".join(text.split()), validate=True)
  except (binascii.Error, ValueError):
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importer:
  """Turns one data set into problems or examples."""

  source: str
  """Name on every record; sources.EVALUATION_SOURCES decides its use."""
  files: tuple[str, ...]
  """Patterns below SRC; the files of the first that matches any are read."""
  convert: Callable[[Mapping[str, Any], Context], Record]
  """Row -> record. Raises Skip or Broken. Without "id" it is numbered."""
  kinds: tuple[str, ...] = ("problems",)
  """Possible results, of "problems" and "examples"; the first by default."""
  rows: Callable[[Path], Iterator[Row]] | None = None
  """Reader of an SRC that is more than a list of files."""
