"""Stages that learn nothing: they sample, and write files of problems or examples.

A later stage names such a file as its data: `data="chains/sft.jsonl"` is what the
stage "chains" has written.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sophia_jax.data.schema import record_errors
from sophia_jax.files import read_json, write_json, write_jsonl
from sophia_jax.hosts import meeting
from sophia_jax.runs import sampling, sources, training
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train.checkpoint import newest_step, read_identity
from sophia_jax.types import Example, Problem

_log = logging.getLogger("sophia_jax")

RECORD = "made.json"
"""File that names the settings of the stage, and the lines of its files."""


def write(run: Run, stage: Stage) -> None:
  """Writes the files of a stage whose samples are there.

  What no file may hold, such as control characters that a model wrote, is left
  out and counted.

  Raises:
    SophiaError: the method finds nothing to write; says why.
  """
  words = sources.PolicyWords(
    sampling.words_of(run, stage), run.config.prompts.slow_thinking
  )
  assert stage.algorithm.files is not None
  found = stage.algorithm.files(sampling.groups(run, stage), words)
  if meeting.is_leader():
    directory = run.directory(stage.name)
    lines = {
      name: _written(directory / name, items) for name, items in found.items()
    }
    record = {"identity": training.identity(run, stage), "files": lines}
    write_json(directory / RECORD, record)
  meeting.barrier(f"made {stage.name}")


def begun(run: Run, stage: Stage) -> tuple[Path, dict[str, Any]] | None:
  """Returns where a stage has recorded the settings it was begun with, and these.

  None where it has not begun.
  """
  directory = run.directory(stage.name)
  if stage.learns:
    step = newest_step(directory / "checkpoints")
    return None if step is None else (step, read_identity(step))
  record = directory / RECORD
  if not record.exists():
    return None
  remedy = "remove it, and what the stage has written"
  return record, read_json(record, remedy).get("identity", {})


def _written(path: Path, items: Iterable[Problem | Example]) -> dict[str, int]:
  """Writes a file; returns its lines, and how many items were unfit for one."""
  rows = [(row_of(item, path.parent), item) for item in items]
  fit = [
    row
    for row, item in rows
    if not record_errors(row, examples=isinstance(item, Example))
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  write_jsonl(path, fit)
  left = len(rows) - len(fit)
  _log.info("%s: %d lines%s", path, len(fit), f", {left} unfit" if left else "")
  return {"lines": len(fit), "unfit": left}


def row_of(item: Problem | Example, directory: Path) -> dict[str, Any]:
  """Returns the line of a problem or an example in a file of `directory`."""
  row = {
    f.name: getattr(item, f.name)
    for f in dataclasses.fields(item)
    if getattr(item, f.name) not in ((), {}, None, f.default)
  }
  images = [os.path.relpath(image, directory) for image in item.images]
  lists = {k: list(v) for k, v in row.items() if isinstance(v, tuple)}
  return {**row, **lists, **({"images": images} if images else {})}
