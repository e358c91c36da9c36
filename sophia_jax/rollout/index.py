"""Where every record of a store is: 20 bytes a trajectory, and no text."""

from __future__ import annotations

import collections
from array import array
from collections.abc import Iterator

from sophia_jax.rollout.records import Head
from sophia_jax.types import Status

ABSENT = -1
_OFFSET_BITS = 44  # segments of up to 16 TiB


def place_of(segment: int, offset: int) -> int:
  """A segment's number and the byte its line begins at, as one number."""
  return segment << _OFFSET_BITS | offset


def segment_and_offset(place: int) -> tuple[int, int]:
  return place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1


class _Row:
  """The places of one problem's records."""

  __slots__ = ("captions", "crcs", "texts", "verdicts")

  def __init__(self, captions: int, trajectories: int):
    self.captions = array("q", (ABSENT,)) * captions
    self.texts = array("q", (ABSENT,)) * trajectories
    self.verdicts = array("q", (ABSENT,)) * trajectories
    self.crcs = array("I", (0,)) * trajectories


class Index:
  """Places by (problem, k) and (problem, k, n), for k < K and n < N.

  The first record of a key counts. A verdict counts once the reasoning that it
  is of is there, in whichever order the two are found.
  """

  def __init__(self, captions: int, trajectories: int):
    self.k, self.n = captions, trajectories
    self.captions = self.reasonings = 0
    self.statuses: collections.Counter[str] = collections.Counter(
      {status.value: 0 for status in Status}
    )
    self._rows: dict[str, _Row] = {}
    self._early: dict[tuple[str, int, int, int], tuple[int, str]] = {}

  @property
  def trajectories(self) -> int:
    """How many are verified."""
    return sum(self.statuses.values())

  def holds(self, k: int, n: int | None) -> bool:
    """Whether a store of this K and N has room for (k, n)."""
    return 0 <= k < self.k and (n is None or 0 <= n < self.n)

  def add(self, head: Head, place: int) -> None:
    """Takes note of one line, unless its key is taken."""
    if not self.holds(head.k, head.n):
      return
    row = self._rows.get(head.problem_id)
    if row is None:
      row = self._rows[head.problem_id] = _Row(self.k, self.k * self.n)
    if head.n is None:
      if row.captions[head.k] == ABSENT:
        row.captions[head.k] = place
        self.captions += 1
      return
    if head.text:
      self._add_text(row, head, place)
    if head.status is not None:
      self._add_verdict(row, head, place, head.status)

  def _add_text(self, row: _Row, head: Head, place: int) -> None:
    assert head.n is not None
    at = head.k * self.n + head.n
    if row.texts[at] != ABSENT:
      return
    row.texts[at], row.crcs[at] = place, head.crc
    self.reasonings += 1
    key = head.problem_id, head.k, head.n, head.crc
    if key in self._early:
      self._add_verdict(row, head, *self._early.pop(key))

  def _add_verdict(
    self, row: _Row, head: Head, place: int, status: str
  ) -> None:
    assert head.n is not None
    at = head.k * self.n + head.n
    if row.texts[at] == ABSENT:
      key = head.problem_id, head.k, head.n, head.crc
      self._early.setdefault(key, (place, status))
    elif row.crcs[at] == head.crc and row.verdicts[at] == ABSENT:
      row.verdicts[at] = place
      self.statuses[status] += 1

  # --------------------------------------------------------------------- asking
  def caption(self, problem_id: str, k: int) -> int:
    """Its place, or ABSENT."""
    row = self._rows.get(problem_id)
    if row is None or not self.holds(k, None):
      return ABSENT
    return row.captions[k]

  def reasoning(self, problem_id: str, k: int, n: int) -> tuple[int, int, int]:
    """Places of its text and of its verdict, each perhaps ABSENT; its crc."""
    row = self._rows.get(problem_id)
    if row is None or not self.holds(k, n):
      return ABSENT, ABSENT, 0
    at = k * self.n + n
    return row.texts[at], row.verdicts[at], row.crcs[at]

  def caption_keys(self) -> Iterator[tuple[str, int]]:
    for name, row in self._rows.items():
      yield from ((name, k) for k, p in enumerate(row.captions) if p != ABSENT)

  def trajectory_keys(self) -> Iterator[tuple[str, int, int]]:
    """Of those that are verified."""
    for name, row in self._rows.items():
      for at, place in enumerate(row.verdicts):
        if place != ABSENT:
          yield name, *divmod(at, self.n)

  def unverified(self, problem_id: str) -> Iterator[tuple[int, int]]:
    """(k, n) of the problem's reasonings that have no verdict."""
    row = self._rows.get(problem_id)
    for at, place in enumerate(row.texts if row else ()):
      if place != ABSENT and row and row.verdicts[at] == ABSENT:
        yield divmod(at, self.n)

  def count(self, problem_id: str) -> int:
    """How many verified trajectories the problem has."""
    row = self._rows.get(problem_id)
    return 0 if row is None else len(row.verdicts) - row.verdicts.count(ABSENT)

  def complete(self, problem_id: str) -> bool:
    """Whether its K captions and K N verified trajectories are all there."""
    row = self._rows.get(problem_id)
    return row is not None and not (
      ABSENT in row.captions or ABSENT in row.verdicts
    )
