"""Several processes as one run: rendezvous, agreement, and how they end.

  host-0$ python -m launch.train ... --coordinator=host-0:9999 --processes=2 --process=0
  host-1$ python -m launch.train ... --coordinator=host-0:9999 --processes=2 --process=1

Under Slurm (`srun`) and on GKE's TPU slices no flags are needed;
--coordinator=auto asks jax to find the others elsewhere, as on TPU VMs. The
workdir is on a file system that all processes share; process 0 (the leader)
writes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import mmap
import os
import re
import socket
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
_EXIT_BARRIER_S = 5
"""Wait for the other processes after an error, seconds."""
_VISIBLE_S = 90
"""Longest time until other hosts see a file, seconds; NFS caches for a minute
that it does not exist."""
_LOOKUPS = 3
"""Times that a name is looked up, a second apart."""
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")


@dataclasses.dataclass(frozen=True)
class Meeting:
  """Rendezvous of the processes; jax.distributed finds what is None."""

  coordinator: str | None
  """host:port of process 0."""
  processes: int | None
  """Number of processes."""
  process: int | None
  """Index of this process."""
  join_timeout_s: int
  """Wait for the other processes at the start, seconds."""
  peer_timeout_s: int
  """Silence after which a process counts as lost, seconds."""

  @property
  def address(self) -> str:
    """The coordinator's address, for messages."""
    return self.coordinator or "the coordinator"


# ------------------------------------------------------------------------- flags
def define_flags() -> None:
  """Defines the flags of commands that several processes can run together."""
  flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, any free port. auto: ask Slurm, Open MPI or the "
    "TPU runtime, for --processes and --process too.",
  )
  flags.DEFINE_integer(
    "processes", None, "Number of processes. 1: this one alone."
  )
  flags.DEFINE_integer("process", None, "Index of this process, from 0.")
  flags.DEFINE_integer(
    "join_timeout_s", 300, "Wait for the other processes at the start."
  )
  flags.DEFINE_integer(
    "peer_timeout_s", 60, "Silence after which a process counts as lost."
  )


def from_flags() -> Meeting | None:
  """Returns the meeting that flags and environment ask for.

  None: this process is alone.

  Raises:
    SophiaError: the flags are incomplete or contradict each other.
  """
  values = flags.FLAGS
  if "coordinator" not in values:
    return None
  where, count, index = values.coordinator, values.processes, values.process
  limits = {
    "join_timeout_s": values.join_timeout_s,
    "peer_timeout_s": values.peer_timeout_s,
  }
  for name, seconds in limits.items():
    if seconds < 1:
      raise SophiaError(f"--{name}={seconds}: must be positive")
  automatic = where == AUTO or (where is None and _in_cluster())
  if count is None and index is None and automatic:
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
  """Refuses to run a command for one process in one of several.

  Raises:
    SophiaError: the environment names several processes.
  """
  if _in_cluster():
    raise SophiaError(
      f"this is one of several processes, and the command for one; {remedy}"
    )


def _in_cluster() -> bool:
  """Returns whether the environment names several (tasks of Slurm, hosts)."""
  if all(name in os.environ for name in _SLURM):
    return int(os.environ["SLURM_NTASKS"]) > 1
  names = os.environ.get("TPU_PROCESS_ADDRESSES")
  return "," in (names or os.environ.get("TPU_WORKER_HOSTNAMES", ""))


# --------------------------------------------------------------------- agreement
def is_leader() -> bool:
  """Returns whether this process is the one that writes."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(what: str) -> None:
  """Waits up to a day until all processes have come here.

  Devices do not take part. If a process is lost, this one is ended.

  Args:
    what: the barrier's name, used once in a run.
  """
  if jax.distributed.is_initialized():
    multihost.get_barrier_sync_fn()(key=what, timeout_ms=_A_DAY_MS)


def assert_same(what: str, text: str, remedy: str) -> None:
  """Checks that all processes pass the same text.

  Args:
    what: the text's name, for the error.

  Raises:
    SophiaError: they do not; raised in every process.
  """
  if not jax.distributed.is_initialized():
    return
  digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
  digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
  others = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
  if others:
    named = ", ".join(map(str, others))
    raise SophiaError(
      f"{what}: not the same in process {named} as in process 0; {remedy}"
    )


def refuse_together(why: str) -> None:
  """Ends every process if process 0 has a reason to.

  Args:
    why: the reason; "": none. Only process 0's counts.

  Raises:
    SophiaError: there is one.
  """
  refused = bool(why)
  if jax.distributed.is_initialized():
    refused = bool(multihost_utils.broadcast_one_to_all(np.array(refused)))
  if refused:
    raise SophiaError(why or "process 0 has refused to begin; see its error")


def wait_for_file(path: Path) -> None:
  """Waits until this process sees a file that process 0 has written.

  Raises:
    SophiaError: the file does not appear.
  """
  deadline = time.monotonic() + _VISIBLE_S
  while not path.exists():
    if time.monotonic() > deadline:
      raise SophiaError(
        f"{path}: process {jax.process_index()} does not see what process 0 "
        "wrote; --workdir must be on a file system that all hosts share"
      )
    time.sleep(0.5)


def check_alone() -> None:
  """Checks that a process started alone does not share its devices.

  Raises:
    SophiaError: the devices' runtime reports several processes.
  """
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise SophiaError(
      f"the devices are those of {jax.process_count()} processes; give "
      "--coordinator=auto on every host"
    )


# ------------------------------------------------------------------------- a run
def run(work: Callable[[], int]) -> int:
  """Runs `work`, alone or as one of several processes.

  Args:
    work: returns an exit code.

  Raises:
    SophiaError: the flags are wrong, or another process is absent or lost.
  """
  meeting = from_flags()
  if meeting is None:
    return work()
  _check_name(meeting)
  joined = _SharedCount()
  return child.run_in_child(
    functools.partial(_run_joined, meeting, joined, work),
    lambda output: explanation(meeting, joined.get(), output),
  )


def _check_name(meeting: Meeting) -> None:
  """Checks that the coordinator's name resolves, which jax waits minutes for.

  Raises:
    SophiaError: it does not.
  """
  if meeting.coordinator:
    host = meeting.coordinator.rpartition(":")[0]
    remedy = "correct --coordinator"
  elif all(name in os.environ for name in _SLURM):
    host = _first_node(os.environ["SLURM_STEP_NODELIST"])
    remedy = (
      "put the first node of the Slurm step into DNS or /etc/hosts, or give "
      "--coordinator=ADDRESS:PORT --processes=N --process=$SLURM_PROCID"
    )
  else:
    return
  for left in reversed(range(_LOOKUPS)):
    try:
      socket.getaddrinfo(host.strip("[]"), None)
      return
    except (OSError, UnicodeError) as e:
      if not left:
        why = getattr(e, "strerror", None) or e
        raise SophiaError(
          f"{host}: {why}: the processes meet at this name, and it does "
          f"not resolve on {socket.gethostname()}; {remedy}"
        ) from None
    time.sleep(1)


def _first_node(nodes: str) -> str:
  """Returns the first name of Slurm's list: "n1,n2", "n[1-4,7],m"."""
  found = re.match(r"([^,\[]*)(?:\[([^],-]*))?", nodes)
  assert found is not None
  return found[1] + (found[2] or "")


class _SharedCount:
  """The number of processes, which a child shares with its parent."""

  def __init__(self) -> None:
    self._shared = mmap.mmap(-1, 4)

  def set(self, count: int) -> None:
    self._shared[:] = struct.pack("i", count)

  def get(self) -> int:
    """Returns 0 until the processes have met."""
    return struct.unpack("i", self._shared[:])[0]


def _run_joined(
  meeting: Meeting, joined: _SharedCount, work: Callable[[], int]
) -> int:
  """Joins the other processes, runs `work` and leaves with them."""
  threading.excepthook = _thread_ended
  absl_logging.get_absl_handler().addFilter(_is_no_loss)
  try:
    _join(meeting)
    joined.set(jax.process_count())
    code = work()
    if code == 0:
      jax.distributed.shutdown()  # waits for the others
    else:
      _leave_after_error()
  # A broken connection raises an error of jaxlib, or of orbax where it waits for
  # the other processes.
  except (RuntimeError, ValueError, TimeoutError) as e:
    if not (lost := _loss(e)):
      raise
    child.leave_message(lost)
    # jax.distributed ends this process once it knows which one is lost.
    time.sleep(meeting.peer_timeout_s + 15)
    return child.ABORTED
  return code


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
  """Hides the loss of a process in a thread: the main thread reports it."""
  if not _loss(ended.exc_value):
    threading.__excepthook__(ended)


def _is_no_loss(record: logging.LogRecord) -> bool:
  """Returns whether a log record is about anything except a lost process."""
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
  """Returns all GPUs of a node, where Slurm runs one task on each node.

  Otherwise jax.distributed takes one device for each task of Slurm.
  """
  gpus, nodes = (
    os.environ.get(name)
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_STEP_NUM_NODES")
  )
  if gpus and nodes and nodes == os.environ.get("SLURM_NTASKS"):
    return list(range(int(gpus)))
  return None


def _leave_after_error() -> None:
  """Gives other processes time to report: without process 0 they are ended."""
  wait = multihost.get_barrier_sync_fn()
  try:
    wait(key="end", timeout_ms=_EXIT_BARRIER_S * 1000)
  except jax.errors.JaxRuntimeError:
    return  # they are still at work and will find that this process is lost
  jax.distributed.shutdown()


# ------------------------------------------------------------------- explanations
# Texts of jaxlib 0.10 and of gloo and NCCL below it.
_LOSSES = (
  *("Gloo", "NCCL", "heartbeat", "Socket closed", "coordination service"),
  *("Connection closed by peer", "Connection reset", "GetKeyValue() timed out"),
  *("coordinator_address should be defined", "Failed to start RPC server"),
  "Failed to add port",
)


def _is_loss(text: str) -> bool:
  return any(sign in text for sign in _LOSSES)


def _loss(error: BaseException | None) -> str:
  """Returns an error's text, or its cause's, about a lost process; else ""."""
  while error is not None:
    if _is_loss(str(error)):
      return str(error)
    error = error.__cause__ or error.__context__
  return ""


def explanation(meeting: Meeting, count: int, output: str) -> str:
  """Explains a process's abort to the user, in one line.

  Args:
    count: the number of processes; 0 if they have not met.
    output: jaxlib's output about the end.

  Returns:
    "" if the output is not about other processes.
  """
  if "coordinator_address should be defined" in output:
    return (
      "--coordinator=auto: neither Slurm, Open MPI nor a TPU pod is here; give "
      "--coordinator=HOST:PORT --processes=N --process=I"
    )
  if not count:
    return _not_met(meeting, output)
  lost = re.findall(r"[Tt]asks? (\d+) heartbeat timeout", output)
  lost += re.findall(r"stopped sending heartbeats\):\s*\n([\d, ]+)", output)
  if lost:
    named = f"process {lost[0].strip()} of {count} is lost"
  elif "Failed to send RPC to coordination service" in output:
    named = f"process 0 of {count} is lost"
  elif _is_loss(output):
    named = f"the connection to another of {count} processes broke"
  else:
    return ""
  return (
    f"{named} (its own output says why); start the same command again "
    "on all hosts, it resumes from the last checkpoint"
  )


def _not_met(meeting: Meeting, output: str) -> str:
  """Explains why the processes did not meet."""
  if "ALREADY_EXISTS" in output or "different incarnation" in output:
    return (
      f"two processes at {meeting.address} call themselves --process="
      f"{meeting.process}; give each its own number"
    )
  if "Unexpected task" in output:
    return (
      f"--process={meeting.process}: process 0 at {meeting.address} expects "
      "fewer; give the same --processes on every host"
    )
  # Either text may come last: jaxlib 0.10 may crash between the two.
  if "Failed to start RPC server" in output or "Failed to add port" in output:
    return (
      f"{meeting.address}: process 0 cannot listen at this port; name a free one "
      "on every host"
    )
  if "DEADLINE_EXCEEDED" in output or "timed out" in output:
    return (
      f"{meeting.address}: not all processes came within "
      f"{meeting.join_timeout_s} s; start the same command on every host, check "
      "--coordinator, or raise --join_timeout_s"
    )
  return (
    f"{meeting.address}: {output.splitlines()[0]}" if _is_loss(output) else ""
  )
