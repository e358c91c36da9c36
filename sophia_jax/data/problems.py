"""Problems and examples as JSONL: one schema, one set of checks.

  {"id": "mv-17", "images": ["17.jpg"], "question": "How many?", "answer": "6"}

Image paths are relative to the file. Loading stops at the first error; the
check lists all of them and decodes every image:

  python -m sophia_jax.datasets check problems.jsonl
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sophia_jax.data.images import image_digest
from sophia_jax.data.schema import (
  check_records,
  numbered_lines,
  parse_record,
  record_errors,
)
from sophia_jax.types import ANSWER_TYPES, Example, Problem, SophiaError

__all__ = [
  "ANSWER_TYPES",
  "asked_digest",
  "check",
  "load_examples",
  "load_problems",
  "problem_digest",
  "well_formed",
]

Error = tuple[int, str]
"""Line, from 1, and "what; remedy"."""


# --------------------------------------------------------------------- reading
def _load(
  path: str | os.PathLike[str], examples: bool, decode: bool
) -> Iterator[dict[str, Any]]:
  for line, record, errors in check_records(Path(path), examples, decode):
    if errors:
      raise SophiaError(f"{path}:{line}: {errors[0]}")
    yield _plain(record)


def _plain(record: dict[str, Any]) -> dict[str, Any]:
  plain = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in record.items()
  }
  if "difficulty" in plain:  # a number is the name of a reasoner as well
    plain["difficulty"] = str(plain["difficulty"])
  return plain


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
  """Reads questions with responses: instruction data, or data to score.

  Args and errors as for `load_problems`.
  """
  return [Example(**record) for record in _load(path, True, decode)]


def well_formed(path: str | os.PathLike[str]) -> Iterator[Problem]:
  """Yields the problems of a file whose fields are as they should be.

  For a look at data that a run has accepted: images are not opened.

  Raises:
    SophiaError: the file cannot be opened.
  """
  folder = Path(path).parent
  for _, line in numbered_lines(Path(path)):
    record, errors = parse_record(line)
    if record is None or errors or record_errors(record):
      continue
    images = record.get("images", ())
    record["images"] = [os.path.abspath(folder / image) for image in images]
    yield Problem(**_plain(record))


def check(
  path: str | os.PathLike[str], examples: bool = False, decode: bool = True
) -> list[Error]:
  """Returns all errors of a file, in the order of its lines.

  Raises:
    SophiaError: the file cannot be opened.
  """
  return [
    (line, error)
    for line, _, errors in check_records(Path(path), examples, decode)
    for error in errors
  ]


# -------------------------------------------------------------------- identity
def asked_digest(problem: Problem) -> str:
  """Returns a digest of what a model is asked: the text and the images' bytes.

  Responses under one id belong together only if it is equal. The id, the
  images' names and the gold answer are no part of it: a response stays valid
  when the answer is corrected, and is graded again.

  Raises:
    SophiaError: an image is missing or unreadable.
  """
  return _digest(problem.text, _images(problem))


def problem_digest(problem: Problem) -> str:
  """Returns a digest of what a model is asked and of what grades its answer.

  Verdicts under one id belong together only if it is equal. `difficulty`,
  `source` and `tags` are no part of it: they select and label problems.

  Raises:
    SophiaError: an image is missing or unreadable.
  """
  return _digest(
    problem.hint,
    problem.question,
    problem.choices,
    _images(problem),
    problem.answer,
    problem.accepted,
    problem.answer_type,
    [float(value) for value in problem.tolerance],
  )


def _images(problem: Problem) -> list[str]:
  return [image_digest(image) for image in problem.images]


def _digest(*parts: Any) -> str:
  # ASCII: a lone surrogate in a text survives.
  text = json.dumps(parts).encode("ascii")
  return hashlib.blake2b(text, digest_size=8).hexdigest()
