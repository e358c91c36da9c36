"""Images that come inside a data file, written out beside the JSONL.

Names are hashes of the content, so equal images are one file and nothing in
the data names a file. Images are staged and moved into place when all rows are
read: an import that stops before leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from sophia_jax.data.images import image_size
from sophia_jax.types import SophiaError

_SUFFIXES = (
  (b"\x89PNG", ".png"),
  (b"\xff\xd8", ".jpg"),
  (b"GIF8", ".gif"),
  (b"RIFF", ".webp"),
  (b"BM", ".bmp"),
  (b"II", ".tif"),
  (b"MM", ".tif"),
  (b"P", ".ppm"),
)


class Media:
  """The images of one import, kept in DST's folder under `STEM_images`."""

  def __init__(self, dst: Path):
    self.dst = dst
    """File that the images belong to."""
    self.folder = dst.parent.absolute()
    """Folder that image paths are relative to."""
    self._name = f"{dst.stem}_images"
    self._staged: Path | None = None

  def __enter__(self) -> Media:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._staged is not None:
      shutil.rmtree(self._staged, ignore_errors=True)

  def add(self, data: bytes) -> str:
    """Stages an image; returns its future path, relative to `folder`.

    Raises:
      SophiaError: the bytes are no image that can be read.
    """
    if self._staged is None:
      self.folder.mkdir(parents=True, exist_ok=True)
      name = tempfile.mkdtemp(prefix=f".{self._name}.", dir=self.folder)
      self._staged = Path(name)
    digest = hashlib.sha256(data).hexdigest()[:32]
    suffix = next((s for m, s in _SUFFIXES if data.startswith(m)), ".bin")
    place = os.path.join(digest[:2], digest + suffix)
    path = self._staged / place
    if not path.exists():
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(data)
      try:
        image_size(str(path))
      except SophiaError as e:
        path.unlink()
        what = str(e).removeprefix(str(path))
        raise SophiaError(f"inside the data{what}") from None
    return os.path.join(self._name, place)

  def commit(self) -> None:
    """Moves what was staged into place."""
    if self._staged is None:
      return
    for path in self._staged.glob("*/*"):
      target = self.folder / self._name / path.parent.name
      target.mkdir(parents=True, exist_ok=True)
      os.replace(path, target / path.name)
