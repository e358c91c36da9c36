"""Orbax checkpoints: state, the driver's cursor, and the identity of the run."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from sophia_jax.checkpoints import manifest
from sophia_jax.train.state import TrainState
from sophia_jax.types import SophiaError

STATE, LOADER, IDENTITY = "state", "loader", "identity"
_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one training run, newest first to be restored.

  Saving is asynchronous and atomic: a checkpoint that was cut off, or that lost
  a file later, is never chosen. `identity` names what a resumed run may not
  change (model, optimizer, data); a checkpoint with another one is refused. A
  restored state lies as the one that is given, on whichever mesh it was saved.
  """

  def __init__(
    self,
    directory: Path,
    keep: int,
    identity: dict[str, Any],
    limit: int | None = None,
  ):
    """Opens a directory of checkpoints.

    Args:
      keep: checkpoints kept.
      limit: largest number of updates that is restored; None: any.
    """
    self._directory = directory.absolute()
    # As JSON gives it back, so that the two can be compared.
    self._identity = json.loads(json.dumps(identity))
    self._limit = limit
    self._unsealed: set[int] = set()
    self._manager = ocp.CheckpointManager(
      self._directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def save(self, state: TrainState, loader_state: dict[str, Any]) -> None:
    step = int(state.step)
    self._seal()
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_saved(state)),
        loader=ocp.args.JsonSave(loader_state),
        identity=ocp.args.JsonSave(self._identity),
      ),
    )
    self._unsealed.add(step)

  def _seal(self) -> None:
    """Notes the files of every step that is on disk by now."""
    if jax.process_index() > 0:
      return
    for step in sorted(self._unsealed):
      directory = self._directory / str(step)
      if directory.is_dir():  # orbax renames a step that is finished
        manifest.seal(directory)
        self._unsealed.remove(step)

  def restore(
    self, state: TrainState
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """Restores the newest checkpoint, laid out as `state` is; None without one.

    Raises:
      SophiaError: the checkpoint is of another model, optimizer or data.
    """
    newest = newest_step(self._directory, self._limit)
    self._set_aside(newest)
    if newest is None:
      return None
    step = int(newest.name)
    self._check(newest, read_identity(newest))
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _saved(state))
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(target), loader=ocp.args.JsonRestore()
      ),
    )
    return dataclasses.replace(state, **found[STATE]), found[LOADER]

  def _set_aside(self, newest: Path | None) -> None:
    """Renames newer steps, which are damaged: they will be saved again."""
    _together("checkpoints seen")  # before one of them renames any
    last = -1 if newest is None else int(newest.name)
    for step in _steps(self._directory):
      if int(step.name) > last and jax.process_index() == 0:
        step.rename(step.with_name(f"damaged-{step.name}"))
    _together("damaged checkpoints set aside")
    self._manager.reload()

  def _check(self, step: Path, found: dict[str, Any]) -> None:
    for key, value in self._identity.items():
      if found.get(key) != value:
        raise SophiaError(
          f"{step}: a checkpoint of another {key}; "
          "use the config it was made with, or another workdir"
        )

  def wait(self) -> None:
    """Waits until every checkpoint is on disk."""
    self._manager.wait_until_finished()
    self._seal()

  def close(self) -> None:
    """Waits until everything is on disk."""
    self.wait()
    self._manager.close()


def _together(what: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def newest_step(directory: Path, limit: int | None = None) -> Path | None:
  """Finds the newest whole step of a run's checkpoints; None if none is whole.

  Warns of those that are passed over.
  """
  steps = [
    step
    for step in _steps(directory)
    if limit is None or int(step.name) <= limit
  ]
  for path in _cut_off(directory):
    _log.warning("%s: was cut off while it was written; not used", path)
  for step in reversed(steps):
    why = manifest.damage(step)
    if why is None:
      return step
    _log.warning("%s: damaged (%s); an older checkpoint is used", step, why)
  return None


def _steps(directory: Path) -> list[Path]:
  """Finished steps, oldest first."""
  found = directory.iterdir() if directory.is_dir() else ()
  return sorted((p for p in found if p.name.isdecimal()), key=_number)


def _number(step: Path) -> int:
  return int(step.name)


def _cut_off(directory: Path) -> list[Path]:
  """Returns directories that orbax had not renamed yet."""
  mark = ocp.utils.TMP_DIR_SUFFIX
  found = directory.iterdir() if directory.is_dir() else ()
  return sorted(p for p in found if mark in p.name)


def read_identity(step: Path) -> dict[str, Any]:
  """Reads the identity of the run that wrote a checkpoint."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    return checkpointer.restore(step.absolute() / IDENTITY)


def _saved(state: TrainState) -> dict[str, Any]:
  """Frozen parameters never change, so they are not saved."""
  return {
    "step": state.step,
    "params": state.params,
    "opt_state": state.opt_state,
  }
