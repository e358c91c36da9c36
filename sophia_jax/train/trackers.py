"""Trackers beside metrics.jsonl: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import socket
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sophia_jax import files
from sophia_jax.types import SophiaError


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """Reports of a run about itself; no result depends on them."""

  tensorboard: bool = True
  """TensorBoard event files in the stage's directory."""
  wandb: str = ""
  """Project of Weights & Biases; "": off."""
  trackio: str = ""
  """Project of trackio, kept on this machine; "": off."""
  profile_at: int = 0
  """First update of a jax.profiler trace; 0: none."""
  profile_updates: int = 3
  """Length of the trace, updates."""


class Tracker(Protocol):
  """A place that takes the metrics of a step."""

  def log(self, step: int, values: Mapping[str, float]) -> None: ...

  def close(self) -> None: ...


class TensorBoard(Tracker):
  """Event files; a resumed run hides the steps after its start.

  They are written here: an error in the thread of tensorboardX's writer, such as
  a full disk, would not reach the command.
  """

  def __init__(self, directory: Path, step: int):
    # Imports torch where there is one, which costs every command seconds.
    from tensorboardX import record_writer
    from tensorboardX.proto import event_pb2, summary_pb2

    self._crc = record_writer.masked_crc32c
    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    host, now = socket.gethostname(), int(time.time())
    self._path = directory / f"events.out.tfevents.{now}.{host}.{os.getpid()}"
    self._write(file_version="brain.Event:2")
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(step=step + 1, session_log=start)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    points = [
      self._summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
    ]
    self._write(step=step, summary=self._summary(value=points))

  def close(self) -> None:
    pass

  def _write(self, **fields: Any) -> None:
    """Appends an event as a record of TensorFlow: size, event, their checksums.

    Raises:
      SophiaError: the disk is full.
    """
    data = self._event(wall_time=time.time(), **fields).SerializeToString()
    size = struct.pack("<Q", len(data))
    sums = (struct.pack("<I", self._crc(part)) for part in (size, data))
    files.append_bytes(self._path, size + next(sums) + data + next(sums))


class WandB(Tracker):
  """One run of a project, which a resumed training continues."""

  def __init__(self, directory: Path, project: str, title: str):
    wandb = _optional("wandb", project)
    directory.mkdir(parents=True, exist_ok=True)
    with _refused(wandb, project):
      self._run: Any = wandb.init(
        project=project,
        id=_run_id(directory / "wandb_id"),
        name=title,
        resume="allow",
        dir=str(directory),
      )
    # Their own counter may not go back, as ours does to the last checkpoint.
    self._run.define_metric("*", step_metric="step")

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log({**values, "step": step})

  def close(self) -> None:
    self._run.finish()


class Trackio(Tracker):
  """One run of a project on this machine: `trackio show --project NAME`."""

  def __init__(self, directory: Path, project: str, title: str):
    trackio = _optional("trackio", project)
    self._run: Any = trackio.init(
      project=project,
      name=f"{title}-{_run_id(directory / 'trackio_id')}",
      resume="allow",
      embed=False,
      auto_log_gpu=False,
      auto_log_cpu=False,
    )

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def close(self) -> None:
    self._run.finish()


def check(config: LogConfig) -> None:
  """Refuses trackers that could not be opened later.

  Raises:
    SophiaError: a tracker is not installed, or wandb is not logged in.
  """
  if config.trackio:
    _optional("trackio", config.trackio)
  if config.wandb:
    wandb = _optional("wandb", config.wandb)
    if os.environ.get("WANDB_MODE", "online") == "online":
      with _refused(wandb, config.wandb):
        wandb.login(verify=False)


def trackers(
  directory: Path, config: LogConfig, step: int, title: str = ""
) -> list[Tracker]:
  """Opens the trackers that the config asks for.

  Args:
    directory: directory that holds what a tracker keeps, such as the stage's.
    step: the step that the work resumes from: updates, or problems sampled.
    title: name of the run; "": the workdir's and the stage's.

  Raises:
    SophiaError: a tracker is not installed, or wandb is not logged in.
  """
  opened: list[Tracker] = []
  title = title or _title(directory)
  if config.tensorboard:
    opened.append(TensorBoard(directory / "tensorboard", step))
  if config.wandb:
    opened.append(WandB(directory, config.wandb, title))
  if config.trackio:
    opened.append(Trackio(directory, config.trackio, title))
  return opened


def _optional(name: str, project: str) -> Any:
  """Imports a tracker that is not among the requirements."""
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise SophiaError(
      f"config.log.{name}={project!r}: pip install {name}, or leave it empty"
    ) from e


@contextlib.contextmanager
def _refused(wandb: Any, project: str) -> Iterator[None]:
  """Makes an error of wandb one line with its remedies.

  Raises:
    SophiaError: the block raised one.
  """
  try:
    yield
  except wandb.Error as e:
    raise SophiaError(
      f"config.log.wandb={project!r}: {str(e).rstrip('.')}; wandb login, "
      "WANDB_MODE=offline, or leave it empty"
    ) from e


def _run_id(path: Path) -> str:
  """Returns the id of the directory's run, made at its first use."""
  if not path.exists():
    files.write_text(path, uuid.uuid4().hex[:8])
  return path.read_text(encoding="utf-8")


def _title(directory: Path) -> str:
  """Returns a run's name for people: the workdir's and the stage's."""
  return "-".join(directory.parts[-2:])
