"""Records which problems a store holds whole, under the method's settings.

A store marks a problem once its group is there, under the settings of that time.
`RECORD` names the settings that all marks are under. With others, such as more
captions, a mark says nothing: the group is replayed, and what it lacks sampled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sophia_jax import files
from sophia_jax.config import decisive
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import Missing, World
from sophia_jax.runs.stage import Stage
from sophia_jax.types import Problem

RECORD = "whole.json"
"""File of a store: the settings that all of its marks are under."""


def lacking(
  stage: Stage, world: World, problems: Iterable[Problem]
) -> list[Problem]:
  """Returns the problems of which the store lacks an answer or a grade.

  Args:
    world: of the store, without engines.
  """
  marked = _recorded(world.store.path) == decisive(stage.method)
  return [
    problem
    for problem in problems
    if not world.complete(problem)
    or not (marked or _replays(stage, world, problem))
  ]


def begin(stage: Stage, store: Store) -> None:
  """Prepares the record for the marks that are going to be made."""
  if store.position == 0:
    record(stage, store.path)
  elif _recorded(store.path) != decisive(stage.method):
    forget(store.path)


def forget(directory: Path) -> None:
  """Removes the record: groups are replayed until all are found whole."""
  (directory / RECORD).unlink(missing_ok=True)


def record(stage: Stage, directory: Path) -> None:
  """Records that every problem is whole under the current settings."""
  settings = decisive(stage.method)
  if _recorded(directory) != settings:
    files.write_json(directory / RECORD, settings)


def _recorded(directory: Path) -> dict[str, Any] | None:
  """Returns the recorded settings; None without a record, or a damaged one."""
  try:
    return json.loads((directory / RECORD).read_bytes())
  except (OSError, ValueError):
    return None


def _replays(stage: Stage, world: World, problem: Problem) -> bool:
  """Returns whether the store answers all that the method asks of a problem."""
  assert stage.algorithm.sample is not None
  with contextlib.suppress(Missing):
    return bool([*collect([problem], stage.algorithm.sample, world)])
  return False
