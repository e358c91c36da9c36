"""Huge pages for what a command allocates: updates on a CPU take less time.

XLA allocates the memory of a program at every call and frees it at the end, so
that the kernel maps tens of thousands of small pages for each update of a small
model. With pages of 2 MiB it maps a few dozen. glibc reads its setting when a
process starts, so a command that lacks it starts again with it.
docs/decisions/huge-pages.md has the measurement.

Imports only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

NAME = "GLIBC_TUNABLES"
"""Variable of glibc's settings."""
VALUE = "glibc.malloc.hugetlb=1"
"""The setting: memory is allocated with madvise(MADV_HUGEPAGE)."""
OFFERED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""The kernel's setting; [madvise]: processes may ask for huge pages."""


def ask() -> None:
  """Starts this command again with huge pages, where it can ask for them.

  Process, arguments and environment stay; a setting of the user's is left alone.
  """
  if NAME in os.environ or not sys.executable or not _offered():
    return
  environment = {**os.environ, NAME: VALUE}
  with contextlib.suppress(OSError):
    os.execve(sys.executable, sys.orig_argv, environment)


def _offered() -> bool:
  try:
    return "[madvise]" in OFFERED.read_text(encoding="ascii")
  except OSError:
    return False
