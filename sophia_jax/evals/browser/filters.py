"""Filters over the rollouts: a value of each rollout, as an index into labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from sophia_jax.evals.browser.table import (
  ACCURACY,
  FINISHES,
  STATUSES,
  Table,
)
from sophia_jax.types import Problem

MAX_VALUES = 60
"""Most values of a filter."""
MAX_STEPS = 12
"""Most numbers, or ranges of them, that a filter names."""
MAX_TAGS = 4
"""Most keys of tags that have a filter."""
SELECTED, TOKENS = "selected", "tokens"
NOT_GRADED, UNKNOWN = "not graded", "not known"
SOLVED = 0.5
"""Mean accuracy from which a problem counts as solved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
  """A value of every rollout, as an index into its labels."""

  name: str
  title: str
  codes: Int[np.ndarray, "N"]
  labels: tuple[str, ...]


def of_table(
  table: Table,
  problems: Callable[[int], Problem | None],
  selected: Int[np.ndarray, "N"] | None = None,
  kept: Mapping[str, Sequence[str]] = {},
) -> dict[str, Filter]:
  """Returns the filters in which rollouts differ, by name.

  Args:
    problems: (group) -> its problem, where its file is known.
    selected: 0 or 1 of each rollout, -1 where it is not known; None: no filter.
    kept: ids of the rollouts whose tokens are kept, by the name of their place.
  """
  places, group = table.places, table.group
  found = [
    _of_groups("workdir", table, [p.workdir for p in places], table.place),
    _of_groups("stage", table, [p.stage for p in places], table.place),
    Filter(
      name="role", title="author", codes=table.role, labels=table.roles or ("",)
    ),
    Filter(
      name="status",
      title="verdict",
      codes=np.where(table.status < 0, len(STATUSES), table.status),
      labels=(*STATUSES, NOT_GRADED),
    ),
    Filter(name="finish", title="end", codes=table.finish, labels=FINISHES),
    Filter(
      name="group",
      title="group",
      codes=_kinds(table)[group],
      labels=("mixed", "all right", "all wrong", "all equal", NOT_GRADED),
    ),
    Filter(
      name="change",
      title="change",
      codes=changes(table)[group],
      labels=CHANGES,
    ),
  ]
  if selected is not None:
    found.append(_selection(table, selected))
  found.append(
    Filter(
      name=TOKENS,
      title="values of tokens",
      codes=1 - _kept(table, kept),
      labels=("kept", "not kept"),
    )
  )
  found += _labels(table, problems)
  found += _numbers(table)
  return {f.name: f for f in found if f.name == SELECTED or _differs(f)}


def _selection(table: Table, selected: Int[np.ndarray, "N"]) -> Filter:
  codes = np.where(selected < 0, 3, 1 - selected)
  return Filter(
    name=SELECTED,
    title="selection",
    codes=np.where(table.status < 0, 2, codes),
    labels=(SELECTED, "not selected", NOT_GRADED, UNKNOWN),
  )


def _kept(
  table: Table, kept: Mapping[str, Sequence[str]]
) -> Int[np.ndarray, "N"]:
  """Returns 1 for each rollout whose tokens are kept, 0 for others."""
  found = np.zeros(table.rows, np.int32)
  if not kept:
    return found
  groups = {
    (table.places[place].name, table.names[problem][0]): g
    for g, (place, problem) in enumerate(
      zip(table.place.tolist(), table.problem.tolist())
    )
  }
  paths = {"/".join(map(str, p)): n for n, p in enumerate(table.paths)}
  for place, rollout in ((p, r) for p, ids in kept.items() for r in ids):
    steps = rollout.split("/")
    # An id of a problem may have the character that paths are joined by.
    for n in range(1, len(steps)):
      g = groups.get((place, "/".join(steps[:n])))
      if g is not None:
        rows = table.of_group(g)
        found[rows] |= table.path[rows] == paths.get("/".join(steps[n:]), -1)
  return found


def _differs(found: Filter) -> bool:
  return len(found.codes) > 0 and bool(np.ptp(found.codes) > 0)


def _of_groups(
  name: str, table: Table, labels: Sequence[str], index: np.ndarray
) -> Filter:
  """Returns the filter of a label of each group's place."""
  known = sorted(set(labels)) or [""]
  codes = np.array([known.index(label) for label in labels] or [0], np.int32)
  return Filter(
    name=name, title=name, codes=codes[index][table.group], labels=tuple(known)
  )


def _kinds(table: Table) -> Int[np.ndarray, "G"]:
  """Returns whether each group is mixed, all right, all wrong or not graded."""
  kind = np.full(table.groups, 4, np.int32)
  there = table.graded > 0
  kind[there] = 3
  kind[there & (table.low == 1)] = 1
  kind[there & (table.high == 0)] = 2
  kind[there & (table.low < table.high)] = 0
  return kind


CHANGES = ("newly solved", "newly lost", "still solved", "still lost", "first")


def changes(table: Table) -> Int[np.ndarray, "G"]:
  """Returns how each group differs from the same problem's sampled before, in
  the same stage of the same workdir; an index into CHANGES."""
  keys = [f"{p.workdir} {p.stage}" for p in table.places]
  known = sorted(set(keys))
  series = np.array([known.index(key) for key in keys] or [0])[table.place]
  rounds = np.array([p.round for p in table.places] or [0])[table.place]
  order = np.lexsort((rounds, table.problem, series))
  graded = order[table.graded[order] > 0]
  solved = table.mean[graded] >= SOLVED
  kind = np.where(solved, 2, 3)
  before = np.zeros(len(graded), bool)
  same = (series[graded][1:] == series[graded][:-1]) & (
    table.problem[graded][1:] == table.problem[graded][:-1]
  )
  before[1:] = same
  was = np.append(False, solved[:-1]) if len(graded) else solved
  kind = np.where(before & solved & ~was, 0, kind)
  kind = np.where(before & ~solved & was, 1, kind)
  found = np.full(table.groups, 4, np.int32)
  found[graded] = np.where(before, kind, 4)
  return found


def _numbers(table: Table) -> Iterator[Filter]:
  """Yields the filters of numbers: round, version and age of the policy, length,
  accuracy. A number that is not known is -1."""
  places = table.places
  rounds = np.array([p.round if p.rounds else -1 for p in places] or [0])
  of_row = rounds[table.place][table.group]
  age = np.where(table.version > 0, of_row + 1 - table.version, -1)
  version = np.where(table.version > 0, table.version, -1)
  accuracy = table.rewards[ACCURACY]
  yield steps("round", "round", of_row, "no rounds")
  yield steps("version", "policy version", version)
  yield steps("age", "rounds old", age)
  yield doublings("length", "length, tokens", table.length)
  graded = accuracy[np.isfinite(accuracy)]
  if not np.isin(graded, (0, 1)).all():  # what verdicts do not say
    known = np.where(np.isfinite(accuracy), accuracy, -1)
    yield steps("reward", "accuracy", known)


def steps(
  name: str, title: str, values: np.ndarray, none: str = UNKNOWN
) -> Filter:
  """Returns the filter of a number: each value where there are few, otherwise
  ranges of a round width. Three decimals count.

  Args:
    none: label of what is below 0.
  """
  whole = np.issubdtype(values.dtype, np.integer)
  values = values if whole else values.astype(np.float64).round(3)
  known = np.unique(values[values >= 0])
  labels = [f"{value:.12g}" for value in known.tolist()]
  codes = np.searchsorted(known, values)
  if len(known) > MAX_STEPS:
    width = _round_width(float(known[-1] - known[0]) / MAX_STEPS)
    if whole:
      width = max(1.0, width)
    codes = np.floor(values / width).astype(np.int64)
    first = int(np.floor(known[0] / width))
    starts = [width * (first + i) for i in range(codes.max() - first + 1)]
    labels = [
      f"{start:.12g} to {start + width - whole:.12g}" for start in starts
    ]
    codes = codes - first
  codes = np.where(values < 0, len(labels), codes)
  return Filter(name=name, title=title, codes=codes, labels=(*labels, none))


def _round_width(least: float) -> float:
  """Returns 1, 2 or 5 times a power of ten, `least` or more."""
  power = 10.0 ** math.floor(math.log10(least))
  return next(m * power for m in (1, 2, 5, 10) if m * power >= least)


def doublings(name: str, title: str, values: np.ndarray) -> Filter:
  """Returns the filter of a number with a long tail: each range is twice as wide
  as the one before."""
  codes = np.where(
    values > 0, np.log2(np.maximum(values, 1)).astype(int) + 1, 0
  )
  longest = int(codes.max(initial=0))
  labels = [
    f"{2**i} to {2 ** (i + 1) - 1}" if i else "1" for i in range(longest)
  ]
  return Filter(name=name, title=title, codes=codes, labels=("0", *labels))


def _labels(
  table: Table, problems: Callable[[int], Problem | None]
) -> Iterator[Filter]:
  """Yields the filters of the problems' source, difficulty and tags."""
  found = [problems(g) for g in range(table.groups)]
  tags = sorted({key for p in found if p for key in p.tags})[:MAX_TAGS]
  columns = {
    "source": [p.source if p else "" for p in found],
    "difficulty": [p.difficulty if p else "" for p in found],
    **{
      f"tag.{tag}": [p.tags.get(tag, "") if p else "" for p in found]
      for tag in tags
    },
  }
  for name, values in columns.items():
    known = sorted(set(values))
    if len(known) > MAX_VALUES:
      continue
    number = {value: i for i, value in enumerate(known)}
    codes = np.array([number[v] for v in values] or [0], np.int32)
    yield Filter(
      name=name,
      title=name.removeprefix("tag."),
      codes=codes[table.group],
      labels=tuple(value or UNKNOWN for value in known),
    )
