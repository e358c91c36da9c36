"""Directories that appear complete or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator

from safetensors import SafetensorError

from sophia_jax.checkpoints.shards import read_json
from sophia_jax.types import SophiaError

_EXCHANGE = 2
"""RENAME_EXCHANGE of renameat2."""
_HERE = -100
"""AT_FDCWD of renameat2."""


@contextlib.contextmanager
def replacing(directory: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a directory to write into, which becomes `directory` in the end.

  An older `directory` is replaced as a whole. After an error it is as it was; a
  kill leaves at most a hidden directory beside it, which the next write removes.

  Raises:
    SophiaError: it cannot be written, or is something else than a checkpoint;
      says why.
  """
  directory = pathlib.Path(directory)
  _check(directory)
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    _clear_left(directory)
    with _held(directory) as work:
      yield work
      _replace(work, directory)
  except SafetensorError as e:
    raise _unwritten(directory, str(e)) from e
  except OSError as e:
    raise _unwritten(directory, e.strerror or str(e)) from e


@contextlib.contextmanager
def _held(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes a hidden directory beside, locked while this process lives."""
  work = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
  work.mkdir()  # as the umask has it, unlike a directory of tempfile
  lock = os.open(work, os.O_RDONLY)
  try:
    # A file system without locks leaves what a kill leaves.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield work
  finally:
    os.close(lock)
    _clear(work)


def _clear_left(directory: pathlib.Path) -> None:
  """Removes the hidden directories of writers that were killed."""
  for left in directory.parent.glob(f".{glob.escape(directory.name)}.*"):
    if not left.is_dir():
      continue
    lock = os.open(left, os.O_RDONLY)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(left, ignore_errors=True)
    except OSError:
      pass  # another process is writing into it
    finally:
      os.close(lock)


def _clear(work: pathlib.Path) -> None:
  """Removes `work`; tensorstore's threads may write into it after an error."""
  for _ in range(20):
    shutil.rmtree(work, ignore_errors=True)
    if not work.exists():
      return
    time.sleep(0.1)


def check_room(directory: pathlib.Path, size: int) -> None:
  """Checks that `size` bytes fit, before hours are spent on writing them.

  Raises:
    OSError: they do not.
  """
  free = shutil.disk_usage(directory).free
  if free < size:
    raise OSError(
      errno.ENOSPC, f"{size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free"
    )


def _check(directory: pathlib.Path) -> None:
  """Refuses to replace anything that is no checkpoint."""
  if not directory.exists():
    return
  if not directory.is_dir():
    raise SophiaError(f"{directory}: is a file; name a directory")
  config = directory / "config.json"
  if any(directory.iterdir()) and not (
    config.is_file() and "model_type" in read_json(config)
  ):
    raise SophiaError(
      f"{directory}: holds something else than a checkpoint; name another "
      "directory, or empty it"
    )


def _unwritten(directory: pathlib.Path, why: str) -> SophiaError:
  return SophiaError(
    f"{directory}: not written ({why}); free space there or write elsewhere"
  )


def _replace(work: pathlib.Path, directory: pathlib.Path) -> None:
  """Renames `work` to `directory`, whose older content goes.

  The two change places in one step where the file system can, so that there is a
  `directory` at every moment.
  """
  if not directory.exists():
    os.rename(work, directory)
  elif not _exchange(work, directory):
    old = work.with_name(work.name + ".old")
    os.rename(directory, old)
    os.rename(work, directory)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(a: pathlib.Path, b: pathlib.Path) -> bool:
  """Lets two directories change names; False where that cannot be done."""
  rename = getattr(ctypes.CDLL(None), "renameat2", None)
  if rename is None:
    return False
  paths = os.fsencode(a), os.fsencode(b)
  return rename(_HERE, paths[0], _HERE, paths[1], _EXCHANGE) == 0
