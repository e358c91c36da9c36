"""A million rollouts as numpy columns: all that lists and filters need."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64

from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.types import FinishReason, Status

Arrays = Mapping[str, Int64[np.ndarray, "L"]]
STATUSES = tuple(status.value for status in Status)
FINISHES = tuple(reason.value for reason in FinishReason)
ACCURACY = "accuracy"
MAX_PARTS = 16
"""Most reward parts that have a column."""
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
  seed: int = 0
  """Seed of the run."""
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
  text: Int64[np.ndarray, "N 2"]
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


# ----------------------------------------------------------------------- a table
def build(
  answers: Arrays,
  grades: Arrays,
  *,
  places: tuple[Place, ...],
  names: tuple[tuple[str, str], ...],
  roles: Sequence[bytes],
  paths: Sequence[bytes],
  tails: Sequence[bytes],
) -> Table:
  """Returns the rollouts of answers and grades in any order.

  Args:
    answers: columns of `index.Catalogue`: place, problem, path, turn, role, length,
      finish, tail, at, start, end.
    grades: place, problem, path, status, tail, at.
    roles: roles by number, as JSON writes them without quotes.
    paths: places in a tree by number, b"0,3".
    tails: JSON of versions and of reward parts, by number.
  """
  problems, cells = len(names) or 1, len(paths) + 1
  rows = _rows(answers, roles)
  key = answers["place"] * problems + answers["problem"]
  cell = key * cells + answers["path"]
  of_grades = grades["place"] * problems + grades["problem"]
  group_keys, first = np.unique(key[rows], return_index=True)
  group = np.searchsorted(group_keys, key[rows]).astype(np.int32)
  status, parts = _graded(
    cell[rows], of_grades * cells + grades["path"], grades, tails
  )
  record, bounds = _records(
    group_keys,
    np.concatenate([key, of_grades]),
    np.concatenate([answers["at"], grades["at"]]),
  )
  length = _lengths(answers, rows, cell)
  return Table(
    generation=len(key) + len(of_grades),
    places=places,
    names=names,
    roles=tuple(map(plain, roles)),
    paths=tuple(_path(text) for text in paths),
    group=group,
    path=answers["path"][rows].astype(np.int32),
    role=answers["role"][rows].astype(np.int32),
    length=length,
    finish=answers["finish"][rows].astype(np.int32),
    version=_versions(tails)[answers["tail"][rows]],
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


def _rows(answers: Arrays, roles: Sequence[bytes]) -> Int64[np.ndarray, "N"]:
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
  scorer = roles.index(_SCORER) if _SCORER in roles else -1
  order = order[answers["role"][order] != scorer]
  same = np.ones(max(0, len(order) - 1), bool)
  for name in ("path", "problem", "place"):
    column = answers[name][order]
    same &= column[1:] == column[:-1]
  return order[np.append(~same, True)] if len(order) else order


def _lengths(
  answers: Arrays, rows: np.ndarray, cell: np.ndarray
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
  grades: Arrays,
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


def with_grades(
  table: Table,
  found: Mapping[tuple[int, int], Mapping[tuple[int, ...], tuple[int, float]]],
) -> Table:
  """Returns the table with grades that no store has: those of episodes.

  Args:
    found: index into STATUSES and accuracy of rollouts, by the numbers of their
      place and problem, then by path.
  """
  if not found:
    return table
  numbers = {path: number for number, path in enumerate(table.paths)}
  status, accuracy = table.status.copy(), table.rewards[ACCURACY].copy()
  keys = zip(table.place.tolist(), table.problem.tolist())
  for g, key in enumerate(keys):
    if key not in found:
      continue
    rows = table.of_group(g)
    paths = table.path[rows].tolist()
    for path, grade in found[key].items():
      if numbers.get(path) in paths:
        row = rows.start + paths.index(numbers[path])
        status[row], accuracy[row] = grade
  parts = {**table.rewards, ACCURACY: accuracy}
  summaries: dict[str, Any] = _summaries(
    table.group, table.groups, status, parts, table.length
  )
  return dataclasses.replace(table, status=status, rewards=parts, **summaries)


# ----------------------------------------------------------------------- values
def plain(quoted: bytes) -> str:
  """Returns a string that JSON has written, without its quotes there."""
  return json.loads(b'"%s"' % quoted)


def _path(text: bytes) -> tuple[int, ...]:
  return tuple(map(int, text.split(b","))) if text else ()


def _versions(tails: Sequence[bytes]) -> np.ndarray:
  return np.array([_oldest(tail) for tail in tails] or [0], np.int32)


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
