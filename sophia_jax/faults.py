"""The last resort of a command: one line, and a report that names the fault."""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

from sophia_jax import files
from sophia_jax.types import SophiaError

CODE = 3
"""Exit code of a command that ended by a fault of this program."""
_OF_THE_DISK = frozenset(
  {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EMFILE, errno.ENOENT, errno.ESTALE),
  }
)
_SHOWN = 200
"""Longest quotation of an error, characters."""
_LONGEST = 1200
"""Longest line of an error, characters."""
_QUOTATION = re.compile(r"'[^']*'|\"[^\"]*\"|[\w+.-]{200,}")


def shortened(text: str) -> str:
  """Returns a text as one line of bounded length, and quotations in it too."""
  line = " ".join(text.split())
  line = _QUOTATION.sub(
    lambda m: m[0] if len(m[0]) <= _SHOWN else f"{m[0][:_SHOWN]}...", line
  )
  if len(line) <= _LONGEST:
    return line
  return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def line_of(error: BaseException) -> tuple[str, int]:
  """Returns the line that ends a command, and its exit code.

  Trouble with a file is the user's to fix (1). Anything else is a fault of this
  program (CODE): its traceback is written to a file, which the line names.
  """
  if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
    where = f"{error.filename}: " if error.filename else ""
    remedy = "free space there, or use another place that can be written"
    return f"{where}{error.strerror}; {remedy}", 1
  if isinstance(error, MemoryError):
    return "out of memory; lower rows, length or slots (launch.plan)", 1
  said = " ".join(str(error).split())[:_SHOWN]
  return (
    f"{type(error).__name__}: {said}; this is a fault of the program: please "
    f"report it with {_written(error)}",
    CODE,
  )


def _written(error: BaseException) -> str:
  """Writes a report and returns its path, or says why there is none."""
  text = "\n".join(
    (
      f"command: {sys.argv}",
      f"python: {sys.version} on {platform.platform()}",
      f"directory: {os.getcwd()}",
      "",
      *traceback.format_exception(error),
    )
  )
  name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
  caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
  why = ""
  for folder in (caches / "sophia_jax", Path(tempfile.gettempdir())):
    path = folder / "faults" / name
    try:
      files.write_text(path, text)
    except (SophiaError, OSError) as e:
      why = str(e)
      continue
    return str(path)
  return f"its traceback (no report can be written: {why[:_SHOWN]})"
