"""The index of the stores: which lines there are, and where.

Segments are read once, and then only where they have grown, so a live run is
followed. Texts, tokens and log-probabilities stay on the disk. A large index is
kept in a file, which the next start begins with (`saved`).
"""

from __future__ import annotations

import mmap
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from sophia_jax.evals.browser import saved
from sophia_jax.evals.browser.table import (
  FINISHES,
  STATUSES,
  Place,
  Table,
  build,
  plain,
)
from sophia_jax.rollout.index import place_of, segment_and_offset
from sophia_jax.rollout.records import Outline, Record, decode, outline
from sophia_jax.types import SophiaError

BATCH, FIRST = 20_000, 2_000
"""Lines that are indexed between two looks at the clock; the first time."""
SAVE_BYTES = 32 << 20
"""Bytes of segments from which on an index is kept in a file: less is read in no
time."""


class _Columns:
  """Growing columns of 64-bit numbers."""

  def __init__(self, *names: str):
    self._arrays = {name: array("q") for name in names}
    self._appends = [a.append for a in self._arrays.values()]

  def add(self, *values: int) -> None:
    for append, value in zip(self._appends, values):
      append(value)

  def extend(self, columns: Mapping[str, np.ndarray]) -> None:
    """Adds rows; `columns` has every column."""
    for name, own in self._arrays.items():
      own.frombytes(columns[name].astype(np.int64).tobytes())

  def __len__(self) -> int:
    return len(self._arrays["at"])

  def numpy(self) -> dict[str, np.ndarray]:
    return {
      name: np.frombuffer(a, np.int64).copy() if a else np.zeros(0, np.int64)
      for name, a in self._arrays.items()
    }


class Numbers:
  """Numbers of values, in the order in which they were first seen."""

  def __init__(self) -> None:
    self.of: dict[Any, int] = {}

  def __getitem__(self, value: Any) -> int:
    number = self.of.get(value)
    if number is None:
      number = self.of[value] = len(self.of)
    return number


class Catalogue:
  """The index of several stores; follows what is appended to them.

  One thread refreshes it; any thread may read the table that is there.

  Args:
    places: returns the stores that are there; it is called at every refresh.
    workdirs: directories that an index is kept in, by the letters of their
      stores' names.
  """

  def __init__(
    self,
    places: Callable[[], Sequence[Place]],
    workdirs: Mapping[str, Path] = {},
  ):
    self._find = places
    self._workdirs, self._looked = dict(workdirs), False
    self._kept = dict.fromkeys(workdirs, 0)
    """Bytes that the kept index of each workdir holds."""
    self._refreshing = threading.Lock()
    self._places: list[Place] = []
    self._segments: list[tuple[int, Path]] = []
    """(place, file) of every segment."""
    self._numbers: dict[Path, int] = {}
    self._ends: list[int] = []
    self._problems, self._roles, self._paths = Numbers(), Numbers(), Numbers()
    self._tails = Numbers()
    self._maps: dict[int, mmap.mmap] = {}
    self._names: list[tuple[str, str]] = []
    """Id and digest of the problems, by number."""
    self._answers = _Columns(
      "place", "problem", "path", "turn", "role", "length", "finish",
      "tail", "at", "start", "end",
    )  # fmt: skip
    self._grades = _Columns("place", "problem", "path", "status", "tail", "at")
    self._built_at = self._build_s = 0.0
    self._table = self._build()
    self.size = self.read = 0
    """Bytes of the segments, and bytes of them that are indexed."""

  @property
  def ready(self) -> bool:
    """Whether everything was indexed at the last look."""
    return self.read >= self.size

  def table(self) -> Table:
    """Returns the rollouts that are indexed."""
    return self._table

  # ----------------------------------------------------------------- refreshing
  def refresh(self) -> None:
    """Indexes what was appended since the last look."""
    with self._refreshing:
      self._look()
      if not self._looked:
        self._looked = True
        for letter in self._workdirs:
          self._begin_with(letter)
      for number, (place, path) in enumerate(self._segments):
        while self._advance(number, place, path):
          # Seldom enough that building tables stays a small part of the work.
          if time.monotonic() - self._built_at > 10 * self._build_s:
            self._table = self._build()
      if self._changed():
        self._table = self._build()
      for letter in list(self._kept):
        self._keep(letter)

  def _changed(self) -> bool:
    places, entries = len(self._table.places), len(self._table.record)
    now = len(self._answers) + len(self._grades)
    return (places, self._table.generation) != (len(self._places), now) or (
      entries > now
    )

  def _look(self) -> None:
    """Finds new stores and segments, and how long all of them are."""
    known = {place.name for place in self._places}
    for place in self._find():
      if place.name not in known:
        self._places.append(place)
    for number, place in enumerate(self._places):
      for path in sorted(place.directory.glob("*.jsonl")):
        if path not in self._numbers:
          self._numbers[path] = len(self._segments)
          self._segments.append((number, path))
          self._ends.append(0)
    self.size = sum(_size(path) for _, path in self._segments)
    self.read = sum(self._ends)

  def _advance(self, number: int, place: int, path: Path) -> bool:
    """Indexes a batch of lines of a segment; returns whether there was one."""
    most = BATCH if len(self._answers) else FIRST
    batch = list(_lines(path, self._ends[number], most))
    if not batch:
      # A last line without its end is still being written.
      self.size -= _size(path) - self._ends[number]
      return False
    for offset, line in batch:
      found = outline(line)
      if found is not None:
        self._add(place, found, place_of(number, offset))
    end = batch[-1][0] + len(batch[-1][1])
    self.read += end - self._ends[number]
    self._ends[number] = end
    return True

  def _add(self, place: int, found: Outline, at: int) -> None:
    problem, path = self._problems[found.problem], self._paths[found.path]
    tail, detail = self._tails[found.tail], found.detail.decode()
    if not found.role:
      status = STATUSES.index(detail) if detail in STATUSES else -1
      self._grades.add(place, problem, path, status, tail, at)
      return
    self._answers.add(
      place,
      problem,
      path,
      found.turn,
      self._roles[found.role],
      min(found.length, (1 << 31) - 1),
      FINISHES.index(detail) if detail in FINISHES else 0,
      tail,
      at,
      *found.text,
    )

  def _build(self) -> Table:
    start = time.monotonic()
    for name, digest in list(self._problems.of)[len(self._names) :]:
      self._names.append((plain(name), plain(digest)))
    table = build(
      self._answers.numpy(),
      self._grades.numpy(),
      places=tuple(self._places),
      names=tuple(self._names),
      roles=list(self._roles.of),
      paths=list(self._paths.of),
      tails=list(self._tails.of),
    )
    self._built_at = time.monotonic()
    self._build_s = self._built_at - start
    return table

  # ------------------------------------------------------------- the kept index
  def _of(self, letter: str) -> dict[str, int]:
    """Returns the segments of a workdir: their numbers by their paths there."""
    return {
      path.relative_to(self._workdirs[letter]).as_posix(): number
      for number, (place, path) in enumerate(self._segments)
      if self._places[place].workdir == letter
    }

  def _numbered(self) -> dict[str, Numbers]:
    """Returns the columns whose numbers stand for other values."""
    return {
      "problem": self._problems,
      "path": self._paths,
      "role": self._roles,
      "tail": self._tails,
    }

  def _begin_with(self, letter: str) -> None:
    """Takes over the kept index of a workdir, if it still holds."""
    found, own = saved.read(self._workdirs[letter]), self._of(letter)
    if found is None or not all(
      known.path in own
      and saved.same(self._segments[own[known.path]][1], known)
      for known in found.segments
    ):
      return
    now = _numbers(own[known.path] for known in found.segments)
    for number, known in zip(now.tolist(), found.segments):
      self._ends[number] = known.end
    places = _numbers(self._segments[number][0] for number in now.tolist())
    numbers = {
      name: _numbers(known[value] for value in found.values[name])
      for name, known in self._numbered().items()
    }
    for columns, mine in (
      (found.answers, self._answers),
      (found.grades, self._grades),
    ):
      segments, offsets = np.divmod(columns["at"], place_of(1, 0))
      renumbered = {
        name: numbers[name][column]
        for name, column in columns.items()
        if name in numbers
      }
      at = now[segments] * place_of(1, 0) + offsets
      place = places[segments]
      mine.extend({**columns, **renumbered, "at": at, "place": place})
    self.read = sum(self._ends)
    self._kept[letter] = sum(known.end for known in found.segments)

  def _keep(self, letter: str) -> None:
    """Writes the index of a workdir if it has grown by much."""
    own, workdir = self._of(letter), self._workdirs[letter]
    size = sum(self._ends[number] for number in own.values())
    before = self._kept[letter]
    if size - before < max(SAVE_BYTES, before // 4):
      return
    try:
      segments = [
        saved.segment(path, self._segments[number][1], self._ends[number])
        for path, number in own.items()
      ]
    except OSError:  # a round's store was removed
      return
    order = np.full(len(self._segments), -1)
    order[_numbers(own.values())] = np.arange(len(own))
    answers = _inside(self._answers.numpy(), order)
    grades = _inside(self._grades.numpy(), order)
    values = {}
    for name, known in self._numbered().items():
      tables = [t for t in (answers, grades) if name in t]
      used = np.unique(np.concatenate([t[name] for t in tables]))
      every = list(known.of)
      values[name] = [every[i] for i in used.tolist()]
      for table in tables:
        table[name] = np.searchsorted(used, table[name])
    contents = saved.Contents(segments, answers, grades, values)
    if saved.write(workdir, contents):
      self._kept[letter] = size
    else:
      del self._kept[letter]

  # -------------------------------------------------------------------- reading
  def records(self, table: Table, g: int) -> Iterator[Record]:
    """Yields the answers and grades of a group, read from the disk.

    Raises:
      SophiaError: a segment has changed since it was indexed.
    """
    for at in table.record[table.records[g] : table.records[g + 1]].tolist():
      number, offset = segment_and_offset(at)
      file = self._map(number, offset)
      record = decode(file[offset : file.find(b"\n", offset) + 1])
      if record is None:
        # The next start must not begin with what is known to be wrong.
        for workdir in self._workdirs.values():
          saved.forget(workdir)
        raise SophiaError(
          f"{self._segments[number][1]}: the record at byte {offset} has "
          "changed since it was indexed; start the browser again"
        )
      yield record

  def texts(
    self, table: Table, rows: Int64[np.ndarray, "N"]
  ) -> Iterator[bytes]:
    """Yields the JSON of the rows' texts, without quotes."""
    # The inverse of `place_of`, of all rows at once.
    numbers, offsets = np.divmod(table.at[rows], place_of(1, 0))
    starts, ends = (offsets[:, None] + table.text[rows]).T.tolist()
    for number, start, end in zip(numbers.tolist(), starts, ends):
      yield self._map(number, start)[start:end]

  def _map(self, number: int, offset: int) -> mmap.mmap:
    """Returns a segment in memory, at least to the line at `offset`."""
    file = self._maps.get(number)
    if file is None or offset >= len(file):
      path = self._segments[number][1]
      try:
        with path.open("rb") as f:
          file = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
      except (OSError, ValueError) as e:
        raise SophiaError(f"{path}: {e}; start the browser again") from None
      self._maps[number] = file
    return file


def _numbers(values: Iterable[int]) -> Int64[np.ndarray, "L"]:
  return np.array(list(values), np.int64)


def _inside(
  columns: Mapping[str, np.ndarray], order: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns the rows of some segments, without the numbers of their places.

  Args:
    order: new number of each segment; -1: left out.
  """
  segments, offsets = np.divmod(columns["at"], place_of(1, 0))
  new = order[segments]
  found = {name: c[new >= 0] for name, c in columns.items() if name != "place"}
  return {**found, "at": (new * place_of(1, 0) + offsets)[new >= 0]}


# ------------------------------------------------------------------- a segment
def _size(path: Path) -> int:
  try:
    return path.stat().st_size
  except OSError:
    return 0


def _lines(path: Path, start: int, most: int) -> Iterator[tuple[int, bytes]]:
  """Yields offset and bytes of whole lines, `most` at most."""
  try:
    with path.open("rb") as f:
      f.seek(start)
      for _ in range(most):
        line = f.readline()
        if not line.endswith(b"\n"):
          return
        yield start, line
        start += len(line)
  except OSError:  # a round's store was removed
    return
