"""The append-only store of what was sampled: a directory of JSONL segments.

  store.json      {"format": 2, "meta": {...}}, written once
  <shard>.jsonl   one record a line (records.py)
  <shard>.lock    held by the one writer of that segment

W/trajectories is the store of a stage that samples once; each round of a stage
with several has a separate store, W/rounds/000017.

A line that is cut short or does not match its checksum does not count: the
writer of the segment truncates it away, everybody else leaves it out.

Durability: `append` returns after the bytes are with the operating system, so a
killed process loses nothing that it reported. They are forced to the disk at
most FSYNC_S seconds of appending later and on close: a power cut may lose that
much, and the store is whole after it.

Two records of one key can only come from two writers of one problem; the first
(by segment name, then by offset) counts.

In memory is where each record is; texts stay on the disk until they are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from sophia_jax import files
from sophia_jax.data.problems import problem_digest
from sophia_jax.rollout.index import (
  ABSENT,
  Index,
  place_of,
  segment_and_offset,
)
from sophia_jax.rollout.records import (
  Answer,
  Finished,
  Graded,
  Record,
  answer_key,
  decode,
  encode,
  grade_key,
  head,
  identity,
  scan,
)
from sophia_jax.types import Completion, Grade, Problem, SophiaError, quoted

FORMAT = 2
FSYNC_S = 10.0
HEADER = "store.json"

_SHARD = re.compile(r"[A-Za-z0-9_-]{1,64}")


def round_directory(workdir: Path, round: int) -> Path:
  """Returns where the store of a round is: W/rounds/000017."""
  return workdir / "rounds" / f"{round:06d}"


class Store:
  """Answers and grades by key, and the one way to add some. Thread-safe.

  Example: Store(workdir / "trajectories", {"recipe": [8, 8], "seed": 0})

  Args:
    path: the directory; a writer creates it.
    meta: JSON values that the records depend on. A store of other meta is
      refused. A reader may leave it out.
    shard: names the segment to write; processes that write at the same time
      take different ones.
    read_only: open what is there; `refresh` finds what was appended since.

  Raises:
    SophiaError: no store to read, other meta, another format, or the segment has
      a writer.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    meta: Mapping[str, Any] | None = None,
    *,
    shard: str = "0",
    read_only: bool = False,
  ):
    self.path = Path(path)
    self._fd = self._lock_fd = -1
    self._lock = threading.Lock()
    if not read_only:
      if not _SHARD.fullmatch(shard):
        raise SophiaError(
          f"{path}: shard {shard!r}: use letters, digits, - and _"
        )
      self.path.mkdir(parents=True, exist_ok=True)
      _write_header(self.path, meta)
    self.meta = _read_header(self.path, meta)
    self.index = Index()
    self._segments: list[Path] = []
    self._ends: list[int] = []
    """End of the last whole record of each segment."""
    self._open: dict[int, IO[bytes]] = {}
    """Segments that were read, by number."""
    if read_only:
      self.refresh()
    else:
      self._start_writing(shard)

  def _start_writing(self, shard: str) -> None:
    """Becomes the writer of a segment."""
    self._segment = self.path / f"{shard}.jsonl"
    self._lock_fd = files.claim(*_lock(self.path, shard))
    self._fd = os.open(
      self._segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666
    )
    self.refresh()
    self._number = self._segments.index(self._segment)
    os.ftruncate(self._fd, self._ends[self._number])
    self._synced_at = time.monotonic()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Forces the segment to disk and lets another writer have it."""
    with self._lock:
      for file in self._open.values():
        file.close()
      self._open.clear()
      if self._fd >= 0:
        os.fsync(self._fd)
        os.close(self._fd)
        os.close(self._lock_fd)
        self._fd = self._lock_fd = -1

  @property
  def writable(self) -> bool:
    return self._fd >= 0

  @property
  def position(self) -> int:
    """Number of answers and grades."""
    return self.index.answers + self.index.grades

  # -------------------------------------------------------------------- writing
  def append(self, *records: Answer | Graded) -> None:
    """Writes the records that are not there yet; then they cannot be lost.

    Raises:
      SophiaError: the store is read-only or closed, or the disk is full; of
        the record that did not fit nothing stays.
    """
    with self._lock:
      for record in records:
        where = record.problem_id, record.digest, record.key
        if self.index.place(*where) == ABSENT:
          self._write(record)

  def finish(self, problem_id: str, digest: str) -> None:
    """Marks a problem's group as complete; errors as for `append`."""
    with self._lock:
      if not self.index.complete(problem_id, digest):
        count = self.index.count(problem_id, digest)
        self._write(
          Finished(problem_id=problem_id, digest=digest, records=count)
        )

  def _write(self, record: Record) -> None:
    if self._fd < 0:
      raise SophiaError(f"{self.path}: not open for writing")
    line = encode(record)
    found = head(line)
    assert found is not None
    start = files.append(self._fd, line, self._segment)
    self._ends[self._number] = start + len(line)
    self.index.add(found, place_of(self._number, start))
    if time.monotonic() - self._synced_at > FSYNC_S:
      os.fsync(self._fd)
      self._synced_at = time.monotonic()

  # -------------------------------------------------------------------- reading
  def refresh(self) -> None:
    """Finds what other processes have appended since the last look."""
    with self._lock:
      for segment in sorted(self.path.glob("*.jsonl")):
        if segment not in self._segments:
          self._segments.append(segment)
          self._ends.append(0)
        number = self._segments.index(segment)
        for found, first, end in scan(segment, self._ends[number]):
          self.index.add(found, place_of(number, first))
          self._ends[number] = end

  def answer(
    self,
    problem_id: str,
    digest: str,
    path: tuple[int, ...],
    turn: int = 0,
    role: str = "policy",
  ) -> Answer | None:
    """Returns a stored answer, read from the disk.

    Raises:
      SophiaError: the segment has changed since it was opened.
    """
    found = self._read(problem_id, digest, answer_key(path, turn, role))
    return found if isinstance(found, Answer) else None

  def grade(
    self,
    problem_id: str,
    digest: str,
    path: tuple[int, ...],
    completion: Completion,
  ) -> Grade | None:
    """Returns the stored grade of an answer; errors as for `answer`."""
    found = self._read(
      problem_id, digest, grade_key(path, identity(completion))
    )
    return found.grade if isinstance(found, Graded) else None

  def complete(self, problem: Problem) -> bool:
    """Returns whether all records of the problem's group are there.

    Raises:
      SophiaError: an image of the problem cannot be read.
    """
    return self.index.complete(problem.id, problem_digest(problem))

  def _read(self, problem_id: str, digest: str, key: int) -> Record | None:
    place = self.index.place(problem_id, digest, key)
    if place == ABSENT:
      return None
    number, offset = segment_and_offset(place)
    with self._lock:
      if number not in self._open:
        self._open[number] = self._segments[number].open("rb")
      file = self._open[number]
      file.seek(offset)
      record = decode(file.readline())
    if (
      record is None
      or isinstance(record, Finished)
      or (record.problem_id, record.digest, record.key)
      != (problem_id, digest, key)
    ):
      raise SophiaError(
        f"{self._segments[number]}: the record at byte {offset} has changed "
        "since the store was opened; run the command again"
      )
    return record


# ---------------------------------------------------------------------- header
def _read_header(path: Path, meta: Mapping[str, Any] | None) -> dict[str, Any]:
  header = path / HEADER
  try:
    found = json.loads(header.read_bytes())
  except FileNotFoundError:
    raise SophiaError(
      f"{header}: no store here; run launch.sample first"
    ) from None
  except OSError as e:
    raise SophiaError(f"{header}: {e.strerror}; remove the store") from e
  except (ValueError, RecursionError) as e:
    why = str(e)[:100]
    raise SophiaError(f"{header}: not JSON ({why}); remove the store") from e
  if not isinstance(found, dict) or found.get("format") != FORMAT:
    raise SophiaError(
      f"{header}: not a store of format {FORMAT}; sample into a new workdir"
    )
  stored = found.get("meta")
  if not isinstance(stored, dict):
    raise SophiaError(f"{header}: it has no meta; remove the store")
  if meta is None:
    return stored
  wanted = json.loads(json.dumps(dict(meta)))
  for key in sorted(stored.keys() | wanted.keys()):
    if not _agrees(stored.get(key), wanted.get(key)):
      name, was, now = _leaf(key, stored.get(key), wanted.get(key))
      raise SophiaError(
        f"{header}: made with {name}={quoted(was, 200)}, not "
        f"{quoted(now, 200)}; use that value or another workdir"
      )
  return stored


def _leaf(key: str, stored: Any, wanted: Any) -> tuple[str, Any, Any]:
  """Returns the first value inside two that do not agree, with its whole key."""
  while isinstance(stored, dict) and isinstance(wanted, dict):
    first = next(
      k for k in wanted if k not in stored or not _agrees(stored[k], wanted[k])
    )
    key, stored, wanted = f"{key}.{first}", stored.get(first), wanted[first]
  return key, stored, wanted


def _agrees(stored: Any, wanted: Any) -> bool:
  """Returns whether a store has every value that is wanted; it may have more."""
  if isinstance(stored, dict) and isinstance(wanted, dict):
    return all(
      key in stored and _agrees(stored[key], value)
      for key, value in wanted.items()
    )
  return stored == wanted


def check_header(path: Path, meta: Mapping[str, Any]) -> None:
  """Refuses a store of other meta, before anything is written; none is fine.

  Raises:
    SophiaError: names what differs.
  """
  if (path / HEADER).exists():
    _read_header(path, meta)


def check_free(path: Path, shard: str) -> None:
  """Refuses a segment that another process writes, before anything is written.

  Raises:
    SophiaError: names that process.
  """
  files.check_free(*_lock(path, shard))


def _lock(path: Path, shard: str) -> tuple[Path, str, str]:
  """Returns the lock of a segment: its path, subject and remedy."""
  lock = path / f"{shard}.lock"
  return lock, f"shard {shard!r}", "stop it or use another shard"


def _write_header(path: Path, meta: Mapping[str, Any] | None) -> None:
  """Creates the header unless there is one; the first of many writers wins."""
  header = path / HEADER
  if not header.exists():
    if meta is None:
      raise SophiaError(f"{header}: a new store needs meta")
    partial = path / f".header-{secrets.token_hex(4)}"
    files.write_json(partial, {"format": FORMAT, "meta": dict(meta)})
    try:
      with contextlib.suppress(FileExistsError):
        os.link(partial, header)
    finally:
      partial.unlink(missing_ok=True)
