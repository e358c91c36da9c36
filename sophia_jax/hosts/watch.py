"""Runs a command and takes it down with whoever started us.

  python -m sophia_jax.hosts.watch COMMAND ...

The command gets a session of its own. When our standard input ends, which it
does however our parent ends, SIGKILL included, everything in that session's
process group is ended: first asked, then killed. Should we be killed ourselves, the
kernel kills the command, and SGLang's own processes see to it that they follow.

Imports nothing but the standard library: it is a process beside every server.
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
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
  """The command's exit code, or 1 if our parent went away first."""
  # Whoever ends us by hand ends us by way of our standard input.
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
  # What the command itself has left behind.
  _signal(child.pid, signal.SIGKILL)
  code = child.wait()
  return code if ended in readable else 1


def _prepared() -> None:
  """In the child, before the command: die with us, heed signals again."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def _signal(group: int, number: int) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(group, number)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
