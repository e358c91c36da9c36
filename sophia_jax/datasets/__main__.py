"""Data files from the command line: check, import, decontaminate, and others.

  python -m sophia_jax.datasets check problems.jsonl
  python -m sophia_jax.datasets import --from=mathvision SRC DST.jsonl
  python -m sophia_jax.datasets decontaminate TRAIN.jsonl --against B.jsonl \\
    --out CLEAN.jsonl --report DROPPED.jsonl
  python -m sophia_jax.datasets hardest EXAMPLES.jsonl --scores A.jsonl \\
    B.jsonl --keep 5000 --out HARD.jsonl
  python -m sophia_jax.datasets keyframes VIDEOS.jsonl PROBLEMS.jsonl --fps 2
  python -m sophia_jax.datasets schema
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sophia_jax import commands
from sophia_jax.config import nearest
from sophia_jax.data.schema import check_records, json_schema, schema_of
from sophia_jax.types import SophiaError

_CHECK = "python -m sophia_jax.datasets check problems.jsonl"
_IMPORT = (
  "python -m sophia_jax.datasets import --from=mathvision "
  "MATH-V problems/mathvision.jsonl"
)
_DECONTAMINATE = (
  "python -m sophia_jax.datasets decontaminate train.jsonl --against "
  "mathvision.jsonl mathvista.jsonl --out clean.jsonl --report dropped.jsonl"
)
_HARDEST = (
  "python -m sophia_jax.datasets hardest chains.jsonl --scores "
  "small.jsonl large.jsonl --keep 5000 --out hard.jsonl"
)
_KEYFRAMES = (
  "python -m sophia_jax.datasets keyframes videos.jsonl "
  "problems/videos.jsonl --fps 2"
)


def _parser() -> commands.Parser:
  parser = commands.Parser(
    prog="python -m sophia_jax.datasets",
    description="Checks a JSONL file of problems, makes one from a data set, "
    "removes from one what overlaps a benchmark, or prints the schema.",
    example=_CHECK,
  )
  added = parser.add_subparsers(dest="command", required=True)
  _add_check(added)
  _add_import(added)
  _add_decontaminate(added)
  _add_hardest(added)
  _add_keyframes(added)
  _add_schema(added)
  return parser


def _add_check(added: Any) -> None:
  checking = added.add_parser(
    "check",
    help="print every error as FILE:LINE: what; remedy",
    example=_CHECK,
  )
  checking.add_argument("file", help="a JSONL file")
  checking.add_argument(
    "--examples",
    action="store_true",
    help="lines are questions with a response, not problems",
  )
  checking.set_defaults(run=_check)


def _add_import(added: Any) -> None:
  importing = added.add_parser(
    "import",
    help="turn a published data set into problems or examples",
    example=_IMPORT,
  )
  importing.add_argument("src", help="the data set's folder, or a file of it")
  importing.add_argument("dst", help="the JSONL file to write")
  importing.add_argument(
    "--from",
    dest="name",
    required=True,
    metavar="NAME",
    help="the data set; an unknown name lists them all",
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
    help="for --from=columns: where each key is found, a.0.b for b in the first "
    "item of a; a text in single quotes is a constant",
  )
  importing.add_argument(
    "--split",
    metavar="NAME",
    help="the split of a folder to read; by default its only one, or train",
  )
  importing.set_defaults(run=_import)


def _add_decontaminate(added: Any) -> None:
  parser = added.add_parser(
    "decontaminate",
    help="drop problems that overlap a benchmark by text, 8-word sequences or "
    "picture, and list them",
    example=_DECONTAMINATE,
  )
  add: Callable[..., Any] = parser.add_argument
  add("train", type=Path, help="a JSONL file of problems or examples")
  add("--against", type=Path, nargs="+", required=True, help="benchmarks")
  add("--out", type=Path, required=True, help="the file of what is clean")
  add("--report", type=Path, required=True, help="the file of what is dropped")
  add(
    "--keep-same-image",
    action="store_true",
    help="a benchmark's picture may stay if something else is asked about it",
  )
  add(
    "--workers",
    type=int,
    default=os.cpu_count() or 1,
    help="processes that hash images; by default one for each core",
  )
  parser.set_defaults(run=_decontaminate)


def _add_hardest(added: Any) -> None:
  parser = added.add_parser(
    "hardest",
    help="keep the examples of the highest mean perplexity",
    example=_HARDEST,
  )
  add: Callable[..., Any] = parser.add_argument
  add("examples", type=Path, help="a JSONL file of examples")
  add(
    "--scores",
    type=Path,
    nargs="+",
    required=True,
    help="outputs of launch.score for it, one of each model",
  )
  add("--keep", type=int, required=True, help="examples that stay")
  add("--out", type=Path, required=True, help="the file to write")
  parser.set_defaults(run=_hardest)


def _add_keyframes(added: Any) -> None:
  parser = added.add_parser(
    "keyframes",
    help="put the key frames of videos in their place",
    example=_KEYFRAMES,
  )
  add: Callable[..., Any] = parser.add_argument
  add("src", type=Path, help='JSONL problems with "video" instead of "images"')
  add("dst", type=Path, help="the JSONL file to write; frames go beside it")
  add("--fps", type=float, default=1.0, help="frames a second looked at")
  add("--frames", type=int, default=256, help="most frames looked at")
  add(
    "--overlap",
    type=float,
    default=0.5,
    help="overlap with the last key frame below which a frame is one",
  )
  parser.set_defaults(run=_keyframes)


def _add_schema(added: Any) -> None:
  parser = added.add_parser(
    "schema",
    help="print the JSON Schema of a line, for editors",
    example="python -m sophia_jax.datasets schema > problem.schema.json",
  )
  parser.add_argument(
    "--examples",
    action="store_true",
    help="lines are questions with a response, not problems",
  )
  parser.set_defaults(run=_schema)


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  args = _parser().parse_args(argv)
  return commands.run(lambda: args.run(args))


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
  from sophia_jax.datasets.importers.run import import_dataset

  report = import_dataset(
    args.name,
    Path(args.src),
    Path(args.dst),
    kind=args.kind,
    strict=args.strict,
    columns=_column_map(args.columns),
    split=args.split,
    say=lambda line: tqdm.write(line, file=sys.stderr),
  )
  print(f"{args.dst}: " + "\n".join(report.lines()))
  return 0


def _decontaminate(args: argparse.Namespace) -> int:
  # Hashing of pictures is only loaded where it is needed.
  from sophia_jax.datasets.decontaminate import decontaminate

  logging.basicConfig(level=logging.INFO, format="%(message)s")
  kept, dropped = decontaminate(
    args.train,
    args.against,
    args.out,
    args.report,
    args.keep_same_image,
    args.workers,
  )
  reasons = ", ".join(f"{n} by {why}" for why, n in sorted(dropped.items()))
  print(
    f"{args.out}: {kept} kept, {dropped.total()} dropped"
    f"{f' ({reasons})' if reasons else ''}; see {args.report}"
  )
  return 0


def _hardest(args: argparse.Namespace) -> int:
  from sophia_jax.datasets.perplexity import hardest

  if args.keep < 1:
    raise SophiaError(f"--keep {args.keep}: keep 1 example or more")
  kept, count = hardest(args.examples, args.scores, args.keep, args.out)
  print(f"{args.out}: {kept} of {count} examples")
  return 0


def _keyframes(args: argparse.Namespace) -> int:
  # Video libraries are only loaded where they are needed.
  from sophia_jax.datasets.keyframes import Chosen, convert
  from sophia_jax.videos.keyframes import KeyFrameConfig

  try:
    rule = KeyFrameConfig(overlap=args.overlap)
  except ValueError as e:
    raise SophiaError(f"--overlap: {e}") from None
  how = Chosen(fps=args.fps, frames=args.frames, rule=rule)
  made = convert(args.src, args.dst, how)
  print(
    f"{args.dst}: {made.problems} problems about {made.videos} videos, "
    f"{made.frames} key frames"
  )
  return 0


def _schema(args: argparse.Namespace) -> int:
  print(json.dumps(json_schema(args.examples), indent=2))
  return 0


def _column_map(text: str | None) -> dict[str, str]:
  # Readers of Parquet are only loaded where they are needed.
  from sophia_jax.datasets.importers.columns import ANSWERS

  known = {**schema_of(False), **schema_of(True)} | dict.fromkeys(ANSWERS)
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
