"""Files: written whole or not at all, locked, and recognised by their start."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sophia_jax.types import SophiaError

_log = logging.getLogger("sophia_jax")


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
  """Writes a file whole or not at all, also where processes write it at once."""
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  partial.write_text(text, encoding="utf-8")
  partial.replace(path)


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
  """Holds the lock file; waits while another process holds it.

  Args:
    what: the work that the lock protects, for the log of those who wait.
  """
  with _opened(path) as fd:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      _log.info("another process is at it: %s; waiting", what)
      fcntl.flock(fd, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def shared(path: Path, terms: str) -> Iterator[None]:
  """Holds the lock file together with all processes that have the same terms.

  Raises:
    SophiaError: another process holds it on other terms.
  """
  with _opened(path) as fd:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else is there
      os.ftruncate(fd, 0)
      os.pwrite(fd, terms.encode(), 0)
    except BlockingIOError:
      pass
    fcntl.flock(fd, fcntl.LOCK_SH)
    found = os.pread(fd, 256, 0).decode(errors="replace")
    if found != terms:
      raise SophiaError(
        f"{path}: others are sampling here in {found}, not in {terms}; join "
        "them or stop them"
      )
    yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
  path.parent.mkdir(parents=True, exist_ok=True)
  fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    yield fd
  finally:
    os.close(fd)  # which releases the lock
