"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sophia_jax.types import SophiaError


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What a run tells of itself; changes nothing about what it computes."""

  tensorboard: bool = True
  """Event files in the stage's directory."""
  wandb: str = ""
  """Project of Weights & Biases; "": not used."""
  profile_at: int = 0
  """The update from which a jax.profiler trace is taken; 0: never."""
  profile_updates: int = 3


class Tracker(Protocol):
  """Takes the metrics of one update."""

  def log(self, step: int, values: Mapping[str, float]) -> None: ...

  def close(self) -> None: ...


class TensorBoard(Tracker):
  """Event files; a run that goes on hides what a killed life wrote later."""

  def __init__(self, directory: Path, step: int):
    # Imports torch where there is one, which costs every command seconds.
    from tensorboardX import SummaryWriter

    self._writer = SummaryWriter(str(directory), purge_step=step + 1)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    self._writer.close()


class WandB(Tracker):
  """One run of a project; whoever goes on in the directory goes on with it."""

  def __init__(self, directory: Path, project: str):
    try:
      import wandb
    except ImportError as e:
      raise SophiaError(
        f"config.log.wandb={project!r}: pip install wandb, or leave it empty"
      ) from e
    directory.mkdir(parents=True, exist_ok=True)
    own = directory / "wandb_id"
    if not own.exists():
      own.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    try:
      self._run: Any = wandb.init(
        project=project,
        id=own.read_text(encoding="utf-8"),
        name="-".join(directory.parts[-2:]),
        resume="allow",
        dir=str(directory),
      )
    except wandb.Error as e:
      raise SophiaError(
        f"config.log.wandb={project!r}: {e}; wandb login, WANDB_MODE=offline, "
        "or leave it empty"
      ) from e
    # Their own counter may not go back, as ours does to the last checkpoint.
    self._run.define_metric("*", step_metric="step")

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log({**values, "step": step})

  def close(self) -> None:
    self._run.finish()


def trackers(directory: Path, config: LogConfig, step: int) -> list[Tracker]:
  """Those that the config asks for.

  Args:
    step: the update training goes on from.

  Raises:
    SophiaError: wandb is asked for, and not installed or not logged in to.
  """
  found: list[Tracker] = []
  if config.tensorboard:
    found.append(TensorBoard(directory / "tensorboard", step))
  if config.wandb:
    found.append(WandB(directory, config.wandb))
  return found
