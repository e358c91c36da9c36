"""Runs a command and ends it with the process that started this one.

  python -m sophia_jax.hosts.watch COMMAND ...

The command runs in a new session. The end of standard input, which follows any
end of the parent, SIGKILL included, ends that session's process group: first
with SIGTERM, then with SIGKILL. If this process is killed, the kernel kills the
command, and SGLang's processes end with their parent.

Imports only the standard library: one such process runs beside every server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

GRACE_S = 5.0
"""Time between SIGTERM and SIGKILL, seconds."""
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
  """Returns the command's exit code, or 1 if the parent ended first."""
  # Ignored: a shutdown arrives through standard input.
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  child = subprocess.Popen(
    command,
    stdin=subprocess.DEVNULL,
    start_new_session=True,
    preexec_fn=_prepared,
  )
  ended = os.pidfd_open(child.pid)
  readable, _, _ = select.select([sys.stdin.fileno(), ended], [], [])
  if ended not in readable:
    _signal(child.pid, signal.SIGTERM)
    select.select([ended], [], [], GRACE_S)
  # Processes that the command left behind.
  _signal(child.pid, signal.SIGKILL)
  code = child.wait()
  return code if ended in readable else 1


def _prepared() -> None:
  """Prepares the child: it dies with this process and takes signals again."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def _signal(group: int, number: int) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(group, number)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
