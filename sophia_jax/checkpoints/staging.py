"""Directories that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from safetensors import SafetensorError

from sophia_jax.checkpoints.shards import read_json
from sophia_jax.types import SophiaError


@contextlib.contextmanager
def replacing(directory: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A directory to write into; it becomes `directory` when the block ends.

  An older `directory` is replaced as a whole. After an error it is as it was;
  a kill leaves at most a hidden directory beside it.

  Raises:
    SophiaError: it cannot be written, or is something else than a checkpoint;
      says why.
  """
  directory = pathlib.Path(directory)
  _check(directory)
  work = None
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(
      tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent)
    )
    yield work
    work.chmod(0o755)
    _replace(work, directory)
  except SafetensorError as e:
    raise _unwritten(directory, str(e)) from e
  except OSError as e:
    raise _unwritten(directory, e.strerror or str(e)) from e
  finally:
    if work is not None:
      _clear(work)


def _clear(work: pathlib.Path) -> None:
  """After an error tensorstore's other threads may still be writing into it."""
  for _ in range(20):
    shutil.rmtree(work, ignore_errors=True)
    if not work.exists():
      return
    time.sleep(0.1)


def check_room(directory: pathlib.Path, size: int) -> None:
  """Whether `size` bytes fit, before hours are spent on writing them.

  Raises:
    OSError: they do not.
  """
  free = shutil.disk_usage(directory).free
  if free < size:
    raise OSError(
      errno.ENOSPC, f"{size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free"
    )


def _check(directory: pathlib.Path) -> None:
  """Only a checkpoint is ever replaced."""
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
  """Renames `work` to `directory`, whose older content goes."""
  old = work.with_name(work.name + ".old")
  if directory.exists():
    os.rename(directory, old)
  os.rename(work, directory)
  shutil.rmtree(old, ignore_errors=True)
