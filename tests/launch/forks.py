"""Commands as processes that do not import everything again.

`python -m tests.launch.forks FD` imports what every command of `launch` imports,
and forks for each order that comes over the socket FD: the child is the command,
from its first line to its last, with an environment, pipes and an exit code of its
own. It saves the two seconds of import that a command begins with.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from concurrent import futures
from typing import Any

HERE = hasattr(os, "pidfd_open")
"""Whether this system has what it takes."""
ORDER = 2**20
"""Most bytes of an order."""
_PDEATHSIG = 1


class Forked:
  """A command that was forked, used like a `subprocess.Popen` with text pipes."""

  def __init__(self, pid: int, out: int, err: int, ended: int):
    self.pid = pid
    self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
    self.returncode: int | None = None
    self._ended = ended

  def poll(self) -> int | None:
    return self._until(0)

  def wait(self, timeout: float | None = None) -> int:
    code = self._until(timeout)
    if code is None:
      raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
    return code

  def _until(self, timeout: float | None) -> int | None:
    waiting = self.returncode is None
    if waiting and select.select([self._ended], [], [], timeout)[0]:
      status = int(os.read(self._ended, 16))
      self.returncode = os.waitstatus_to_exitcode(status)
      os.close(self._ended)
    return self.returncode

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    with futures.ThreadPoolExecutor(2) as pool:
      both = [pool.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
      if futures.wait(both, timeout).not_done:
        self.kill()
      out, err = (future.result() for future in both)
    self.wait(timeout)
    return out, err

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def terminate(self) -> None:
    self.send_signal(signal.SIGTERM)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)


class Forks:
  """The process that forks. Args: what starts it, its environment and place."""

  def __init__(
    self, command: list[str], environment: dict[str, str], place: str
  ):
    self._link, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    self._process = subprocess.Popen(
      [*command, "-m", "tests.launch.forks", str(theirs.fileno())],
      env=environment,
      cwd=place,
      pass_fds=[theirs.fileno()],
    )
    theirs.close()

  def start(
    self, module: str, arguments: list[str], environment: dict[str, str]
  ) -> Forked:
    order = json.dumps([module, arguments, environment]).encode()
    assert len(order) < ORDER
    pipes = [os.pipe() for _ in range(3)]
    socket.send_fds(self._link, [order], [theirs for _, theirs in pipes])
    for _, theirs in pipes:
      os.close(theirs)
    return Forked(int(self._link.recv(16)), *(own for own, _ in pipes))

  def close(self) -> None:
    self._link.close()
    self._process.wait()


# ------------------------------------------------------------ the process itself
def serve(fd: int) -> tuple[str, list[str]]:
  """Forks for each order; returns in a child, with its module and arguments."""
  link = socket.socket(fileno=fd)
  running: dict[int, tuple[int, int]] = {}
  while True:
    ready, _, _ = select.select([link, *running], [], [])
    for pidfd in set(ready) & running.keys():
      pid, ended = running.pop(pidfd)
      os.write(ended, str(os.waitpid(pid, 0)[1]).encode())
      os.close(ended)
      os.close(pidfd)
    if link not in ready:
      continue
    order, (out, err, ended), _, _ = _received(link)
    if pid := os.fork():
      running[os.pidfd_open(pid)] = pid, ended
      link.send(str(pid).encode())
      os.close(out)
      os.close(err)
      continue
    for other in (link.detach(), ended, *running):
      os.close(other)
    for _, pipe in running.values():
      os.close(pipe)
    return _become(order, out, err)


def _received(link: socket.socket) -> Any:
  found = socket.recv_fds(link, ORDER, 3)
  if not found[0]:  # the tests have ended
    sys.exit()
  return found


def _become(order: bytes, out: int, err: int) -> tuple[str, list[str]]:
  module, arguments, environment = json.loads(order)
  ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
  for pipe, number in ((out, 1), (err, 2)):
    os.dup2(pipe, number)
    os.close(pipe)
  os.environ.clear()
  os.environ.update(environment)
  return module, arguments


if __name__ == "__main__":
  import launch.cli  # noqa: F401

  name, given = serve(int(sys.argv[1]))
  sys.argv = [name, *given]
  runpy.run_module(name, run_name="__main__", alter_sys=True)
