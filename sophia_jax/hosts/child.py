"""Work in a child process, so that somebody is left to say how it ended.

When processes lose each other, jax.distributed ends them from C++, by abort()
and a dump of the stack: no Python of theirs can say what happened. So the work
is done in a child; the parent has never touched a device, reads what C++ wrote
to standard error, and says it in one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

from sophia_jax.types import SophiaError

ABORTED = 70
"""Exit code of work whose end is to be explained, as an abort is."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1

# Records that tell of an end, with the lines that follow; and all records.
_LAST_WORDS = re.compile(
  rb"([WEF]\d{4} .*(coordination_service|preemption_sync_manager|add_port|"
  rb"client\.h))"
  rb"|\*\*\* Check failure|last words: "
)
_RECORD = re.compile(rb"[IWEF]\d{4} \d\d:")


def guarded(work: Callable[[], int], explain: Callable[[str], str]) -> int:
  """Runs `work` in a child, and hands on the signals that ask for an end.

  To be called before a device is touched. The child writes to the terminal as
  the parent would; only file 2, which C++ writes to, goes through the parent.

  Args:
    work: returns an exit code; it has said itself why that is not 0.
    explain: what C++ wrote about the end, and `last_words` -> one line that
      says why, "" if they do not tell.

  Returns:
    The child's exit code.

  Raises:
    SophiaError: it was aborted, and why.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  read, write = os.pipe()
  parent, child = os.getpid(), os.fork()
  if child == 0:
    os.close(read)
    _follow(parent)
    _end_with(work, write)
  os.close(write)
  with _forwarding(child):
    said = _LastWords(read).until_ended(child)
    _, status = os.waitpid(child, 0)
  code = os.waitstatus_to_exitcode(status)
  if code in (0, 1):  # it has spoken itself
    return code
  if why := explain(said):
    raise SophiaError(why)
  sys.stderr.write(said)
  raise SophiaError(
    f"ended by signal {-code}; what it wrote is above"
    if code < 0
    else f"ended with code {code}; what it wrote is above"
  )


def last_words(text: str) -> None:
  """For `explain`: said by the child before it ends with ABORTED."""
  os.write(2, f"last words: {text}\n".encode())


# ------------------------------------------------------------------ in the child
def _follow(parent: int) -> None:
  """No child outlives its parent; a group of its own takes no Ctrl-C."""
  os.setpgid(0, 0)
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:
    os._exit(1)


def _end_with(work: Callable[[], int], file2: int) -> None:
  """Does the work and ends; never returns."""
  sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
  os.dup2(file2, 2)
  os.close(file2)
  code = 1
  try:
    code = work()
  finally:
    if (error := sys.exception()) is not None:
      traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end would wait for lost peers


# ----------------------------------------------------------------- in the parent
@contextlib.contextmanager
def _forwarding(child: int) -> Iterator[None]:
  def forward(number: int, _: object) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, number)

  before = {number: signal.signal(number, forward) for number in FORWARDED}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


class _LastWords:
  """Reads a pipe: keeps what tells of an end, passes on the rest."""

  def __init__(self, pipe: int):
    self._pipe = pipe
    self._kept: list[bytes] = []
    self._line = b""
    self._keeps = False

  def until_ended(self, child: int) -> str:
    """What was kept when `child` has ended; others may hold the pipe."""
    ended = os.pidfd_open(child)
    os.set_blocking(self._pipe, False)
    alive = True
    while alive:
      readable, _, _ = select.select([self._pipe, ended], [], [])
      alive = ended not in readable
      if not self._drain() and alive:
        select.select([ended], [], [])
        alive = False
    self._take(self._line)
    os.close(ended)
    os.close(self._pipe)
    return b"".join(self._kept).decode(errors="replace")

  def _drain(self) -> bool:
    """Reads what is there; False at the end of the file."""
    while True:
      try:
        found = os.read(self._pipe, 1 << 16)
      except BlockingIOError:
        return True
      if not found:
        return False
      *lines, self._line = (self._line + found).split(b"\n")
      for line in lines:
        self._take(line + b"\n")

  def _take(self, line: bytes) -> None:
    if _LAST_WORDS.match(line):
      self._keeps = True
    elif _RECORD.match(line):
      self._keeps = False
    if self._keeps:
      self._kept.append(line)
    else:
      sys.stderr.write(line.decode(errors="replace"))
