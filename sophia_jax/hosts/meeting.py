"""Several processes as one run: who takes part, how they meet, how they end.

  host-0$ python -m launch.train ... --coordinator=host-0:9999 --processes=2 --process=0
  host-1$ python -m launch.train ... --coordinator=host-0:9999 --processes=2 --process=1

Under Slurm (`srun`) and on GKE's TPU slices they find each other by themselves;
--coordinator=auto asks for that where it is not plain to see, as on TPU VMs.
The workdir is on a file system that all of them see; process 0 writes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from absl import logging as absl_logging
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from sophia_jax.hosts import child
from sophia_jax.types import SophiaError

AUTO = "auto"
FLAGS = (
  *("coordinator", "processes", "process"),
  *("join_timeout_s", "peer_timeout_s"),
)
_A_DAY_MS = 24 * 3600 * 1000
_LINGER_S = 5
_SEEN_S = 90
"""How long a file may take to be seen by others; NFS remembers for a minute
that there was none."""
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")


@dataclasses.dataclass(frozen=True)
class Meeting:
  """Where processes meet. None: jax.distributed finds out."""

  coordinator: str | None
  """host:port of process 0."""
  processes: int | None
  process: int | None
  join_timeout_s: int
  peer_timeout_s: int

  @property
  def place(self) -> str:
    return self.coordinator or "the coordinator"


# ------------------------------------------------------------------------- flags
def define_flags() -> None:
  """Of the commands that several processes can run together."""
  flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0; any free port. auto: as Slurm, Open MPI or the "
    "TPU runtime say, --processes and --process too.",
  )
  flags.DEFINE_integer("processes", None, "How many take part. 1: this alone.")
  flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
  flags.DEFINE_integer(
    "join_timeout_s", 300, "How long to wait for the others at the start."
  )
  flags.DEFINE_integer(
    "peer_timeout_s", 60, "How long another may be silent until it is gone."
  )


def asked() -> Meeting | None:
  """What flags and surroundings say; None: this process is alone.

  Raises:
    SophiaError: the flags are incomplete or contradict each other.
  """
  given = flags.FLAGS
  if "coordinator" not in given:
    return None
  where, count, index = given.coordinator, given.processes, given.process
  limits = {
    "join_timeout_s": given.join_timeout_s,
    "peer_timeout_s": given.peer_timeout_s,
  }
  for name, seconds in limits.items():
    if seconds < 1:
      raise SophiaError(f"--{name}={seconds}: must be positive")
  found = where == AUTO or (where is None and _surrounded())
  if count is None and index is None and found:
    return Meeting(None, None, None, **limits)
  if count == 1 and index in (None, 0):
    return None
  if where is None and count is None and index is None:
    return None
  _check(where, count, index)
  return Meeting(where, count, index, **limits)


def _check(where: str | None, count: int | None, index: int | None) -> None:
  values = {"coordinator": where, "processes": count, "process": index}
  missing = [f"--{name}" for name, value in values.items() if value is None]
  if missing or where == AUTO:
    raise SophiaError(
      f"{' and '.join(missing) or '--coordinator=HOST:PORT'}: missing; several "
      "processes need --coordinator=HOST:PORT --processes=N --process=I, or "
      "--coordinator=auto alone"
    )
  assert where is not None and count is not None and index is not None
  if not re.fullmatch(r".+:\d+", where):
    raise SophiaError(
      f"--coordinator={where}: write HOST:PORT, the host of process 0 and any "
      "free port there"
    )
  if not 0 <= index < count:
    raise SophiaError(
      f"--process={index}: --processes={count} are numbered 0 to {count - 1}"
    )


def check_single(remedy: str) -> None:
  """Of a command that is for one process alone.

  Raises:
    SophiaError: this is plainly one of several.
  """
  if _surrounded():
    raise SophiaError(
      f"this is one of several processes, and the command for one; {remedy}"
    )


def _surrounded() -> bool:
  """Whether this is plainly one of several: a task of Slurm, a host of GKE."""
  if all(name in os.environ for name in _SLURM):
    return int(os.environ["SLURM_NTASKS"]) > 1
  names = os.environ.get("TPU_PROCESS_ADDRESSES")
  return "," in (names or os.environ.get("TPU_WORKER_HOSTNAMES", ""))


# ---------------------------------------------------------------------- together
def is_leader() -> bool:
  """Whether this process is the one that writes."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(what: str) -> None:
  """Waits for all processes, however long they take; each `what` only once.

  No device waits meanwhile. Ends with the process if another one is gone.
  """
  if jax.distributed.is_initialized():
    multihost.get_barrier_sync_fn()(key=what, timeout_ms=_A_DAY_MS)


def assert_same(what: str, text: str, remedy: str) -> None:
  """Whether all processes come with the same text.

  Raises:
    SophiaError: they do not, in every process.
  """
  if not jax.distributed.is_initialized():
    return
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
  others = np.flatnonzero((found != found[0]).any(axis=1)).tolist()
  if others:
    named = ", ".join(map(str, others))
    raise SophiaError(
      f"{what}: not the same in process {named} as in process 0; {remedy}"
    )


def wait_for_file(path: Path) -> None:
  """Whether this process sees what process 0 has written.

  Raises:
    SophiaError: it does not.
  """
  deadline = time.monotonic() + _SEEN_S
  while not path.exists():
    if time.monotonic() > deadline:
      raise SophiaError(
        f"{path}: process {jax.process_index()} does not see what process 0 "
        "wrote; --workdir must be on a file system that all hosts share"
      )
    time.sleep(0.5)


def check_alone() -> None:
  """Whether a process that takes itself to be alone is.

  Raises:
    SophiaError: the devices belong to several; their runtime knows.
  """
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise SophiaError(
      f"the devices are those of {jax.process_count()} processes; give "
      "--coordinator=auto on every host"
    )


# --------------------------------------------------------------- a process's life
def run(work: Callable[[], int]) -> int:
  """Does `work`, which returns an exit code, alone or as one of several.

  Raises:
    SophiaError: the flags are wrong, the others did not come, or one is gone.
  """
  meeting = asked()
  if meeting is None:
    return work()
  who = _Who()
  return child.guarded(
    functools.partial(_take_part, meeting, who, work),
    lambda said: explanation(meeting, who.count(), said),
  )


class _Who:
  """Which of how many a child is, for its parent to know."""

  def __init__(self) -> None:
    self._shared = mmap.mmap(-1, 8)

  def tell(self) -> None:
    self._shared[:] = struct.pack(
      "ii", jax.process_index(), jax.process_count()
    )

  def count(self) -> int:
    """0 until they have met."""
    return struct.unpack("ii", self._shared[:])[1]


def _take_part(meeting: Meeting, who: _Who, work: Callable[[], int]) -> int:
  threading.excepthook = _thread_ended
  absl_logging.get_absl_handler().addFilter(_is_news)
  try:
    _join(meeting)
    who.tell()
    code = work()
    if code == 0:
      jax.distributed.shutdown()  # waits for the others
    else:
      _linger()
  # What is raised when a connection breaks depends on where it does: by jaxlib,
  # or by orbax while it waits for the others.
  except (RuntimeError, ValueError, TimeoutError) as e:
    if not (lost := _loss(e)):
      raise
    child.last_words(lost)
    # jax.distributed ends this process when it knows who is gone.
    time.sleep(meeting.peer_timeout_s + 15)
    return child.ABORTED
  return code


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
  """A thread that lost the others: the main one says it."""
  if not _loss(ended.exc_value):
    threading.__excepthook__(ended)


def _is_news(record: logging.LogRecord) -> bool:
  """Whether a record is of anything else than of others that are lost."""
  return not (record.exc_info and _loss(record.exc_info[1]))


def _join(meeting: Meeting) -> None:
  jax.distributed.initialize(
    meeting.coordinator,
    meeting.processes,
    meeting.process,
    local_device_ids=_devices_of_a_node(),
    initialization_timeout=meeting.join_timeout_s,
    heartbeat_timeout_seconds=meeting.peer_timeout_s,
  )


def _devices_of_a_node() -> list[int] | None:
  """All GPUs of a node, where Slurm runs one task on each.

  jax.distributed takes one device per task of Slurm, however many there are.
  """
  gpus, nodes = (
    os.environ.get(name)
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_STEP_NUM_NODES")
  )
  if gpus and nodes and nodes == os.environ.get("SLURM_NTASKS"):
    return list(range(int(gpus)))
  return None


def _linger() -> None:
  """Lets others say what they have to say: without process 0 they are ended."""
  try:
    multihost.get_barrier_sync_fn()(key="end", timeout_ms=_LINGER_S * 1000)
  except jax.errors.JaxRuntimeError:
    return  # they are still at work, and will find that this one is gone
  jax.distributed.shutdown()


# ---------------------------------------------------------------- the last words
_LOSSES = (
  *("Gloo", "NCCL", "heartbeat", "Socket closed", "coordination service"),
  *("Connection closed by peer", "Connection reset", "GetKeyValue() timed out"),
  *("coordinator_address should be defined", "Failed to start RPC server"),
  "Failed to add port",
)


def _is_loss(text: str) -> bool:
  return any(sign in text for sign in _LOSSES)


def _loss(error: BaseException | None) -> str:
  """What an error, or one that it came of, says of a lost process; or ""."""
  while error is not None:
    if _is_loss(str(error)):
      return str(error)
    error = error.__cause__ or error.__context__
  return ""


def explanation(meeting: Meeting, count: int, said: str) -> str:
  """What a process's last words mean to the user: one line.

  Args:
    count: how many processes there are; 0 if they have not met.
    said: what jaxlib wrote.

  Returns:
    "" if it is not about other processes.
  """
  if "coordinator_address should be defined" in said:
    return (
      "--coordinator=auto: neither Slurm, Open MPI nor a TPU pod is here; give "
      "--coordinator=HOST:PORT --processes=N --process=I"
    )
  if not count:
    return _not_met(meeting, said)
  gone = re.findall(r"[Tt]asks? (\d+) heartbeat timeout", said)
  gone += re.findall(r"stopped sending heartbeats\):\s*\n([\d, ]+)", said)
  if gone:
    named = f"process {gone[0].strip()} of {count} is gone"
  elif "Failed to send RPC to coordination service" in said:
    named = f"process 0 of {count} is gone"
  elif _is_loss(said):
    named = f"the connection to another of {count} processes broke"
  else:
    return ""
  return (
    f"{named} (its own output says why); start the same command again "
    "on all hosts, it goes on from the last checkpoint"
  )


def _not_met(meeting: Meeting, said: str) -> str:
  if "ALREADY_EXISTS" in said or "different incarnation" in said:
    return (
      f"two processes at {meeting.place} call themselves --process="
      f"{meeting.process}; give each its own number"
    )
  if "Unexpected task" in said:
    return (
      f"--process={meeting.process}: process 0 at {meeting.place} was told of "
      "fewer; give the same --processes on every host"
    )
  # Which of the two is said depends; jaxlib 0.10 may crash between them.
  if "Failed to start RPC server" in said or "Failed to add port" in said:
    return (
      f"{meeting.place}: process 0 cannot listen at this port; name a free one "
      "on every host"
    )
  if "DEADLINE_EXCEEDED" in said or "timed out" in said:
    return (
      f"{meeting.place}: not all processes came within "
      f"{meeting.join_timeout_s} s; start the same command on every host, check "
      "--coordinator, or raise --join_timeout_s"
    )
  return f"{meeting.place}: {said.splitlines()[0]}" if _is_loss(said) else ""
