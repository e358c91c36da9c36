"""What every importer is made of: rows in, records out, reasons counted."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sophia_jax.data.images import image_size
from sophia_jax.datasets.importers.media import Media
from sophia_jax.types import SophiaError

Record = dict[str, Any]
"""Keys of a Problem or an Example; None and empty lists are left out."""


class Skip(Exception):
  """A right row that is not wanted; the text is the reason it counts under."""


class Broken(Exception):
  """A row that cannot be used: "what; remedy"."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
  """One record of a data set, as it was read.

  Example: Row(place="test.jsonl:12", number=12, folder=Path("mathvision"),
    file="test", value={"id": "12", "question": "How many?"})
  """

  place: str
  """FILE:LINE, or "FILE: row 7" where the file has no lines."""
  number: int
  """From 1, over all files of the data set."""
  folder: Path
  """Of the file: where its image paths start."""
  file: str
  """Name of the file, without what follows its first dot."""
  value: Any
  key: str = ""
  """The key of the row in a JSON object of rows."""
  error: str = ""
  """Why there is no value: "what; remedy"."""


class Context:
  """What a converter may ask for besides the row."""

  def __init__(self, root: Path, media: Media, columns: Mapping[str, str]):
    self.root = root
    self.columns = columns
    """The column map: our key -> name of the column."""
    self.notes: collections.Counter[str] = collections.Counter()
    """What was changed in rows that were used."""
    self.row: Row
    """The row being converted."""
    self._media = media

  def image(self, value: Any, *folders: str) -> str:
    """An image of the row as a path relative to the file that is written.

    Only its header is read, as when problems are loaded; `problems check`
    decodes every image.

    Args:
      value: a path, the bytes of an image, or Hugging Face's
        {"bytes": ..., "path": ...}; bytes win and are written out.
      folders: where paths start, relative to the row's file or to the data
        set; the folder itself if there are none.

    Raises:
      Broken: missing, not an image, or a path that leads out of the folder.
    """
    if isinstance(value, Mapping):
      value = value.get("bytes") or value.get("path")
    try:
      if isinstance(value, bytes):
        return self._media.add(value)
      if isinstance(value, str) and value:
        path = self._find(value, folders or (".",))
        image_size(path)
        return os.path.relpath(path, self._media.folder)
    except SophiaError as e:
      raise Broken(f"image {e}") from None
    raise Broken("image is neither a path nor bytes; mend the row")

  def _find(self, name: str, folders: tuple[str, ...]) -> str:
    for base in dict.fromkeys((self.row.folder, self.root)):
      top = os.path.abspath(base)
      for folder in folders:
        start = os.path.normpath(os.path.join(top, folder))
        path = os.path.normpath(os.path.join(start, name))
        if not path.startswith(os.path.join(start, "")):
          raise Broken(f"image {name!r} leads out of {start}; mend the path")
        if os.path.isfile(path):
          return path
    where = os.path.join(self.root, folders[0])
    raise Broken(f"image {name!r} is not in {where}; unpack the images there")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importer:
  """How one data set becomes problems or examples."""

  source: str
  """Its name on every record; sources.EVALUATION_SOURCES decides its use."""
  files: tuple[str, ...]
  """Patterns below SRC; the files of the first that matches any are read."""
  convert: Callable[[Mapping[str, Any], Context], Record]
  """A row -> a record. Raises Skip or Broken. Without "id" it is numbered."""
  kinds: tuple[str, ...] = ("problems",)
  """What it can become, of "problems" and "examples"; the first by default."""
  rows: Callable[[Path], Iterator[Row]] | None = None
  """Reads SRC where it is more than a list of files."""
