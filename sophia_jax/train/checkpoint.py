"""Orbax checkpoints: state, the driver's cursor, and the identity of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.experimental import multihost_utils

from sophia_jax.checkpoints import manifest
from sophia_jax.train.state import TrainState
from sophia_jax.types import SophiaError

STATE, LOADER, IDENTITY = "state", "loader", "identity"
_LOOK_S = 0.1
"""Seconds between two looks at whether a checkpoint is on disk."""
_LAST_S = 10.0
"""Longest wait for a write beside one that has failed, seconds."""
_FILE_ERROR = re.compile(r"\[os_error_code='(\d+)'")
"""The system's error number in a report of tensorstore."""
_GIVEN_UP = "Event loop is closed"
"""Error of the threads whose writes are given up after one has failed."""
_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one training run, newest first to be restored.

  Saving is asynchronous and atomic: a checkpoint that was cut off, or whose
  files changed since they were written, is never restored: it is set aside, and
  the older whole one is taken. `identity` names what a resumed run may not
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
    self.limit = limit
    """Largest number of updates that is restored; None: any."""
    self._sealer = ThreadPoolExecutor(1, "seal")
    self._sealing: Future[None] | None = None
    self._over = threading.Event()
    """Set when no save is in flight any more."""
    _hush()
    self._manager = ocp.CheckpointManager(
      self._directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def save(self, state: TrainState, loader_state: dict[str, Any]) -> None:
    """Saves a state in the background.

    Raises:
      SophiaError: this checkpoint or the one before cannot be written.
    """
    step = int(state.step)
    self._sealed()
    with _written(self._directory):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(_saved(state)),
          loader=ocp.args.JsonSave(loader_state),
          identity=ocp.args.JsonSave(self._identity),
        ),
      )
    if jax.process_index() == 0:
      self._over.clear()
      self._sealing = self._sealer.submit(self._seal, step)

  def _seal(self, step: int) -> None:
    """Seals a step as soon as it is on disk: orbax renames it then."""
    directory = self._directory / str(step)
    while not directory.is_dir():
      if self._over.wait(_LOOK_S) and not directory.is_dir():
        return  # it could not be written
    manifest.seal(directory)

  def _sealed(self) -> None:
    """Waits until the last step that was saved is sealed."""
    with _written(self._directory):
      self._manager.wait_until_finished()
    self._over.set()
    if self._sealing is not None:
      self._sealing.result()

  def restore(
    self, state: TrainState
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """Restores the newest checkpoint, laid out as `state` is; None without one.

    Raises:
      SophiaError: the checkpoint is of another model, optimizer or data.
    """
    newest = self._newest_whole()
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

  def _newest_whole(self) -> Path | None:
    """Finds the newest step whose every file is as it was written.

    The processes share the reading, and find the same.
    """
    limit = self.limit
    share = jax.process_index(), jax.process_count()
    while (step := newest_step(self._directory, limit)) is not None:
      why = manifest.damage(step, whole=True, share=share)
      if why:
        _warn_damaged(step, why)
      if not _any(why is not None):
        return step
      limit = int(step.name) - 1
    return None

  def _set_aside(self, newest: Path | None) -> None:
    """Renames newer steps, which are damaged: they will be saved again."""
    _together("checkpoints seen")  # before one of them renames any
    last = -1 if newest is None else int(newest.name)
    for step in _steps(self._directory):
      if int(step.name) > last and jax.process_index() == 0:
        step.rename(_free(step.with_name(f"damaged-{step.name}")))
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
    """Waits until every checkpoint is on disk, and sealed.

    Raises:
      SophiaError: one cannot be written.
    """
    self._sealed()

  def close(self) -> None:
    """Waits until everything is on disk.

    Raises:
      SophiaError: it cannot be written.
    """
    try:
      self.wait()
    finally:
      self._over.set()
      self._sealer.shutdown()
      self._manager.close()


@contextlib.contextmanager
def _written(directory: Path) -> Iterator[None]:
  """Turns what orbax and tensorstore raise on a full disk into one line."""
  try:
    yield
  except (OSError, ValueError) as e:
    if (why := _why_unwritten(e)) is None:
      raise
    _join_writers()
    raise _unwritten(directory, why) from e


def _why_unwritten(error: BaseException | None) -> str | None:
  """Returns the system's words on a file that cannot be written; None for other
  errors."""
  if isinstance(error, OSError):
    return error.strerror or str(error)
  # As tensorstore reports every failure of a file.
  found = isinstance(error, ValueError) and _FILE_ERROR.search(str(error))
  return os.strerror(int(found[1])) if found else None


@functools.cache
def _hush() -> None:
  """Leaves out what is printed of a write that the next call raises anyway."""
  absl_logging.get_absl_logger().addFilter(_is_not_ours)
  hook = sys.unraisablehook

  def reported(unraisable: Any) -> None:
    if not _is_given_up(unraisable.exc_value):
      hook(unraisable)

  sys.unraisablehook = reported


def _join_writers() -> None:
  """Waits for the other writes of a checkpoint of which one has failed.

  The end of the program would cut them off, and each would report it.
  """
  for thread in threading.enumerate():
    if type(thread).__module__.startswith("orbax."):
      # Not the join of its class, which raises what the thread has raised.
      threading.Thread.join(thread, _LAST_S)


def _is_given_up(error: BaseException | None) -> bool:
  """Returns whether a thread of tensorstore reports to a loop that orbax closed.

  That happens where one file of a checkpoint cannot be written while others are
  in flight; nothing can catch the thread's error, which is printed.
  """
  return isinstance(error, RuntimeError) and str(error) == _GIVEN_UP


def _is_not_ours(record: logging.LogRecord) -> bool:
  """Returns whether a log record is about anything but a file that orbax's thread
  could not write: the next call of `Checkpoints` raises that."""
  error = record.exc_info[1] if record.exc_info else None
  return "orbax" not in record.pathname or _why_unwritten(error) is None


def _unwritten(directory: Path, why: str) -> SophiaError:
  return SophiaError(
    f"{directory}: a checkpoint cannot be written ({why}); free the disk and "
    "give the same command again"
  )


def _any(here: bool) -> bool:
  """Returns whether `here` is true in any process."""
  if jax.process_count() == 1:
    return here
  return bool(multihost_utils.process_allgather(np.asarray(here)).any())


def _free(path: Path) -> Path:
  """Returns `path`, or with a number where that name is taken."""
  names = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
  return next(p for p in itertools.chain([path], names) if not p.exists())


def _together(what: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def newest_step(
  directory: Path, limit: int | None = None, whole: bool = False
) -> Path | None:
  """Finds the newest whole step of a run's checkpoints; None if none is whole.

  Warns of those that are passed over.

  Args:
    limit: largest number of updates; None: any.
    whole: reads every file; otherwise large ones are compared by size alone.
  """
  steps = [
    step
    for step in _steps(directory)
    if limit is None or int(step.name) <= limit
  ]
  for path in _cut_off(directory):
    _log.warning("%s: was cut off while it was written; not used", path)
  for step in reversed(steps):
    why = manifest.damage(step, whole)
    if why is None:
      return step
    _warn_damaged(step, why)
  return None


def _warn_damaged(step: Path, why: str) -> None:
  _log.warning("%s: damaged (%s); an older checkpoint is used", step, why)


def _steps(directory: Path) -> list[Path]:
  """Returns the finished steps, oldest first."""
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
  """Returns what changes: frozen parameters are not saved."""
  return {
    "step": state.step,
    "params": state.params,
    "opt_state": state.opt_state,
  }
