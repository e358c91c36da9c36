"""InternVL's training data: a meta JSON and its conversation JSONL files.

Source:   yours, as for InternVL's own finetuning scripts
Layout:   meta.json, {name: {"root", "annotation", "repeat_time", ...}}, with
          paths relative to it; annotations hold {"image": PATH or [PATH, ...],
          "conversations": [{"from": "human", "value": ...}, ...]}, image paths
          relative to `root`. SRC may also be one annotation file
Command:  python -m sophia_jax.datasets import --from=internvl META DST
Gives:    examples to train on: the first exchange of each conversation; later
          turns are left out and counted, rows with video are left out

A `repeat_time` below 1 takes that part of the file from its beginning, a whole
number repeats the file; repeated ids end in ~2, ~3, ...
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
  Row,
  Skip,
)
from sophia_jax.datasets.importers.files import find_files
from sophia_jax.datasets.importers.rows import read_rows
from sophia_jax.datasets.importers.text import conversation
from sophia_jax.types import SophiaError, quoted

MAX_REPEAT = 1000
"""Largest repeat_time."""


def convert(row: Mapping[str, Any], at: Context) -> Record:
  if "video" in row:
    raise Skip("video")
  system, question, response, rest = conversation(row.get("conversations"))
  if rest:
    at.notes["later turns left out"] += rest
  images = row.get("image") or []
  if not isinstance(images, list):
    images = [images]
  found = [at.image(image) for image in images]
  if not found and isinstance(question, str) and "<image>" in question:
    raise Broken("has <image> and no image; fix the row")
  return {
    "id": at.row.key or at.row.number,
    "question": question,
    "response": response,
    "system": system,
    "images": found,
  }


def rows(src: Path) -> Iterator[Row]:
  """Yields the rows of all annotations, repeated as the meta JSON says.

  Raises:
    SophiaError: no meta JSON, several, or one that cannot be read.
  """
  meta, *others = find_files(src, ("meta*.json", "*.json"))
  if others:
    names = ", ".join(path.name for path in (meta, *others[:3]))
    raise SophiaError(f"{src}: holds several meta files ({names}); give one")
  if meta.suffix == ".jsonl":
    yield from read_rows([meta])
    return
  number = itertools.count(1)
  for name, entry in _entries(meta):
    annotation = meta.parent / entry["annotation"]
    root = meta.parent / entry.get("root", "")
    for turn, limit in enumerate(_turns(meta, name, entry, annotation)):
      suffix = f"~{turn + 1}" if turn else ""
      found = itertools.islice(read_rows([annotation]), limit)
      for i, row in enumerate(found, start=1):
        yield dataclasses.replace(
          row, number=next(number), folder=root, key=f"{name}/{i}{suffix}"
        )


def _entries(meta: Path) -> list[tuple[str, Mapping[str, Any]]]:
  try:
    entries = json.loads(meta.read_text(encoding="utf-8-sig"))
  except (ValueError, RecursionError) as e:
    raise SophiaError(f"{meta}: bad JSON: {e}; fix the file") from None
  if not isinstance(entries, dict):
    raise SophiaError(f"{meta}: must be an object of data sets; write {{...}}")
  for name, entry in entries.items():
    paths = isinstance(entry, dict) and (
      entry.get("annotation"),
      entry.get("root", ""),
    )
    if not paths or not all(isinstance(path, str) for path in paths):
      raise SophiaError(
        f'{meta}: {quoted(name)} needs "annotation" and "root", two paths; see '
        "sophia_jax/datasets/importers/internvl.py"
      )
  return [*entries.items()]


def _turns(
  meta: Path, name: str, entry: Mapping[str, Any], annotation: Path
) -> list[int | None]:
  """Returns how many rows each pass over the file takes; None for all."""
  repeat = entry.get("repeat_time", 1)
  if isinstance(repeat, int | float) and 0 <= repeat <= MAX_REPEAT:
    if repeat < 1:
      return [int(sum(1 for _ in read_rows([annotation])) * repeat)]
    if repeat == int(repeat):
      return [None] * int(repeat)
  raise SophiaError(
    f"{meta}: repeat_time of {quoted(name)} is {quoted(repeat)}; use a whole "
    f"number up to {MAX_REPEAT}, or a part between 0 and 1"
  )


IMPORTER = Importer(
  source="internvl",
  files=("meta*.json", "*.json"),
  convert=convert,
  kinds=("examples",),
  rows=rows,
)
