"""Where every record of a store is: 16 bytes a record, and no text."""

from __future__ import annotations

import collections
from array import array

from sophia_jax.rollout.records import Head
from sophia_jax.types import Status

ABSENT = -1
_OFFSET_BITS = 44  # segments of up to 16 TiB


def place_of(segment: int, offset: int) -> int:
  """Returns a segment's number and the byte of a line as one number."""
  return segment << _OFFSET_BITS | offset


def segment_and_offset(place: int) -> tuple[int, int]:
  """Returns the two numbers that `place_of` joined."""
  return place >> _OFFSET_BITS, place & (1 << _OFFSET_BITS) - 1


class _Row:
  """The records of one problem; keys[i] is at places[i]."""

  __slots__ = ("finished", "keys", "places")

  def __init__(self) -> None:
    self.keys = array("Q")
    self.places = array("q")
    self.finished = ABSENT
    """Number of records of the complete group."""


class Index:
  """Places of records by problem and key; the first record of a key counts.

  A problem is its id and the digest of its content: the records of a problem
  that was reworded under its id are those of another problem.
  """

  def __init__(self) -> None:
    self.answers = 0
    self.statuses: collections.Counter[str] = collections.Counter(
      {status.value: 0 for status in Status}
    )
    """Number of grades by status."""
    self._rows: dict[str, _Row] = {}

  @property
  def grades(self) -> int:
    return sum(self.statuses.values())

  def add(self, head: Head, place: int) -> None:
    """Adds a line, unless its key is taken."""
    name = _name(head.problem_id, head.digest)
    row = self._rows.get(name)
    if row is None:
      row = self._rows[name] = _Row()
    if head.finished is not None:
      row.finished = max(row.finished, head.finished)
      return
    if head.key in row.keys:
      return
    row.keys.append(head.key)
    row.places.append(place)
    if head.status is None:
      self.answers += 1
    else:
      self.statuses[head.status] += 1

  def place(self, problem_id: str, digest: str, key: int) -> int:
    """Returns the place of a record, or ABSENT."""
    row = self._rows.get(_name(problem_id, digest))
    if row is None or key not in row.keys:
      return ABSENT
    return row.places[row.keys.index(key)]

  def count(self, problem_id: str, digest: str) -> int:
    """Returns the number of a problem's answers and grades."""
    row = self._rows.get(_name(problem_id, digest))
    return 0 if row is None else len(row.keys)

  def complete(self, problem_id: str, digest: str) -> bool:
    """Returns whether the problem's group is complete and none of it lost."""
    row = self._rows.get(_name(problem_id, digest))
    return row is not None and len(row.keys) >= row.finished > ABSENT


def _name(problem_id: str, digest: str) -> str:
  return f"{digest} {problem_id}"
