"""The seal of a directory: every file with its size and a digest.

A bit that flipped on a disk or on the way from it changes nothing that a reader
of arrays could notice, so what is restored is compared with its seal first.
XXH3 is no protection against people, and reads as fast as memory does.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import xxhash

from sophia_jax import files
from sophia_jax.types import quoted

NAME = "files.json"
SMALL = 1 << 20
"""Size up to which a file is always compared with its digest, bytes."""
_BLOCK = 1 << 20
_THREADS = 4


class Sealed(NamedTuple):
  """A file at the time when its directory was sealed."""

  size: int
  digest: str = ""
  """XXH3, 64 bits, in hexadecimal; "": only the size is known."""


def seal(directory: pathlib.Path, pattern: str = "*") -> None:
  """Notes size and digest of the files of `directory` in the directory.

  Args:
    pattern: names of the files that must not change from now on.
  """
  found = dict(_files(directory, pattern))
  with ThreadPoolExecutor(_THREADS) as pool:
    digests = pool.map(_digest, found.values())
    sealed = {
      name: Sealed(path.stat().st_size, digest)
      for (name, path), digest in zip(found.items(), digests)
    }
  files.write_json(directory / NAME, sealed)


def damage(
  directory: pathlib.Path,
  whole: bool = False,
  share: tuple[int, int] = (0, 1),
) -> str | None:
  """Compares a directory with its seal.

  Args:
    whole: compares the digests of all files; otherwise of those up to SMALL
      bytes, and the sizes of the others.
    share: (index, count) of this process: of the larger files it reads each
      count-th.

  Returns:
    The first damage; None if there is none, or if it was never sealed.
  """
  path = directory / NAME
  if not path.is_file():
    return None
  try:
    noted = {
      str(name): _sealed(entry)
      for name, entry in json.loads(path.read_text(encoding="utf-8")).items()
    }
  except (ValueError, TypeError, AttributeError, RecursionError):
    return f"{NAME} is damaged"
  found = dict(_files(directory))
  index, count = share
  read: dict[str, pathlib.Path] = {}
  for number, (name, sealed) in enumerate(sorted(noted.items())):
    if name not in found:
      return f"{quoted(name)} is missing"
    size = found[name].stat().st_size
    if sealed.size != size:
      return f"{name} has {size} bytes, was written with {sealed.size}"
    own = whole and number % count == index
    if sealed.digest and (own or size <= SMALL):
      read[name] = found[name]
  with ThreadPoolExecutor(_THREADS) as pool:
    for name, digest in zip(read, pool.map(_digest, read.values())):
      if digest != noted[name].digest:
        return f"{name} is not what was written"
  return None


def _sealed(entry: object) -> Sealed:
  """Reads [size, digest], or a size alone.

  Raises:
    TypeError: it is neither.
  """
  sealed = Sealed(*entry) if isinstance(entry, list) else Sealed(entry)  # type: ignore[arg-type]
  if type(sealed.size) is not int or type(sealed.digest) is not str:
    raise TypeError("not what `seal` writes")
  return sealed


def _files(
  directory: pathlib.Path, pattern: str = "*"
) -> Iterator[tuple[str, pathlib.Path]]:
  """Yields the name inside `directory`, and the path, of every file."""
  for path in sorted(directory.rglob(pattern)):
    if path.is_file() and path.name != NAME:
      yield str(path.relative_to(directory)), path


def _digest(path: pathlib.Path) -> str:
  digest, block = xxhash.xxh3_64(), bytearray(_BLOCK)
  view = memoryview(block)
  with open(path, "rb", buffering=0) as file:
    while count := file.readinto(block):
      digest.update(view[:count])
  return digest.hexdigest()
