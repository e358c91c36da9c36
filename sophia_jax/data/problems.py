"""Problems and examples as JSONL: one schema, one set of checks.

  {"id": "mv-17", "images": ["17.jpg"], "question": "How many?", "answer": "6"}

Image paths are relative to the file. Loading stops at the first error; the
check lists all of them and decodes every image:

  python -m sophia_jax.datasets check problems.jsonl
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sophia_jax.data.schema import (
  ANSWER_TYPES,
  check_records,
  numbered_lines,
  parse_line,
  record_errors,
)
from sophia_jax.types import Example, Problem, SophiaError

__all__ = [
  "ANSWER_TYPES",
  "ProblemFile",
  "check",
  "load_examples",
  "load_problems",
  "read_problems",
]

Error = tuple[int, str]
"""Line from 1, and "what; remedy"."""


# --------------------------------------------------------------------- reading
def _load(
  path: str | os.PathLike[str], examples: bool, decode: bool
) -> Iterator[dict[str, Any]]:
  for line, record, errors in check_records(Path(path), examples, decode):
    if errors:
      raise SophiaError(f"{path}:{line}: {errors[0]}")
    yield _plain(record)


def _plain(record: dict[str, Any]) -> dict[str, Any]:
  return {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in record.items()
  }


def read_problems(path: str | os.PathLike[str]) -> Iterator[Problem]:
  """As `load_problems`, one at a time."""
  return (Problem(**record) for record in _load(path, False, False))


@dataclasses.dataclass(frozen=True)
class ProblemFile:
  """Problems that `read_problems` found no mistake in, for going through again.

  Every iteration reads the file anew, which may be larger than the memory, and
  opens no image.
  """

  path: Path

  def __iter__(self) -> Iterator[Problem]:
    for number, line in numbered_lines(self.path):
      record, errors = parse_line(line)
      if record is None or (errors := record_errors(record)):
        raise SophiaError(f"{self.path}:{number}: {errors[0]}")
      folder, images = self.path.parent, record.get("images", ())
      record["images"] = [os.path.abspath(folder / name) for name in images]
      yield Problem(**_plain(record))


def load_problems(
  path: str | os.PathLike[str], decode: bool = False
) -> list[Problem]:
  """Reads problems; image paths become absolute.

  Args:
    path: a JSONL file.
    decode: whether images are decoded, or only their headers read.

  Raises:
    SophiaError: "FILE:LINE: what; remedy" of the first error.
  """
  return [Problem(**record) for record in _load(path, False, decode)]


def load_examples(
  path: str | os.PathLike[str], decode: bool = False
) -> list[Example]:
  """Reads questions with responses: instruction data, or what is to be scored.

  Args and errors as for `load_problems`.
  """
  return [Example(**record) for record in _load(path, True, decode)]


def check(
  path: str | os.PathLike[str], examples: bool = False, decode: bool = True
) -> list[Error]:
  """All errors of a file, in the order of its lines.

  Raises:
    SophiaError: the file cannot be opened.
  """
  return [
    (line, error)
    for line, _, errors in check_records(Path(path), examples, decode)
    for error in errors
  ]
