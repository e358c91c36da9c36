"""The append-only store of what was sampled: a directory of JSONL segments.

  store.json      {"format": 1, "meta": {...}}, written once
  <shard>.jsonl   one record a line (records.py)
  <shard>.lock    held by the one writer of that segment

A line that is cut short or does not match its checksum is not there: the writer
of the segment truncates it away, everybody else passes over it.

Durability: `append` returns after the bytes are with the operating system, so a
killed process loses nothing that it reported. They are forced to the disk at
most FSYNC_S seconds of appending later and on close: a power cut may lose that
much, and the store is whole after it.

Two records of one key can only come from two writers of one problem; the first
(by segment name, then by place) counts.

In memory is where each record is; texts stay on the disk until asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeGuard

from sophia_jax.rollout.index import (
  ABSENT,
  Index,
  place_of,
  segment_and_offset,
)
from sophia_jax.rollout.records import (
  Judgement,
  Reasoning,
  Record,
  decode,
  encode,
  head,
  scan,
)
from sophia_jax.types import (
  Caption,
  CaptionTree,
  Problem,
  SophiaError,
  Trajectory,
  Verdict,
)

FORMAT = 1
FSYNC_S = 10.0
HEADER = "store.json"

_SHARD = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Store:
  """Captions and trajectories by key, and the one way to add some. Thread-safe.

  Example: Store(workdir / "trajectories", {"K": 8, "N": 8, "seed": 0})

  Args:
    path: the directory; a writer creates it.
    meta: what the records depend on (JSON values; K and N among them). Opening
      a store of other meta is refused. A reader may leave it out.
    shard: names the segment to write; processes that write at the same time
      take different ones.
    read_only: open what is there; `refresh` sees what was appended since.

  Raises:
    SophiaError: no store to read, other meta, or the segment has a writer.
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
    self.index = Index(self.meta["K"], self.meta["N"])
    self.captions = Captions(self)
    self.trajectories = Trajectories(self)
    self._segments: list[Path] = []
    self._ends: list[int] = []
    """Of each segment: where the last whole record ends."""
    if read_only:
      self.refresh()
    else:
      self._open(shard)

  def _open(self, shard: str) -> None:
    """Becomes the writer of a segment."""
    self._segment = self.path / f"{shard}.jsonl"
    self._lock_fd = _lock(self.path / f"{shard}.lock", shard)
    self._fd = os.open(
      self._segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
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
      if self._fd >= 0:
        os.fsync(self._fd)
        os.close(self._fd)
        os.close(self._lock_fd)
        self._fd = self._lock_fd = -1

  @property
  def position(self) -> int:
    """How many captions and trajectories there are."""
    return len(self.captions) + len(self.trajectories)

  # -------------------------------------------------------------------- writing
  def append(self, *records: Caption | Reasoning | Trajectory) -> None:
    """Writes the records that are not there yet; then they cannot be lost.

    Raises:
      SophiaError: the store is read-only or closed, or the disk is full; of
        the record that did not fit nothing stays.
      ValueError: a record of k >= K or n >= N.
    """
    with self._lock:
      for record in records:
        n = None if isinstance(record, Caption) else record.n
        if not self.holds(record.problem_id, record.k, n):
          self._write(record)

  def judge(self, reasoning: Reasoning, verdict: Verdict) -> Trajectory:
    """Writes the verdict on a stored reasoning; errors as for `append`."""
    key = reasoning.problem_id, reasoning.k, reasoning.n
    with self._lock:
      text, known, crc = self.index.reasoning(*key)
      assert text != ABSENT, f"{reasoning.id} is not stored"
      if known == ABSENT:
        self._write(
          Judgement(
            problem_id=key[0], k=key[1], n=key[2], of=crc, verdict=verdict
          )
        )
    return reasoning.judged(verdict)

  def _write(self, record: Record) -> None:
    if self._fd < 0:
      raise SophiaError(f"{self.path}: not open for writing")
    line = encode(record)
    found, start = head(line), os.fstat(self._fd).st_size
    assert found is not None
    if not self.index.holds(found.k, found.n):
      raise ValueError(f"{record}: not of {self.index.k} x {self.index.n}")
    try:
      rest = memoryview(line)
      while rest:
        rest = rest[os.write(self._fd, rest) :]
    except OSError as e:
      os.ftruncate(self._fd, start)
      raise SophiaError(f"{self._segment}: {e.strerror}; free the disk") from e
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

  def read(self, place: int) -> Record:
    """The record at a place of the index.

    Raises:
      SophiaError: the segment was changed under our eyes.
    """
    number, offset = segment_and_offset(place)
    with self._segments[number].open("rb") as f:
      f.seek(offset)
      record = decode(f.readline())
    if record is None:
      raise SophiaError(
        f"{self._segments[number]}: the record at byte {offset} is damaged "
        "since it was opened; run the command again"
      )
    return record

  def holds(self, problem_id: str, k: int, n: int | None = None) -> bool:
    """Whether the k-th caption is stored, or the n-th reasoning on it, verified
    or not."""
    if n is None:
      return self.index.caption(problem_id, k) != ABSENT
    return self.index.reasoning(problem_id, k, n)[0] != ABSENT

  def unverified(self, problem_id: str) -> Iterator[Reasoning]:
    """The problem's reasonings whose verdict is not stored."""
    for k, n in self.index.unverified(problem_id):
      found = self.read(self.index.reasoning(problem_id, k, n)[0])
      assert isinstance(found, Reasoning)
      yield found

  def groups(self, problems: Iterable[Problem]) -> Iterator[CaptionTree]:
    """The groups of those `problems` whose K captions and K N trajectories are
    all there, in the order of `problems`, one in memory at a time."""
    ks, ns = range(self.index.k), range(self.index.n)
    for problem in problems:
      if self.index.complete(problem.id):
        yield CaptionTree(
          problem=problem,
          captions=tuple(self.captions[problem.id, k] for k in ks),
          trajectories=tuple(
            tuple(self.trajectories[problem.id, k, n] for n in ns) for k in ks
          ),
        )


class Captions(Mapping[tuple[str, int], Caption]):
  """(problem id, k) -> the caption, read from the disk at every look."""

  def __init__(self, store: Store):
    self._store = store

  def __len__(self) -> int:
    return self._store.index.captions

  def __iter__(self) -> Iterator[tuple[str, int]]:
    return self._store.index.caption_keys()

  def __contains__(self, key: Any) -> bool:
    return self._store.index.caption(*key) != ABSENT

  def __getitem__(self, key: tuple[str, int]) -> Caption:
    place = self._store.index.caption(*key)
    if place == ABSENT:
      raise KeyError(key)
    found = self._store.read(place)
    assert isinstance(found, Caption)
    return found


class Trajectories(Mapping[tuple[str, int, int], Trajectory]):
  """(problem id, k, n) -> the verified trajectory, read likewise."""

  def __init__(self, store: Store):
    self._store = store

  def __len__(self) -> int:
    return self._store.index.trajectories

  def __iter__(self) -> Iterator[tuple[str, int, int]]:
    return self._store.index.trajectory_keys()

  def __contains__(self, key: Any) -> bool:
    return self._store.index.reasoning(*key)[1] != ABSENT

  def __getitem__(self, key: tuple[str, int, int]) -> Trajectory:
    text, verdict, _ = self._store.index.reasoning(*key)
    if verdict == ABSENT:
      raise KeyError(key)
    found = self._store.read(text)
    if isinstance(found, Trajectory):
      return found
    judged = self._store.read(verdict)
    assert isinstance(found, Reasoning) and isinstance(judged, Judgement)
    return found.judged(judged.verdict)


# -------------------------------------------------------------- header and lock
def _read_header(path: Path, meta: Mapping[str, Any] | None) -> dict[str, Any]:
  header = path / HEADER
  try:
    found = json.loads(header.read_bytes())
  except FileNotFoundError:
    raise SophiaError(
      f"{header}: no store here; run launch.sample first"
    ) from None
  except ValueError as e:
    raise SophiaError(f"{header}: not JSON ({e}); remove the store") from e
  if not isinstance(found, dict) or found.get("format") != FORMAT:
    raise SophiaError(
      f"{header}: not a store of format {FORMAT}; sample into a new directory"
    )
  stored = found.get("meta")
  if not _has_shape(stored):
    raise SophiaError(f"{header}: its meta has no K and N; remove the store")
  if meta is None:
    return stored
  wanted = json.loads(json.dumps(dict(meta)))
  for key in sorted(stored.keys() | wanted.keys()):
    if stored.get(key) != wanted.get(key):
      raise SophiaError(
        f"{header}: made with {key}={stored.get(key)!r}, not "
        f"{wanted.get(key)!r}; use that value or another workdir"
      )
  return stored


def _has_shape(meta: Any) -> TypeGuard[dict[str, Any]]:
  return isinstance(meta, Mapping) and all(
    isinstance(meta.get(k), int) and meta[k] > 0 for k in ("K", "N")
  )


def _write_header(path: Path, meta: Mapping[str, Any] | None) -> None:
  """Creates the header unless there is one; the first of many writers wins."""
  header = path / HEADER
  if not header.exists():
    if not _has_shape(meta):
      raise SophiaError(f"{header}: a new store needs meta with K and N")
    with tempfile.NamedTemporaryFile("w", dir=path, prefix=".header-") as f:
      json.dump({"format": FORMAT, "meta": dict(meta)}, f, indent=1)
      f.flush()
      os.fsync(f.fileno())
      with contextlib.suppress(FileExistsError):
        os.link(f.name, header)


def _lock(path: Path, shard: str) -> int:
  fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.read(fd, 32).decode(errors="replace").strip()
    os.close(fd)
    raise SophiaError(
      f"{path}: process {holder or '?'} is writing shard {shard!r}; stop it or "
      "use another shard"
    ) from None
  os.ftruncate(fd, 0)
  os.write(fd, str(os.getpid()).encode())
  return fd
