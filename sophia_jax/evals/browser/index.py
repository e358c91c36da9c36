"""A million rollouts as numpy columns: all that lists and filters need.

Segments are read once, and then only where they have grown, so a live run is
followed. Texts, tokens and log-probabilities stay on the disk.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64

from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.rollout.index import place_of, segment_and_offset
from sophia_jax.rollout.records import Outline, Record, decode, outline
from sophia_jax.types import FinishReason, SophiaError, Status

STATUSES = tuple(status.value for status in Status)
FINISHES = tuple(reason.value for reason in FinishReason)
ACCURACY = "accuracy"
MAX_PARTS = 16
"""Most reward parts that have a column."""
BATCH, FIRST = 20_000, 2_000
"""Lines that are indexed between two looks at the clock; the first time."""
_SCORER = b"scorer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """A store of a workdir, and what is known of it."""

  name: str
  """Unique name in URLs: the letter of the workdir and the store's path there,
  "a/rounds/000017"."""
  directory: Path
  stage: str = ""
  round: int = 0
  algorithm: Algorithm | None = None
  """Method of its stage; None: not known, nothing is said about selection."""
  data: Path | None = None
  """File of its problems; None: not known."""
  facts: tuple[tuple[str, str], ...] = ()
  """Settings that the method selects by: ("alpha", "0.7")."""
  rounds: bool = False
  """Whether it is one of several, and the selection sees a whole round."""

  @property
  def workdir(self) -> str:
    return self.name.partition("/")[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """The rollouts at one moment. Rows are sorted by group, then by path; a group
  is a problem in a store, and its rows are `first[g] : first[g + 1]`."""

  generation: int
  """Number of the answers and grades that are indexed."""
  places: tuple[Place, ...]
  names: tuple[tuple[str, str], ...]
  """Id and digest of the problems, by number."""
  roles: tuple[str, ...]
  paths: tuple[tuple[int, ...], ...]
  # Of each row.
  group: Int32[np.ndarray, "N"]
  path: Int32[np.ndarray, "N"]
  role: Int32[np.ndarray, "N"]
  length: Int32[np.ndarray, "N"]
  finish: Int32[np.ndarray, "N"]
  version: Int32[np.ndarray, "N"]
  """Oldest policy version of its tokens; 0: not known."""
  status: Int32[np.ndarray, "N"]
  """Index into STATUSES; -1: not graded."""
  rewards: dict[str, Float32[np.ndarray, "N"]]
  """Reward parts; NaN where a rollout has none."""
  at: Int64[np.ndarray, "N"]
  """Segment and offset of the last turn, as `rollout.index.place_of`."""
  text: Int32[np.ndarray, "N 2"]
  """First byte and end of the last turn's text in its line."""
  # Of each group.
  place: Int32[np.ndarray, "G"]
  problem: Int32[np.ndarray, "G"]
  first: Int64[np.ndarray, "G+1"]
  records: Int64[np.ndarray, "G+1"]
  """Bounds of the group's records in `record`."""
  graded: Int32[np.ndarray, "G"]
  """Number of graded rollouts."""
  mean: Float[np.ndarray, "G"]
  """Mean accuracy of the graded rollouts; NaN: none."""
  low: Float[np.ndarray, "G"]
  high: Float[np.ndarray, "G"]
  longest: Int32[np.ndarray, "G"]
  record: Int64[np.ndarray, "L"]
  """Places of all answers and grades, sorted by group."""

  @property
  def rows(self) -> int:
    return len(self.group)

  @property
  def groups(self) -> int:
    return len(self.place)

  def of_group(self, g: int) -> slice:
    """Returns the rows of a group."""
    return slice(int(self.first[g]), int(self.first[g + 1]))


class _Columns:
  """Growing columns of 64-bit numbers."""

  def __init__(self, *names: str):
    self._arrays = {name: array("q") for name in names}
    self._appends = [a.append for a in self._arrays.values()]

  def add(self, *values: int) -> None:
    for append, value in zip(self._appends, values):
      append(value)

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
  """

  def __init__(self, places: Callable[[], Sequence[Place]]):
    self._find = places
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
      for number, (place, path) in enumerate(self._segments):
        while self._advance(number, place, path):
          # Seldom enough that building tables stays a small part of the work.
          if time.monotonic() - self._built_at > 10 * self._build_s:
            self._table = self._build()
      if self._changed():
        self._table = self._build()

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
    answers, grades = self._answers.numpy(), self._grades.numpy()
    problems, paths = len(self._problems.of) or 1, len(self._paths.of) + 1
    for name, digest in list(self._problems.of)[len(self._names) :]:
      self._names.append((_plain(name), _plain(digest)))
    tails = list(self._tails.of)
    rows = _rows(answers, self._roles.of.get(_SCORER, -1))
    key = answers["place"] * problems + answers["problem"]
    cell = key * paths + answers["path"]
    of_grades = grades["place"] * problems + grades["problem"]
    group_keys, first = np.unique(key[rows], return_index=True)
    group = np.searchsorted(group_keys, key[rows]).astype(np.int32)
    status, parts = _graded(
      cell[rows], of_grades * paths + grades["path"], grades, tails
    )
    versions = np.array([_oldest(tail) for tail in tails] or [0], np.int32)
    record, bounds = _records(
      group_keys,
      np.concatenate([key, of_grades]),
      np.concatenate([answers["at"], grades["at"]]),
    )
    length = _lengths(answers, rows, cell)
    table = Table(
      generation=len(self._answers) + len(self._grades),
      places=tuple(self._places),
      names=tuple(self._names),
      roles=tuple(map(_plain, self._roles.of)),
      paths=tuple(_path(text) for text in self._paths.of),
      group=group,
      path=answers["path"][rows].astype(np.int32),
      role=answers["role"][rows].astype(np.int32),
      length=length,
      finish=answers["finish"][rows].astype(np.int32),
      version=versions[answers["tail"][rows]],
      status=status,
      rewards=parts,
      at=answers["at"][rows],
      text=np.stack([answers["start"][rows], answers["end"][rows]], 1),
      place=(group_keys // problems).astype(np.int32),
      problem=(group_keys % problems).astype(np.int32),
      first=np.append(first, len(rows)),
      records=bounds,
      record=record,
      **_summaries(group, len(group_keys), status, parts, length),
    )
    self._built_at = time.monotonic()
    self._build_s = self._built_at - start
    return table

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
        raise SophiaError(
          f"{self._segments[number][1]}: the record at byte {offset} has "
          "changed since it was indexed; start the browser again"
        )
      yield record

  def texts(
    self, table: Table, rows: Int64[np.ndarray, "N"]
  ) -> Iterator[bytes]:
    """Yields the JSON of the rows' texts, without quotes."""
    bounds = table.text[rows].tolist()
    for at, (start, end) in zip(table.at[rows].tolist(), bounds):
      number, offset = segment_and_offset(at)
      yield self._map(number, offset)[offset + start : offset + end]

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


# ------------------------------------------------------------------ the columns
def _rows(
  answers: dict[str, np.ndarray], scorer: int
) -> Int64[np.ndarray, "N"]:
  """Returns the answers that stand for a rollout, sorted by group and path: of
  each place in a tree the last turn; an absent one only where it is alone."""
  absent = answers["finish"] == FINISHES.index(FinishReason.ABSENT)
  order = np.lexsort(
    (
      answers["turn"],
      ~absent,
      answers["path"],
      answers["problem"],
      answers["place"],
    )
  )
  order = order[answers["role"][order] != scorer]
  same = np.ones(max(0, len(order) - 1), bool)
  for name in ("path", "problem", "place"):
    column = answers[name][order]
    same &= column[1:] == column[:-1]
  return order[np.append(~same, True)] if len(order) else order


def _lengths(
  answers: dict[str, np.ndarray], rows: np.ndarray, cell: np.ndarray
) -> Int32[np.ndarray, "N"]:
  """Returns the tokens of each rollout, over all of its turns."""
  lengths = answers["length"][rows]
  if answers["turn"].any():
    # Turns of one author; another role at the same place is another rollout.
    names = cell * (int(answers["role"].max()) + 1) + answers["role"]
    found, inverse = np.unique(names, return_inverse=True)
    sums = np.bincount(inverse, answers["length"], len(found))
    lengths = sums[np.searchsorted(found, names[rows])]
  return lengths.astype(np.int32)


def _graded(
  cells: Int64[np.ndarray, "N"],
  graded: Int64[np.ndarray, "L"],
  grades: dict[str, np.ndarray],
  tails: Sequence[bytes],
) -> tuple[Int32[np.ndarray, "N"], dict[str, Float32[np.ndarray, "N"]]]:
  """Returns status and reward parts of each rollout; the last grade counts.

  Args:
    cells: the place of each rollout in its group's tree, as a number.
    graded: the same of each grade.
  """
  order = np.argsort(graded, kind="stable")
  ranked = graded[order]
  at = np.searchsorted(ranked, cells, side="right") - 1
  there = at >= 0
  there[there] = ranked[at[there]] == cells[there]
  found = order[at[there]]
  status = np.full(len(cells), -1, np.int32)
  status[there] = grades["status"][found]
  parsed = {int(i): _rewards(tails[i]) for i in np.unique(grades["tail"])}
  names = sorted({n for values in parsed.values() for n in values})
  parts: dict[str, np.ndarray] = {}
  for name in dict.fromkeys([ACCURACY, *names[:MAX_PARTS]]):
    of_tail = np.full(len(tails) + 1, np.nan, np.float32)
    for i, values in parsed.items():
      of_tail[i] = values.get(name, np.nan)
    parts[name] = np.full(len(cells), np.nan, np.float32)
    parts[name][there] = of_tail[grades["tail"][found]]
  return status, parts


def _records(
  group_keys: Int64[np.ndarray, "G"],
  keys: Int64[np.ndarray, "L"],
  places: Int64[np.ndarray, "L"],
) -> tuple[Int64[np.ndarray, "L"], Int64[np.ndarray, "G+1"]]:
  """Returns the places of all records sorted by group, and each group's bounds."""
  group = np.searchsorted(group_keys, keys)
  known = group < len(group_keys)
  known[known] = group_keys[group[known]] == keys[known]
  group, places = group[known], places[known]
  order = np.argsort(group, kind="stable")
  sizes = np.bincount(group, minlength=len(group_keys))
  return places[order], np.append(0, np.cumsum(sizes))


def _summaries(
  group: np.ndarray,
  groups: int,
  status: np.ndarray,
  parts: dict[str, np.ndarray],
  length: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns the columns of the groups that summarise their rollouts."""
  value = parts[ACCURACY].astype(np.float64)
  has = (status >= 0) & np.isfinite(value)
  count = np.bincount(group[has], minlength=groups)
  total = np.bincount(group[has], value[has], groups)
  low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
  np.minimum.at(low, group[has], value[has])
  np.maximum.at(high, group[has], value[has])
  longest = np.zeros(groups, np.int32)
  np.maximum.at(longest, group, length)
  none = count == 0
  low[none] = high[none] = np.nan
  with np.errstate(invalid="ignore"):
    mean = total / np.where(none, np.nan, count)
  return {
    "graded": count.astype(np.int32),
    "mean": mean,
    "low": low,
    "high": high,
    "longest": longest,
  }


# ----------------------------------------------------------------------- values
def _plain(quoted: bytes) -> str:
  return json.loads(b'"%s"' % quoted)


def _path(text: bytes) -> tuple[int, ...]:
  return tuple(map(int, text.split(b","))) if text else ()


def _oldest(tail: bytes) -> int:
  """Returns the oldest policy version of an answer's stretches."""
  if not tail.startswith(b"["):
    return 0
  return min((int(version) for version, _ in json.loads(tail)), default=0)


def _rewards(tail: bytes) -> dict[str, float]:
  values = json.loads(tail) if tail.startswith(b"{") else {}
  return {
    name: float(value)
    for name, value in values.items()
    if isinstance(value, (int, float))
  }
