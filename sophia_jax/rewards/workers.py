"""Compares formulas in processes that can be killed.

Each worker has its own pipe and answers one message for each comparison.
concurrent.futures and pebble share one queue among all workers, and there the
death of a worker can break the pool or blame the wrong task; here a worker that
hangs, runs out of memory or is killed costs the one comparison it was busy
with, and an idle one costs nothing.

One thread owns every worker, so that no caller waits for a formula of another
that hangs, and no worker needs a lock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import Pipe, connection
from pathlib import Path
from typing import NamedTuple

from sophia_jax.rewards.worker import READY
from sophia_jax.types import SophiaError, Status

START_S = 120.0
MAX_WAIT = 4.0
"""Longest time for a worker that gets no processor, in units of `timeout_s`."""
MAX_FAILED_STARTS = 3
LEAST_MB = 32
"""Smallest memory limit of a worker, MiB: twice what known answers need, 8 of
which is the stack of the thread that ends it."""
_CLOSED = (
  "rewards: the verifier was closed before this was compared; open another"
)

Task = tuple[str, str, str, tuple[float, ...]]
"""Arguments of the comparer: kind, gold, answer, tolerance."""


class Compared(NamedTuple):
  """The outcome of a task."""

  status: Status
  seconds: float
  died: bool = False
  """Whether the worker ended by itself, so that a retry may succeed."""


class _Job(NamedTuple):
  task: Task
  future: Future[Compared]


@dataclass(eq=False)
class _Worker:
  process: subprocess.Popen[bytes]
  link: connection.Connection
  since: float
  """Start of the current job or of the process, monotonic seconds."""
  deadline: float
  used_s: float = 0.0
  """Processor seconds at the start of the current job."""
  ready: bool = False
  job: _Job | None = None
  """Job in flight. One at a time: a message takes a hundredth of a comparison,
  and nothing waits behind a formula that hangs."""

  @property
  def waited_for(self) -> bool:
    return self.job is not None or not self.ready

  def begin(self, job: _Job, timeout_s: float) -> None:
    """Records that `job` is in flight."""
    self.job = job
    self.since = time.monotonic()
    self.deadline = self.since + timeout_s
    self.used_s = processor_seconds(self.process.pid)

  def kill(self) -> None:
    self.process.kill()
    self.process.wait()
    self.link.close()


def processor_seconds(pid: int) -> float:
  """Returns the processor seconds that a process has used.

  Without /proc it returns wall time, and limits are limits of wall time.
  """
  try:
    stat = Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return time.monotonic()
  user, system = stat.rpartition(")")[2].split()[11:13]
  return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Workers:
  """Pool of at most `size` processes, none before the first task. Thread-safe.

  Args:
    timeout_s: processor seconds of one comparison, then its worker is killed;
      if it gets no processor, after MAX_WAIT times as long.
    memory_mb: what a worker may allocate above what its imports need.
    comparer: "module:function" that a worker calls with each task.
  """

  def __init__(
    self, size: int, timeout_s: float, memory_mb: int, comparer: str
  ):
    self._size = size
    self._timeout_s = timeout_s
    self._memory_mb = memory_mb
    self._comparer = comparer
    self._workers: list[_Worker] = []
    self._failed_starts = 0
    self._pending: deque[_Job] = deque()
    self._lock = threading.Lock()
    self._closed = False
    self._thread: threading.Thread | None = None
    self._bell, self._button = Pipe(duplex=False)
    self._rung = False

  def submit(self, task: Task) -> Future[Compared]:
    """Queues `task` and returns its future; callbacks run in the pool's thread.

    The future raises SophiaError where workers do not start, and if the pool is
    closed before its turn.
    """
    job = _Job(task, Future())
    with self._lock:
      if self._closed:
        job.future.set_exception(SophiaError(_CLOSED))
        return job.future
      self._pending.append(job)
      if self._thread is None:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
      self._ring()
    return job.future

  def close(self) -> None:
    """Ends every worker; tasks in flight raise SophiaError."""
    with self._lock:
      self._closed = True
      self._ring()
    if self._thread is not None:
      self._thread.join()

  def _ring(self) -> None:
    """Wakes the pool's thread; call it under the lock."""
    if not self._rung:
      self._rung = True
      self._button.send_bytes(b"!")

  # ------------------------------------------ what the thread of the pool does
  def _serve(self) -> None:
    try:
      while not self._closed:
        try:
          self._step()
        except SophiaError as e:
          self._fail(str(e))
    finally:
      for worker in self._workers:
        worker.kill()
      with self._lock:
        self._closed = True
      self._fail(_CLOSED)

  def _fail(self, error: str) -> None:
    """Raises `error` in every future that is waited for."""
    busy = [worker for worker in self._workers if worker.job]
    jobs = [worker.job for worker in busy if worker.job]
    for worker in busy:  # its answer would be mistaken for that of another job
      self._workers.remove(worker)
      worker.kill()
    while self._pending:
      jobs.append(self._pending.popleft())
    for job in jobs:
      job.future.set_exception(SophiaError(error))

  def _step(self) -> None:
    self._start_workers()
    for worker in self._workers:
      if worker.ready and not worker.job and self._pending:
        self._send(worker)
    self._await()

  def _await(self) -> None:
    """Takes the next messages, or ends workers whose time is up."""
    deadlines = [w.deadline for w in self._workers if w.waited_for]
    now = time.monotonic()
    wait_s = max(0.0, min(deadlines) - now) if deadlines else None
    links = {id(w.link): w for w in self._workers}
    everything = [self._bell, *(w.link for w in self._workers)]
    for link in connection.wait(everything, wait_s):
      if link is self._bell:
        self._answer_the_bell()
      elif not self._receive(links[id(link)]):
        self._drop(links[id(link)], died=True)
    now = time.monotonic()
    for worker in list(self._workers):
      if worker.waited_for and worker.deadline <= now:
        if worker.job and (left := self._left(worker, now)) > 0:
          worker.deadline = now + left
        else:
          self._drop(worker, died=False)

  def _left(self, worker: _Worker, now: float) -> float:
    """Returns the seconds left to a worker; a busy machine fails no answer."""
    used = processor_seconds(worker.process.pid) - worker.used_s
    patience = worker.since + MAX_WAIT * self._timeout_s - now
    return min(max(self._timeout_s - used, 0.0), patience)

  def _answer_the_bell(self) -> None:
    with self._lock:
      self._bell.recv_bytes()
      self._rung = False

  def _start_workers(self) -> None:
    wanted = sum(bool(w.job) for w in self._workers) + len(self._pending)
    while len(self._workers) < min(self._size, wanted):
      ours, theirs = Pipe()
      command = [sys.executable, "-m", "sophia_jax.rewards.worker"]
      command += [str(theirs.fileno()), self._comparer]
      command += [str(self._memory_mb), str(self._timeout_s)]
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        process_group=0,  # Ctrl-C is for the parent
        env={
          **os.environ,
          # Sets in the same order in every worker: the same verdicts.
          "PYTHONHASHSEED": "0",
          "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
      )
      theirs.close()
      now = time.monotonic()
      self._workers.append(_Worker(process, ours, now, now + START_S))

  def _send(self, worker: _Worker) -> None:
    job = self._pending.popleft()
    worker.begin(job, self._timeout_s)
    try:
      worker.link.send_bytes(json.dumps(job.task).encode())
    except OSError:  # it died idle: nothing was tried, nothing is lost
      worker.job = None
      self._pending.appendleft(job)

  def _receive(self, worker: _Worker) -> bool:
    """Takes one message; returns False if the worker is dead."""
    try:
      message = worker.link.recv_bytes()
    except (EOFError, OSError):
      return False
    if message == READY:
      worker.ready = True
      self._failed_starts = 0
    elif worker.job:
      seconds = time.monotonic() - worker.since
      status = Status(message.decode())
      worker.job.future.set_result(Compared(status, seconds))
      worker.job = None
    return True

  def _drop(self, worker: _Worker, died: bool) -> None:
    """Ends a worker and the comparison it was busy with.

    Raises:
      SophiaError: too many workers in a row did not start.
    """
    self._workers.remove(worker)
    worker.kill()
    if worker.job:
      seconds = time.monotonic() - worker.since
      result = Compared(Status.TIMED_OUT, seconds, died)
      worker.job.future.set_result(result)
    if not worker.ready:
      self._failed_starts += 1
      if self._failed_starts >= MAX_FAILED_STARTS:
        self._failed_starts = 0
        raise SophiaError(
          f"rewards: a verification worker ({self._comparer}) does not start; "
          "see its error above, reinstall requirements.txt or raise memory_mb"
        )
