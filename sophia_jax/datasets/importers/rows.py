"""Rows of JSONL, JSON, CSV, Parquet and Arrow files, one at a time.

Memory is bounded by one row, never by the file; for Parquet by a few times one
page, which its writer chose: with large images it may be a row group.
A broken line of JSONL or a broken row of Parquet costs only itself. Where
nothing after the damage can be trusted (a syntax error inside a .json array,
a damaged Parquet file) the import ends and nothing is written.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from sophia_jax.data.schema import numbered_lines, parse_line
from sophia_jax.datasets.importers.base import Row
from sophia_jax.types import SophiaError

MAX_VALUE = 1 << 28
"""Characters of the largest row of a .json file that is read."""

_CHUNK = 1 << 20
_BATCH = 32
_DECODER = json.JSONDecoder()

Read = tuple[str, str, Any, str]
"""Place in the file, key, value, error."""


def read_rows(files: Iterable[Path]) -> Iterator[Row]:
  """Yields the rows of files, numbered through.

  Raises:
    SophiaError: a file cannot be read at all.
  """
  number = 0
  for path in files:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
      raise SophiaError(
        f"{path}: unknown kind of file; known: {', '.join(_READERS)}"
      )
    try:
      for where, key, value, error in reader(path):
        number += 1
        yield Row(
          place=f"{path}:{where}",
          number=number,
          folder=path.parent,
          file=path.name.split(".")[0],
          value=value,
          key=key,
          error=error,
        )
    except UnicodeDecodeError:
      raise SophiaError(f"{path}: not UTF-8; save the file as UTF-8") from None
    except (pa.ArrowException, csv.Error) as e:
      what = str(e).splitlines()[0]
      raise SophiaError(
        f"{path}: cannot read this file ({what}); fetch it again"
      ) from None
    except OSError as e:
      raise SophiaError(
        f"{path}: {e.strerror or str(e)}; check the path or fetch it again"
      ) from None


def _jsonl(path: Path) -> Iterator[Read]:
  for number, line in numbered_lines(path):
    value, errors = parse_line(line)
    yield str(number), "", value, errors[0] if errors else ""


# ------------------------------------------------------------------------ JSON
class _Window:
  """Reads a JSON text piece by piece and never holds more than one value."""

  def __init__(self, path: Path, file: TextIO):
    self.path = path
    self._file = file
    self._text = ""
    self._at = 0
    # The line of the character at `_counted`: nothing is counted twice.
    self._line, self._counted = 1, 0
    self._ended = False

  def peek(self) -> str:
    """Returns the next character that is not blank, "" at the end."""
    while True:
      while self._at < len(self._text):
        if not self._text[self._at].isspace():
          return self._text[self._at]
        self._at += 1
      if self._ended:
        return ""
      self._more()

  def take(self, expected: str) -> str:
    """Takes one character of `expected`.

    Raises:
      SophiaError: another one is next.
    """
    char = self.peek()
    if not char or char not in expected:
      found = repr(char) if char else "the end of the file"
      raise self._error(f"{found} where one of {' '.join(expected)} belongs")
    self._at += 1
    return char

  def value(self) -> Any:
    """Takes one value."""
    self.peek()
    while True:
      try:
        value, end = _DECODER.raw_decode(self._text, self._at)
        if end < len(self._text) or self._ended:
          self._at = end
          return value
      except json.JSONDecodeError as e:
        # Cut by the window, or wrong? Only an error at its very end, or a
        # string without one, can be fixed by reading further.
        cut = e.msg.startswith("Unterminated") or e.pos > len(self._text) - 10
        if self._ended or not cut:
          self._at = e.pos
          raise self._error(e.msg) from None
      except ValueError as e:  # a number of thousands of digits
        raise self._error(str(e)) from None
      except RecursionError:
        raise self._error("nested too deeply") from None
      if len(self._text) - self._at > MAX_VALUE:
        raise self._error(f"a value of more than {MAX_VALUE} characters")
      self._more()

  def finish(self) -> None:
    """Checks that nothing follows.

    Raises:
      SophiaError: something does.
    """
    if char := self.peek():
      raise self._error(f"{char!r} after the end")

  def where(self) -> str:
    """Returns the line of the next value."""
    self.peek()
    return str(self._count())

  def _more(self) -> None:
    self._count()
    rest = self._text[self._at :]
    # Doubling keeps the work linear in the length of a long value.
    piece = self._file.read(max(_CHUNK, len(rest)))
    self._text, self._at, self._ended = rest + piece, 0, not piece
    self._counted = 0

  def _count(self) -> int:
    self._line += self._text.count("\n", self._counted, self._at)
    self._counted = self._at
    return self._line

  def _error(self, what: str) -> SophiaError:
    return SophiaError(
      f"{self.path}:{self._count()}: bad JSON: {what}; fix the file or fetch it again"
    )


def _json(path: Path) -> Iterator[Read]:
  """Reads an array of rows, an object of rows, or one row that is the file."""
  if _is_jsonl(path):
    yield from _jsonl(path)
    return
  with open(path, encoding="utf-8-sig") as file:
    window = _Window(path, file)
    if window.take("[{") == "[":
      yield from _array(window)
    else:
      yield from _object(window)
    window.finish()


def _is_jsonl(path: Path) -> bool:
  """Tells whether a .json file holds one object a line, as many do."""
  with open(path, "rb") as file:
    first, second = file.readline(_CHUNK), file.readline(_CHUNK)
  with contextlib.suppress(ValueError, RecursionError):
    return bool(second.strip()) and isinstance(json.loads(first), dict)
  return False


def _array(window: _Window) -> Iterator[Read]:
  if window.peek() == "]":
    window.take("]")
    return
  for i in itertools.count(1):
    where = f"{window.where()} (item {i})"
    value = window.value()
    yield where, "", *_only_object(value)
    if window.take(",]") == "]":
      return


def _object(window: _Window) -> Iterator[Read]:
  whole: dict[str, Any] = {}
  for i in itertools.count():
    if not i and window.peek() == "}":
      window.take("}")
      break
    where = window.where()
    if window.peek() != '"':
      window.take('"')
    key = window.value()
    window.take(":")
    value = window.value()
    if isinstance(value, dict) and not whole:
      yield where, key, value, ""
    else:
      whole[key] = value
    if window.take(",}") == "}":
      break
  if whole:
    yield "1", "", whole, ""


def _only_object(value: Any) -> tuple[Any, str]:
  if isinstance(value, dict):
    return value, ""
  return None, "must be an object; write {...}"


# ------------------------------------------------------- CSV, Parquet and Arrow
def _csv(path: Path) -> Iterator[Read]:
  csv.field_size_limit(MAX_VALUE)
  with open(path, encoding="utf-8-sig", newline="") as file:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    _check_names(path, reader.fieldnames or ())
    for value in reader:
      wrong = None in value or None in value.values()
      error = "has not as many fields as the first line; fix it"
      yield str(reader.line_num), "", value, error if wrong else ""


def _parquet(path: Path) -> Iterator[Read]:
  # A buffer size makes pyarrow read page by page, not whole row groups.
  with pq.ParquetFile(path, buffer_size=_CHUNK, pre_buffer=False) as file:
    _check_names(path, file.schema_arrow.names)
    yield from _batches(file.iter_batches(_BATCH, use_threads=False))


def _arrow(path: Path) -> Iterator[Read]:
  """Reads what `datasets` saves: a stream of record batches, memory-mapped."""
  with pa.memory_map(str(path)) as file:
    stream = pa.ipc.open_stream(file)
    _check_names(path, stream.schema.names)
    yield from _batches(stream)


def _check_names(path: Path, names: Sequence[str]) -> None:
  """Refuses two columns of one name: only the last would be read."""
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    raise SophiaError(
      f"{path}: has the column {twice[0]!r} twice; rename one of them"
    )


def _batches(batches: Iterable[pa.RecordBatch]) -> Iterator[Read]:
  number = 0
  for batch in batches:
    for start in range(0, len(batch), _BATCH):
      for value in _values(batch.slice(start, _BATCH)):
        number += 1
        error = "" if value else "not UTF-8; fix the row"
        yield f" row {number}", "", value, error


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
  try:
    return batch.to_pylist()
  except UnicodeDecodeError:
    if len(batch) == 1:
      return [None]
    singles = (_values(batch.slice(i, 1)) for i in range(len(batch)))
    return list(itertools.chain.from_iterable(singles))


_READERS: dict[str, Callable[[Path], Iterator[Read]]] = {
  ".jsonl": _jsonl,
  ".json": _json,
  ".csv": _csv,
  ".tsv": _csv,
  ".parquet": _parquet,
  ".arrow": _arrow,
}
