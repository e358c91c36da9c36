"""Problems and examples as JSONL: one schema, one set of checks.

  {"id": "mv-17", "images": ["17.jpg"], "question": "How many?", "answer": "6"}

Image paths are relative to the file. Loading stops at the first error; the
check lists all of them and decodes every image:

  python -m sophia_jax.data.problems check problems.jsonl

Other data sets are brought into this form by sophia_jax.data.importers:

  python -m sophia_jax.data.problems import --from=mathvision SRC DST.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sophia_jax.config import nearest
from sophia_jax.data.schema import (
  ANSWER_TYPES,
  check_records,
  numbered_lines,
  parse_line,
  record_errors,
  schema_of,
  write_jsonl,
)
from sophia_jax.types import Example, Problem, SophiaError

__all__ = [
  "ANSWER_TYPES",
  "ProblemFile",
  "check",
  "load_examples",
  "load_problems",
  "read_problems",
  "write_jsonl",
]

Error = tuple[int, str]
"""Line from 1, and "what; remedy"."""

_CHECK = "example: python -m sophia_jax.data.problems check problems.jsonl"
_IMPORT = (
  "example: python -m sophia_jax.data.problems import --from=mathvision "
  "MATH-V problems/mathvision.jsonl"
)


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


# ---------------------------------------------------------------- command line
def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sophia_jax.data.problems",
    description="Checks a JSONL file of problems, or makes one of a data set.",
    epilog=_CHECK,
  )
  commands = parser.add_subparsers(dest="command", required=True)
  checking = commands.add_parser(
    "check",
    help="print every error as FILE:LINE: what; remedy",
    epilog=_CHECK,
  )
  checking.add_argument("file", help="a JSONL file")
  checking.add_argument(
    "--examples",
    action="store_true",
    help="lines are questions with a response, not problems",
  )
  importing = commands.add_parser(
    "import",
    help="turn a published data set into problems or examples",
    epilog=_IMPORT,
  )
  importing.add_argument("src", help="the data set's folder, or a file of it")
  importing.add_argument("dst", help="the JSONL file to write")
  importing.add_argument(
    "--from",
    dest="name",
    required=True,
    metavar="NAME",
    help="the data set; a name that is none lists them all",
  )
  importing.add_argument(
    "--as",
    dest="kind",
    choices=("problems", "examples"),
    help="what to make of it; by default what the data set is for",
  )
  importing.add_argument(
    "--strict",
    action="store_true",
    help="write nothing if a row is broken",
  )
  importing.add_argument(
    "--columns",
    metavar="KEY=COLUMN,...",
    help="for --from=columns: where each key is found, a.b for b inside a",
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """The command line; returns the exit code."""
  args = _parser().parse_args(argv)
  try:
    return _check(args) if args.command == "check" else _import(args)
  except SophiaError as e:
    print(f"error: {e}", file=sys.stderr)
    return 1


def _check(args: argparse.Namespace) -> int:
  lines, failed, images = 0, 0, 0
  records = check_records(Path(args.file), args.examples)
  # No bar where standard error is not a terminal.
  for line, record, errors in tqdm(records, unit=" lines", disable=None):
    lines += 1
    failed += len(errors)
    images += len(record.get("images") or ())
    for error in errors:
      tqdm.write(f"{args.file}:{line}: {error}")
  if failed:
    print(f"error: {args.file}: {failed} errors", file=sys.stderr)
    return 1
  kind = "examples" if args.examples else "problems"
  print(f"{args.file}: {lines} {kind}, {images} images, no errors")
  return 0


def _import(args: argparse.Namespace) -> int:
  # Readers of Parquet are only loaded where they are needed.
  from sophia_jax.data.importers.run import import_dataset

  report = import_dataset(
    args.name,
    Path(args.src),
    Path(args.dst),
    kind=args.kind,
    strict=args.strict,
    columns=_column_map(args.columns),
    say=lambda line: tqdm.write(line, file=sys.stderr),
  )
  print(f"{args.dst}: " + "\n".join(report.lines()))
  return 0


def _column_map(text: str | None) -> dict[str, str]:
  known = {**schema_of(False), **schema_of(True)}
  columns = {}
  for pair in (text or "").split(",") if text else ():
    key, equals, column = (part.strip() for part in pair.partition("="))
    if not (equals and column):
      raise SophiaError(
        f"--columns: {pair!r} is no KEY=COLUMN; for example "
        "question=problem,answer=final_answer"
      )
    if key not in known:
      raise SophiaError(
        f"--columns: no such key {key!r}; {nearest(key, known)}"
      )
    columns[key] = column
  return columns


if __name__ == "__main__":
  sys.exit(main())
