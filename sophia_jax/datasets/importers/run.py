"""Runs an importer: rows in, a checked JSONL out, every row accounted for."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sophia_jax.data.schema import record_errors, schema_of
from sophia_jax.datasets.importers import find_importer
from sophia_jax.datasets.importers.base import (
  Broken,
  Context,
  Importer,
  Record,
  Row,
  Skip,
)
from sophia_jax.datasets.importers.files import select_files
from sophia_jax.datasets.importers.media import Media
from sophia_jax.datasets.importers.rows import read_rows
from sophia_jax.datasets.sources import EVALUATION_SOURCES, is_aime_2024
from sophia_jax.files import write_jsonl
from sophia_jax.types import Problem, SophiaError, quoted

MAX_SHOWN = 300
"""Characters of an error that are printed."""
MAX_LISTED = 1000
"""Broken rows that are listed one by one; the others are only counted."""
MAX_FILES = 8
"""Files of a data set that the summary names."""


@dataclasses.dataclass(kw_only=True)
class Report:
  """Counts what became of the rows.

  Example: Report(source="math", kind="problems", written=7499,
    skipped={"no final answer": 1})
  """

  source: str
  kind: str
  written: int = 0
  broken: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  skipped: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  notes: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  files: tuple[str, ...] = ()
  """Files that were read, relative to SRC; none where SRC is the file."""

  def lines(self) -> list[str]:
    """Returns a summary to print: one count a line."""
    use = "evaluation only" if self.evaluation else "training"
    out = [f"{self.written} {self.kind} of {self.source} ({use})"]
    if len(self.files) > 1:
      shown = ", ".join(self.files[:MAX_FILES])
      more = ", ..." if len(self.files) > MAX_FILES else ""
      out.append(f"  read: {len(self.files)} files ({shown}{more})")
    for what, counter in (
      ("broken", self.broken),
      ("left out", self.skipped),
      ("noted", self.notes),
    ):
      out += [f"  {what}: {n} {why}" for why, n in counter.most_common()]
    return out

  @property
  def evaluation(self) -> bool:
    return self.source in EVALUATION_SOURCES


def import_dataset(
  name: str,
  src: Path,
  dst: Path,
  *,
  kind: str | None = None,
  strict: bool = False,
  columns: Mapping[str, str] | None = None,
  split: str | None = None,
  say: Callable[[str], None] = print,
) -> Report:
  """Writes the data set at `src` to the JSONL `dst`, all of it or nothing.

  Args:
    name: a key of IMPORTERS.
    src: the data set's folder, or one of its files.
    dst: the JSONL; images that come inside data files lie beside it.
    kind: "problems" or "examples"; by default what the set is for.
    strict: whether one broken row is enough to write nothing.
    columns: the column map of the importer `columns`.
    split: the split to read; by default the only one, or that for training.
    say: takes the lines that list broken rows.

  Raises:
    SophiaError: unreadable, no row can be used, one is broken and `strict`, or
      the split to read is not clear.
  """
  importer = find_importer(name)
  kind = kind or _default_kind(importer, columns or {})
  if kind not in importer.kinds:
    raise SophiaError(
      f"--from={name}: gives {' or '.join(importer.kinds)}, not {kind}; "
      "choose with --as"
    )
  if src.is_file() and dst.resolve() == src.resolve():
    raise SophiaError(f"{dst}: is the data set itself; write to another file")
  source = importer.source or re.sub(r"\W+", "_", src.absolute().stem).lower()
  report = Report(source=source, kind=kind)
  with Media(dst) as media:
    root = src if src.is_dir() else src.parent
    at = Context(root, media, columns or {}, split)
    records = _records(importer, src, at, report, say)
    write_jsonl(dst, _all_or_nothing(records, src, report, strict, media))
  report.notes.update(at.notes)
  return report


def read_answers(
  name: str, src: Path, say: Callable[[str], None] = print
) -> Iterator[Problem]:
  """Yields a data set's problems without images: enough to judge answers.

  Nothing is written, and the images need not be there.

  Args and errors as for `import_dataset`.
  """
  importer = find_importer(name)
  report = Report(source=importer.source, kind="problems")
  root = src if src.is_dir() else src.parent
  media = Media(root / "unseen")
  records = _records(importer, src, _Unseen(root, media, {}), report, say)
  for record in _all_or_nothing(records, src, report, False, media):
    values: dict[str, Any] = {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in record.items()
    }
    yield Problem(**{**values, "images": ()})


class _Unseen(Context):
  """Takes every image as present and looks at none."""

  def image(self, value: Any, *folders: str) -> str:
    return "unseen.png"

  def frames(self, value: Any, count: int, *folders: str) -> list[str]:
    return ["unseen.png"]


def _default_kind(importer: Importer, columns: Mapping[str, str]) -> str:
  return "examples" if "response" in columns else importer.kinds[0]


def _all_or_nothing(
  records: Iterator[Record],
  src: Path,
  report: Report,
  strict: bool,
  media: Media,
) -> Iterator[Record]:
  """Yields the records; a failure comes before the file gets its name."""
  for record in records:
    report.written += 1
    yield record
  count = report.broken.total()
  if strict and count:
    raise SophiaError(
      f"{src}: {count} broken rows, so nothing was written; fix them or "
      "leave out --strict"
    )
  if not report.written:
    why = ", ".join(reason for reason, _ in report.skipped.most_common(3))
    raise SophiaError(
      f"{src}: no row can be used ({count} broken, {report.skipped.total()} "
      f"left out{why and ': '}{why}); is it this data set?"
    )
  media.commit()


def _records(
  importer: Importer,
  src: Path,
  at: Context,
  report: Report,
  say: Callable[[str], None],
) -> Iterator[Record]:
  rows = _rows(importer, src, at, report)
  taken: set[int] = set()
  # No bar where standard error is not a terminal.
  for row in tqdm(rows, unit=" rows", disable=None):
    at.row = row
    try:
      record = _record(importer, row, at, report)
      # Hashes: millions of names take a lot of room.
      name = hash(record["id"])
      if name in taken:
        raise Broken(
          f"id {quoted(record['id'])} is taken; give each row its own"
        )
      taken.add(name)
      yield record
    except Skip as e:
      report.skipped[str(e)] += 1
    except Broken as e:
      if report.broken.total() < MAX_LISTED:
        say(f"{row.place}: {_shown(str(e))}")
      report.broken[_reason(str(e))] += 1


def _rows(
  importer: Importer, src: Path, at: Context, report: Report
) -> Iterator[Row]:
  if importer.rows is not None:
    return importer.rows(src)
  if at.split is not None and importer.source and src.is_file():
    raise SophiaError(f"{src}: --split is for a folder; leave it out")
  training = not report.evaluation
  files = select_files(src, importer.files, at.split, training, at.notes)
  # What an earlier import wrote into SRC is no part of it.
  files = [path for path in files if path.resolve() != at.written.resolve()]
  if src.is_dir():
    report.files = tuple(path.relative_to(src).as_posix() for path in files)
  return read_rows(files)


def _record(
  importer: Importer, row: Row, at: Context, report: Report
) -> Record:
  if row.error:
    raise Broken(row.error)
  examples = report.kind == "examples"
  schema = schema_of(examples)
  made = importer.convert(row.value, at)
  made.setdefault("source", report.source)
  made["id"] = f"{report.source}/{made.get('id') or row.number}"
  if not examples and made.get("answer") in (None, ""):
    raise Skip("no final answer")
  # Data sets write None, [] or {} where there is none.
  record = {
    key: made[key] for key in schema if made.get(key) not in (None, [], {})
  }
  if errors := record_errors(record, examples):
    raise Broken(errors[0])
  if not report.evaluation and is_aime_2024(record["question"]):
    raise Skip("AIME 2024")
  return record


def _shown(error: str) -> str:
  """Returns an error made safe to print, quotes of the row included."""
  line = "".join(c if c.isprintable() else "?" for c in error[:MAX_SHOWN])
  return f"{line}..." if len(error) > MAX_SHOWN else line


def _reason(error: str) -> str:
  """Returns an error without the details of its row, to count under."""
  error = _shown(error)
  return re.sub(r"\d+", "N", re.split(r"[;:,'\"/]", error)[0]).strip()
