"""Files that survive kills and power cuts: replacement, JSON lines and locks.

replacing, write_*    a reader finds the old file or the new one, never a part
JsonLines             lines that one process appends, whole or not at all
exclusive, shared,    locks that end with the process that holds them
held, claim
mistaken              what a file is that is no data
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from sophia_jax import stopping
from sophia_jax.types import SophiaError

_log = logging.getLogger("sophia_jax")
_MODE = 0o666
"""Permissions of a new file, from which the umask takes away."""
_LEFT_S = 1.0
"""Time after which a lock is somebody else's work, seconds."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# ----------------------------------------------------------------- replacement
@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
  """Opens a new file that takes the place of `path` when the block ends well.

  After a power cut the old file is there or the new one, whole; after an
  exception, the old one. Missing folders are created.

  Args:
    mode: "w" for text in UTF-8, "wb" for bytes.

  Raises:
    SophiaError: the file cannot be written, or the disk is full.
  """
  partial = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.partial")
  text: dict[str, Any] = {}
  if "b" not in mode:
    text = {"encoding": "utf-8", "newline": "\n"}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(partial, mode.replace("w", "x"), **text)  # noqa: SIM115
  except OSError as e:
    raise SophiaError(f"{path}: {e.strerror}; write elsewhere") from None
  try:
    with file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
    _sync(path.parent)
  except OSError as e:
    if e.errno in _FULL:
      raise SophiaError(f"{path}: {e.strerror}; free the disk") from e
    raise
  finally:
    partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
  """Replaces a file; errors as for `replacing`."""
  with replacing(path, "wb") as file:
    file.write(data)


_STARTS = (
  (b"\x00\x05\x16\x07", "a Mac's AppleDouble companion; remove it"),
  (b"\x00\x05\x16\x00", "a Mac's AppleSingle file; remove it"),
  (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"),
  (b"<!doctype html", "an HTML page; download the file itself"),
  (b"<html", "an HTML page; download the file itself"),
  (b"\x1f\x8b", "a gzip archive; unpack it"),
  (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
  (b"PK\x03\x04", "a ZIP archive; unpack it"),
)


def mistaken(path: str | os.PathLike[str]) -> str:
  """Names what often lies where data belong: a pointer, a companion, a page.

  Returns:
    "what; remedy", or "" for anything else and for what cannot be read.
  """
  try:
    with open(path, "rb") as file:
      start = file.read(64)
  except OSError:
    return ""
  if not start:
    return "an empty file; download it again"
  low = start.lower().lstrip()
  return next((what for magic, what in _STARTS if low.startswith(magic)), "")


def write_text(path: Path, text: str) -> None:
  """Replaces a file with text in UTF-8; errors as for `replacing`."""
  with replacing(path) as file:
    file.write(text)


def write_json(path: Path, value: Any) -> None:
  """Replaces a file with an indented JSON value; errors as for `replacing`."""
  write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
  """Reads a JSON object, such as `write_json` writes.

  Args:
    remedy: the advice of the error.

  Raises:
    SophiaError: absent, unreadable, or another thing than a JSON object.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except OSError as e:
    raise SophiaError(f"{path}: {e.strerror}; {remedy}") from None
  except (ValueError, RecursionError) as e:
    what = " ".join(str(e).split())[:100]
    raise SophiaError(f"{path}: damaged ({what}); {remedy}") from None
  if not isinstance(found, dict):
    raise SophiaError(f"{path}: not a JSON object; {remedy}")
  return found


def _sync(directory: Path) -> None:
  """Forces a directory to disk: without this a rename may be lost."""
  fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


# ------------------------------------------------------------------ JSON lines
class Line(NamedTuple):
  """A line of a file of JSON lines."""

  number: int
  """Line number, from 1."""
  start: int
  """Byte offset of the line in the file."""
  size: int
  """Length of the line, bytes."""
  values: dict[str, Any]
  """The line's JSON object."""


def write_jsonl(
  path: str | os.PathLike[str],
  records: Iterable[Mapping[str, Any]],
  nan: bool = False,
) -> int:
  """Replaces a file with one record a line and returns their number.

  Characters are written as they are.

  Args:
    nan: nan and infinities are allowed and written as NaN and Infinity.

  Raises:
    SophiaError: as for `replacing`.
    ValueError: a record holds a lone surrogate, or a number that is not
      finite where `nan` is False.
  """
  count = 0
  with replacing(Path(path)) as file:
    for record in records:
      file.write(json.dumps(record, ensure_ascii=False, allow_nan=nan))
      file.write("\n")
      count += 1
  return count


def read_jsonl(
  path: Path,
  fields: Sequence[str] = (),
  what: str = "JSON object",
  remedy: str = "remove the line",
) -> Iterator[Line]:
  """Yields the lines of a file that was appended to, one in memory at a time.

  A last line without its end, cut short by a kill, is left out. A line with a
  checksum, as `JsonLines` writes it, is compared with it.

  Args:
    fields: keys that every line must have.
    what: the name of such a line, for the error.
    remedy: the advice of the error.

  Raises:
    SophiaError: a line is no JSON object with these fields, or was damaged.
    OSError: the file cannot be read.
  """
  start = 0
  with open(path, "rb") as file:
    for number, data in enumerate(file, start=1):
      if not data.endswith(b"\n"):
        return
      values = _object(data)
      if values is None or not values.keys() >= set(fields):
        raise SophiaError(f"{path}:{number}: not a {what}; {remedy}")
      yield Line(number, start, len(data), values)
      start += len(data)


def append_jsonl(path: Path, values: Mapping[str, Any]) -> None:
  """Appends one line to a file that no other process writes.

  Raises:
    SophiaError: the disk is full; the file is then as it was.
  """
  append_bytes(path, json.dumps(values).encode() + b"\n")


def append_bytes(path: Path, data: bytes) -> None:
  """Appends bytes, whole or not at all; errors as for `append_jsonl`."""
  with _closing(_open(path, os.O_APPEND)) as fd:
    append(fd, data, path)


_CHECKSUM = re.compile(rb', "crc": "([0-9a-f]{8})"}\n$')


def _with_checksum(data: bytes) -> bytes:
  """Returns the line of a JSON object, with the CRC-32 of what stands before."""
  return data[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(data[:-1])


def _object(line: bytes) -> dict[str, Any] | None:
  """Returns the object of a line without its checksum; None if it is damaged."""
  if found := _CHECKSUM.search(line[-24:]):
    whole = line[: -len(found[0])]
    if int(found[1], 16) != zlib.crc32(whole):
      return None
    line = whole + b"}"
  try:
    values = json.loads(line)
  except (ValueError, RecursionError):
    return None
  return values if isinstance(values, dict) else None


def append(fd: int, data: bytes, path: Path) -> int:
  """Appends bytes, whole or not at all, and returns where they start.

  Args:
    fd: a file opened with O_APPEND, which only this process writes.
    path: its name, for the error.

  Raises:
    SophiaError: the disk is full; the file is then as it was.
  """
  start = os.fstat(fd).st_size
  try:
    rest = memoryview(data)
    while rest:
      rest = rest[os.write(fd, rest) :]
  except OSError as e:
    os.ftruncate(fd, start)
    raise SophiaError(f"{path}: {e.strerror}; free the disk") from e
  return start


class JsonLines:
  """A file of JSON lines with this process as its writer; a context manager.

  `append` returns after the line is with the operating system; closing forces
  the file to disk. A last line that a kill cut short is removed before the
  first append, or by `trim`.

  Args:
    fields: keys that every line must have.
    what: the name of such a line, for the error.
    remedy: the advice where a line is not one.

  Raises:
    SophiaError: the file cannot be opened, or has another writer.
  """

  def __init__(self, path: Path, fields: Sequence[str], what: str, remedy: str):
    self.path = path
    self._fields, self._what, self._remedy = fields, what, remedy
    self._fd = _open(path, os.O_APPEND)
    self._trimmed = False
    if not _locked(self._fd):
      self.close()
      raise SophiaError(
        f"{path}: another process is writing it; stop that process or use "
        "another file"
      )

  def close(self) -> None:
    """Forces the file to disk and lets another process write it."""
    os.fsync(self._fd)
    os.close(self._fd)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def __iter__(self) -> Iterator[Line]:
    """Yields the whole lines; errors as for `read_jsonl`."""
    return read_jsonl(self.path, self._fields, self._what, self._remedy)

  def trim(self) -> None:
    """Removes a last line without its end."""
    os.ftruncate(self._fd, _end(self._fd))
    self._trimmed = True

  def append(self, values: Mapping[str, Any]) -> tuple[int, int]:
    """Appends a line, with a checksum, and returns its offset and length, bytes.

    Raises:
      SophiaError: the disk is full; the file is then as it was.
    """
    if not self._trimmed:
      self.trim()
    # ASCII: a lone surrogate in a model's text survives.
    data = _with_checksum(json.dumps(values).encode())
    return append(self._fd, data, self.path), len(data)

  def read(self, start: int, size: int) -> dict[str, Any]:
    """Returns the values of the line at an offset.

    Raises:
      SophiaError: it was damaged since it was written.
    """
    values = _object(os.pread(self._fd, size, start))
    if values is None:
      raise SophiaError(
        f"{self.path}: byte {start}: not a {self._what}; {self._remedy}"
      )
    return values

  def sync(self) -> None:
    """Forces what was appended to disk."""
    os.fsync(self._fd)


def _end(fd: int) -> int:
  """Returns the offset after the last line end."""
  end = os.fstat(fd).st_size
  while end:
    start = max(0, end - (1 << 16))
    if found := os.pread(fd, end - start, start).rfind(b"\n") + 1:
      return start + found
    end = start
  return 0


# ----------------------------------------------------------------------- locks
@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
  """Holds a lock file; waits while another process holds it.

  SIGTERM ends the wait by Preempted; it would not end a blocking flock.

  Args:
    what: the work that the lock protects, for the log of a waiting process.
  """
  with _closing(_open(path)) as fd:
    if not _locked(fd):
      _log.info("%s: another process holds the lock; waiting", what)
      while not _locked(fd):
        stopping.check(f"waited for {what} of another process")
        time.sleep(stopping.LOOK_S)
    yield


@contextlib.contextmanager
def shared(path: Path, terms: str) -> Iterator[None]:
  """Holds a lock file together with the processes that have the same terms.

  Raises:
    SophiaError: another process holds it on other terms.
  """
  with _closing(_open(path)) as fd:
    if _locked(fd):
      os.ftruncate(fd, 0)
      os.pwrite(fd, terms.encode(), 0)
    while not _locked(fd, fcntl.LOCK_SH):
      stopping.check("waited for another process to name its terms")
      time.sleep(stopping.LOOK_S)
    current = os.pread(fd, 256, 0).decode(errors="replace")
    if current != terms:
      raise SophiaError(
        f"{path}: others are sampling here in {current}, not in {terms}; join "
        "them or stop them"
      )
    yield


def claim(path: Path, what: str, remedy: str, share: bool = False) -> int:
  """Locks a file until its descriptor, which is returned, is closed.

  The file names the process that holds it.

  Args:
    share: lets others hold it that share it too.

  Raises:
    SophiaError: another process holds it.
  """
  fd = _taken(path, what, remedy, share)
  os.ftruncate(fd, 0)
  os.write(fd, str(os.getpid()).encode())
  return fd


def check_free(path: Path, what: str, remedy: str, share: bool = False) -> None:
  """Refuses what `claim` would; neither makes the file nor changes it.

  Raises:
    SophiaError: another process holds it.
  """
  if path.exists():
    os.close(_taken(path, what, remedy, share))


def _taken(path: Path, what: str, remedy: str, share: bool) -> int:
  """Locks a file and returns its descriptor.

  Raises:
    SophiaError: another process holds it.
  """
  fd = _open(path)
  # Children of a process that was killed hold its locks until they end, too.
  deadline = time.monotonic() + _LEFT_S
  while not _locked(fd, fcntl.LOCK_SH if share else fcntl.LOCK_EX):
    if time.monotonic() < deadline:
      time.sleep(stopping.LOOK_S)
      continue
    holder = os.read(fd, 32).decode(errors="replace").strip() or "?"
    os.close(fd)
    raise SophiaError(f"{path}: process {holder} is writing {what}; {remedy}")
  return fd


@contextlib.contextmanager
def held(
  path: Path, what: str, remedy: str, share: bool = False
) -> Iterator[None]:
  """Holds a lock file for the block, as `claim` does.

  Args:
    share: lets others hold it that share it too.

  Raises:
    SophiaError: another process holds it.
  """
  with _closing(claim(path, what, remedy, share)):
    yield


def _locked(fd: int, how: int = fcntl.LOCK_EX) -> bool:
  """Takes the lock unless another process holds one that excludes it."""
  try:
    fcntl.flock(fd, how | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _open(path: Path, flags: int = 0) -> int:
  """Opens a file for reading and writing, creating it where there is none."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | flags, _MODE)
  except OSError as e:
    raise SophiaError(f"{path}: {e.strerror}; use another file") from None


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
  try:
    yield fd
  finally:
    os.close(fd)  # which releases the lock
