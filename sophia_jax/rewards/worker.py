"""Process in which formulas are compared, started by `rewards.workers`.

It answers JSON messages on one inherited pipe, one message for each answer, so
that the other side always knows which answer it hangs on. It loads the comparer
and no jax.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

from sophia_jax.status import Status

READY = b"ready"
PATIENCE = 5.0
"""Time after which a worker ends itself, in units of `timeout_s`; longer than
its parent waits (`workers.MAX_WAIT`)."""


def main(fd: int, comparer: str, memory_mb: int, timeout_s: float) -> None:
  """Serves until the other end of `fd` closes.

  Args:
    comparer: "module:function", called with (kind, gold, answer, tolerance).
    memory_mb: what it may allocate beyond what the imports need.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # A benchmark's own comparer may use these; they log every comparison.
  logging.getLogger("math_verify").setLevel(logging.ERROR)
  logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)
  module, _, name = comparer.partition(":")
  compare = getattr(importlib.import_module(module), name)
  # Late imports and caches before the limits.
  for kind in ("math", "olympiad", "olympiad_upstream"):
    compare(kind, r"\frac{1}{x}+1", "x^{-1}+1", ())
  limit_memory(memory_mb)
  link = Connection(fd)
  if not sent(link, READY):
    return
  with open(os.devnull, "w") as devnull:
    forbid_effects()
    while True:
      try:
        task = json.loads(link.recv_bytes())
      except (EOFError, OSError):  # the parent has ended
        return
      # If the parent is gone nobody kills a comparison that hangs; this
      # thread needs no GIL, which a huge multiplication would not release.
      faulthandler.dump_traceback_later(
        PATIENCE * timeout_s + 1, exit=True, file=devnull
      )
      try:
        status = compare(*task)
      except RecursionError:  # the stack is empty again, nothing is broken
        status = Status.TIMED_OUT
      except MemoryError:
        os._exit(1)
      faulthandler.cancel_dump_traceback_later()
      if not sent(link, status.encode()):
        return


def sent(link: Connection, *messages: bytes) -> bool:
  """Sends messages; returns False where the parent has ended.

  A killed run leaves workers that are still starting: they end in silence.
  """
  try:
    for message in messages:
      link.send_bytes(message)
  except OSError:
    return False
  return True


def limit_memory(memory_mb: int) -> None:
  """Lets this process grow by `memory_mb` MiB of address space and no more."""
  if not os.path.exists("/proc/self/statm"):  # macOS does not enforce it
    return
  with open("/proc/self/statm") as f:
    pages = int(f.read().split()[0])
  limit = pages * resource.getpagesize() + memory_mb * 2**20
  hard = resource.getrlimit(resource.RLIMIT_AS)[1]
  if hard != resource.RLIM_INFINITY:
    limit = min(limit, hard)
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


_FORBIDDEN = frozenset(
  {
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
    *("os.system", "os.kill", "os.putenv", "os.unsetenv", "os.startfile"),
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename"),
    *("os.rmdir", "os.symlink", "os.truncate", "pty.spawn", "socket.__new__"),
    *("subprocess.Popen", "shutil.copyfile", "shutil.move", "shutil.rmtree"),
    *("ctypes.dlopen", "ctypes.call_function"),
  }
)


def forbid_effects() -> None:
  """Ends this process, which costs one answer, rather than let it start a
  program, write a file or use the network.

  Comparing needs none of these. Nobody here evaluates an answer; this holds
  also for what a library might do with one (sympy reads numbers by `eval`).
  """
  sys.addaudithook(_end_on_effect)


def _end_on_effect(event: str, args: tuple[object, ...]) -> None:
  if event in _FORBIDDEN or (event == "open" and _writes(args[1], args[2])):
    os.write(2, f"rewards.worker: refused to {event}\n".encode())
    os._exit(2)


def _writes(mode: object, flags: object) -> bool:
  if isinstance(mode, str):
    return not set(mode).isdisjoint("wax+")
  return bool(int(str(flags)) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
  main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
