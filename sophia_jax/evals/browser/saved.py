"""The index of a workdir's stores as a file, which the next start begins with.

  W/.browse/index    digest of what follows, then an .npz: the columns of
                     `index.Catalogue`, what their numbers stand for, and how
                     much of each segment they hold

A cache: without it a start takes seconds more. A file that is damaged, of another
version, or of segments that are no longer what was read is not used. A segment is
the same if it begins and ends, up to where it was read, with the same bytes; one
that has not grown must not have been written to either.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Int64

from sophia_jax import files
from sophia_jax.evals.browser.table import FINISHES, STATUSES
from sophia_jax.types import SophiaError

FORMAT = 1
WINDOW = 1 << 16
"""Bytes at the beginning and the end of a segment that are compared."""
_DIGEST = 16
_META = "meta"

Columns = Mapping[str, Int64[np.ndarray, "L"]]


class Segment(NamedTuple):
  """A segment of a store, as far as it is indexed."""

  path: str
  """Path in the workdir."""
  end: int
  """Bytes that are indexed."""
  mtime: int
  """Time of the last change of a segment that is indexed to its end,
  nanoseconds; 0 for another one."""
  digest: str
  """Digest of its first and last indexed bytes."""


class Contents(NamedTuple):
  """Contents of a file."""

  segments: Sequence[Segment]
  answers: Columns
  grades: Columns
  values: Mapping[str, Sequence[bytes | tuple[bytes, ...]]]
  """Values that the numbers of a column stand for, by the column's name."""


def location(workdir: Path) -> Path:
  """Returns where the index of a workdir is kept."""
  return workdir / ".browse" / "index"


def segment(name: str, path: Path, end: int) -> Segment:
  """Describes a segment.

  Args:
    name: its path in the workdir.
    end: bytes of it that are indexed.

  Raises:
    OSError: it cannot be read.
  """
  found = path.stat()
  digest = xxhash.xxh3_128()
  with open(path, "rb") as file:
    digest.update(file.read(min(end, WINDOW)))
    file.seek(max(0, end - WINDOW))
    digest.update(file.read(min(end, WINDOW)))
  mtime = found.st_mtime_ns if found.st_size == end else 0
  return Segment(name, end, mtime, digest.hexdigest())


def same(path: Path, known: Segment) -> bool:
  """Tells whether a segment still begins with what was indexed of it."""
  try:
    now = path.stat()
    if now.st_size < known.end:
      return False
    if now.st_size == known.end:
      return now.st_mtime_ns == known.mtime
    return segment(known.path, path, known.end).digest == known.digest
  except OSError:
    return False


def write(workdir: Path, contents: Contents) -> bool:
  """Writes the index of a workdir; returns whether it could be.

  A workdir that must not be written to is left as it is.
  """
  if not os.access(workdir, os.W_OK):
    return False
  meta = {
    **_version(),
    "segments": contents.segments,
    "values": {
      name: list(map(_text, values)) for name, values in contents.values.items()
    },
  }
  arrays = {f"answers.{k}": _small(v) for k, v in contents.answers.items()}
  arrays |= {f"grades.{k}": _small(v) for k, v in contents.grades.items()}
  arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
  data = io.BytesIO()
  np.savez(data, **arrays)  # type: ignore[arg-type]
  body = data.getbuffer()
  try:
    with files.replacing(location(workdir), "wb") as file:
      file.write(xxhash.xxh3_128_digest(body))
      file.write(body)
  except (SophiaError, OSError):
    return False
  return True


def read(workdir: Path) -> Contents | None:
  """Returns what was written; None where there is nothing that can be used."""
  try:
    data = location(workdir).read_bytes()
  except OSError:
    return None
  body = memoryview(data)[_DIGEST:]
  if xxhash.xxh3_128_digest(body) != data[:_DIGEST]:
    return None
  with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
    meta = json.loads(arrays[_META].tobytes())
    if {key: meta.get(key) for key in _version()} != _version():
      return None
    return Contents(
      [Segment(*values) for values in meta["segments"]],
      _columns(arrays, "answers."),
      _columns(arrays, "grades."),
      {k: list(map(_value, values)) for k, values in meta["values"].items()},
    )


def forget(workdir: Path) -> None:
  """Removes the index of a workdir, if it may be."""
  with contextlib.suppress(OSError):
    location(workdir).unlink(missing_ok=True)


def _version() -> dict[str, Any]:
  """Returns what the numbers mean beside the values that are saved."""
  return {
    "format": FORMAT,
    "statuses": list(STATUSES),
    "finishes": list(FINISHES),
  }


def _text(value: bytes | tuple[bytes, ...]) -> str | list[str]:
  if isinstance(value, bytes):
    return value.decode("latin-1")
  return [part.decode("latin-1") for part in value]


def _value(text: str | list[str]) -> bytes | tuple[bytes, ...]:
  if isinstance(text, str):
    return text.encode("latin-1")
  return tuple(part.encode("latin-1") for part in text)


def _small(column: Int64[np.ndarray, "L"]) -> np.ndarray:
  """Returns a column in 32 bits where its numbers fit."""
  most = int(np.abs(column).max(initial=0))
  return column.astype(np.int32) if most < 1 << 31 else column


def _columns(arrays: Any, begin: str) -> Columns:
  return {
    name.removeprefix(begin): arrays[name].astype(np.int64)
    for name in arrays.files
    if name.startswith(begin)
  }
