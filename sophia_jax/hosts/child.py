"""Work in a child process, whose parent explains an abort in one line.

When processes lose each other, jax.distributed ends them from C++, with abort()
and a stack trace, before any Python can report it. So the work is done in a
child. The parent never uses a device; it reads what C++ wrote to standard error
and reports the cause.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator

from sophia_jax import faults
from sophia_jax.stopping import Preempted
from sophia_jax.types import SophiaError

ABORTED = 70
"""Exit code of work whose end the parent explains, as it does an abort."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that the parent passes to the child."""
_PR_SET_PDEATHSIG = 1

# Log records about an end, kept with the lines that follow; and any log record.
_ABOUT_END = re.compile(
  rb"([WEF]\d{4} .*(coordination_service|preemption_sync_manager|add_port|"
  rb"client\.h))"
  rb"|\*\*\* Check failure|last words: "
)
_RECORD = re.compile(rb"[IWEF]\d{4} \d\d:")


def run_in_child(work: Callable[[], int], explain: Callable[[str], str]) -> int:
  """Runs `work` in a child process and returns its exit code.

  Call it before any device is used. Signals that ask for an end are forwarded.
  The child writes to the terminal directly, except to file descriptor 2, which
  C++ writes to: that goes through the parent.

  Args:
    work: returns an exit code; where it is not 0, the work has reported why.
    explain: turns the C++ output about the end, and `leave_message`, into one
      line; "" if it says nothing about the cause.

  Raises:
    SophiaError: the child was aborted, with the explanation.
    Preempted: SIGTERM arrived before the processes had met.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  read, write = os.pipe()
  parent, child = os.getpid(), os.fork()
  if child == 0:
    os.close(read)
    _die_with(parent)
    _run_and_exit(work, write)
  os.close(write)
  with _forwarding(child):
    output = _StderrFilter(read).until_ended(child)
    _, status = os.waitpid(child, 0)
  code = os.waitstatus_to_exitcode(status)
  if code in (0, 1, faults.CODE):  # the child has reported its own error
    return code
  if code == -signal.SIGTERM:
    raise Preempted("SIGTERM; the processes had not met")
  if why := explain(output):
    raise SophiaError(why)
  sys.stderr.write(output)
  raise SophiaError(
    f"ended by signal {-code}; its output is above"
    if code < 0
    else f"ended with code {code}; its output is above"
  )


def leave_message(text: str) -> None:
  """Writes a message for `explain`, before the child ends with ABORTED."""
  os.write(2, f"last words: {text}\n".encode())


# ------------------------------------------------------------------ in the child
def _die_with(parent: int) -> None:
  """Makes the kernel kill this child with its parent.

  In a separate process group the child receives no Ctrl-C of the terminal.
  """
  os.setpgid(0, 0)
  # Until the processes have met: then jax.distributed handles it.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:
    os._exit(1)


def _run_and_exit(work: Callable[[], int], file2: int) -> None:
  """Runs the work and exits; never returns."""
  sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
  os.dup2(file2, 2)
  os.close(file2)
  code = 1
  try:
    code = work()
  finally:
    if (error := sys.exception()) is not None:
      line, code = faults.line_of(error)
      print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a normal exit would wait for lost peers


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


class _StderrFilter:
  """Reads a pipe: keeps records about an end, passes on everything else."""

  def __init__(self, pipe: int):
    self._pipe = pipe
    self._kept: list[bytes] = []
    self._line = b""
    self._keeps = False

  def until_ended(self, child: int) -> str:
    """Returns the kept records once `child` has ended.

    The pipe may stay open longer, in processes that the child has started.
    """
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
    """Reads what is available; returns False at the end of the file."""
    while True:
      try:
        data = os.read(self._pipe, 1 << 16)
      except BlockingIOError:
        return True
      if not data:
        return False
      *lines, self._line = (self._line + data).split(b"\n")
      for line in lines:
        self._take(line + b"\n")

  def _take(self, line: bytes) -> None:
    if _ABOUT_END.match(line):
      self._keeps = True
    elif _RECORD.match(line):
      self._keeps = False
    if self._keeps:
      self._kept.append(line)
    else:
      sys.stderr.write(line.decode(errors="replace"))
