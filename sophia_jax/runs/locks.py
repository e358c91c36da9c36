"""Locks of a workdir; with several processes the leader holds them for all.

`check` refuses what the locks would refuse and writes nothing: a command asks it
first, before another check has logged a warning, and takes the lock once it is
going to write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sophia_jax import files
from sophia_jax.hosts import meeting
from sophia_jax.rollout import store
from sophia_jax.runs import sampling
from sophia_jax.runs.run import Run
from sophia_jax.runs.shards import Shard
from sophia_jax.runs.stage import Stage
from sophia_jax.types import SophiaError

LOCK, UPDATE_LOCK = ".lock", ".update.lock"


@contextlib.contextmanager
def writing(run: Run, share: bool = False) -> Iterator[None]:
  """Lets no other command write the workdir in the block.

  Args:
    share: lets others in that share it too, and write other files: shards of
      the sampling, updates beside each other.

  Raises:
    SophiaError: another command writes this workdir; raised in every process.
  """
  with _held(*_workdir(run), share):
    yield


@contextlib.contextmanager
def updating(run: Run, share: bool = False) -> Iterator[None]:
  """Lets no other command make the same update in the block.

  Args:
    share: lets further updates (--name) be made at the same time: everything
      before the last stage's update is there, and only read.

  Raises:
    SophiaError: another command makes this update, or writes this workdir.
  """
  with writing(run, share), _held(*_update(run)):
    yield


def check(run: Run, share: bool = False, update: bool = False) -> None:
  """Refuses what `writing` would, or `updating`; writes nothing.

  Args:
    share: as theirs.
    update: whether the command makes an update.

  Raises:
    SophiaError: another command holds a lock; raised in every process.
  """
  why = ""
  if meeting.is_leader():
    try:
      files.check_free(*_workdir(run), share)
      if update:
        files.check_free(*_update(run))
    except SophiaError as e:
      why = str(e)
  meeting.refuse_together(why)


def check_shard(run: Run, stage: Stage, shard: Shard) -> None:
  """Refuses a shard that another process samples.

  Raises:
    SophiaError: one does, or others sample in another number of shards.
  """
  directory = sampling.store_directory(run, stage)
  store.check_free(directory, shard.name)
  together = directory / sampling.LOCK
  if together.exists():
    with files.shared(together, shard.terms):
      pass


def check_evaluations(run: Run, names: Iterable[str]) -> None:
  """Refuses evaluations that `evaluating` would refuse; writes nothing.

  Raises:
    SophiaError: another command writes one of them.
  """
  for name in names:
    files.check_free(*_evaluation(run, name))


@contextlib.contextmanager
def evaluating(run: Run, names: Iterable[str]) -> Iterator[None]:
  """Lets no other command write the same evaluations in the block.

  Raises:
    SophiaError: another command writes one of them.
  """
  with contextlib.ExitStack() as stack:
    for name in names:
      stack.enter_context(files.held(*_evaluation(run, name)))
    yield


def _evaluation(run: Run, name: str) -> tuple[Path, str, str]:
  """Returns the lock of an evaluation: its path, subject and remedy."""
  path = run.evals(name) / f".{name}.lock"
  return path, f"evaluation {name}", "wait for it, or give another --name"


def _workdir(run: Run) -> tuple[Path, str, str]:
  """Returns the lock of the workdir."""
  remedy = "wait for it, stop it, or use another --workdir"
  return run.workdir / LOCK, "this workdir", remedy


def _update(run: Run) -> tuple[Path, str, str]:
  """Returns the lock of the update."""
  remedy = "wait for it, or give another --name"
  return run.place / UPDATE_LOCK, "this update", remedy


@contextlib.contextmanager
def _held(
  path: Path, what: str, remedy: str, share: bool = False
) -> Iterator[None]:
  """Holds a lock for the block; with several processes the leader holds it."""
  with contextlib.ExitStack() as stack:
    why = ""
    if meeting.is_leader():
      try:
        stack.enter_context(files.held(path, what, remedy, share))
      except SophiaError as e:
        why = str(e)
    meeting.refuse_together(why)
    yield
