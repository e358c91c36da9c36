"""Queries of the rollouts: from a URL to groups, with a count beside each value.

All state of a page is in its URL. A choice that the rollouts do not have finds
none; an invalid number is refused.
"""

from __future__ import annotations

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from sophia_jax.evals.browser.filters import Filter
from sophia_jax.evals.browser.table import ACCURACY, Table
from sophia_jax.types import SophiaError

PER_PAGE = 25
"""Groups on a page."""
SORTS = {
  "order": "in the order of the data",
  "worst": "worst first",
  "best": "best first",
  "mixed": "most mixed first",
  "longest": "longest first",
  "random": "at random",
}
RANGES = ("round", "length", "reward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
  """A search among the rollouts; `parse` reads it and `url` writes it."""

  chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """Values of filters by name."""
  bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  """Bounds of ranges: {"length_min": 10.0}."""
  text: str = ""
  """Text in the answers; a regular expression where `regex`."""
  regex: bool = False
  question: str = ""
  """Text in the question or the id of the problem."""
  sort: str = "order"
  seed: int = 0
  """Seed of the random order."""
  page: int = 1

  def url(self, path: str = "", **changes: object) -> str:
    """Returns a path with this query; `changes` replaces parts of it.

    Example: query.url("/", page=2)
    """
    other = dataclasses.replace(self, **changes)  # type: ignore[arg-type]
    values: list[tuple[str, object]] = [*other.chosen.items()]
    values += ((k, f"{v:g}") for k, v in other.bounds.items())
    for name, default in (
      ("text", ""),
      ("question", ""),
      ("sort", "order"),
      ("seed", 0),
      ("page", 1),
    ):
      if getattr(other, name) != default:
        values.append((name, getattr(other, name)))
    if other.regex:
      values.append(("regex", 1))
    query = urllib.parse.urlencode(values, errors="replace")
    return f"{path}?{query}" if query else path or "?"

  def without(self, name: str) -> Query:
    """Returns the query without one filter."""
    left = {k: v for k, v in self.chosen.items() if k != name}
    return dataclasses.replace(self, chosen=left, page=1)


def parse(values: Mapping[str, str], filters: Sequence[str]) -> Query:
  """Reads a query from the values of a URL; empty ones are absent.

  Args:
    filters: names of the filters that there are.

  Raises:
    SophiaError: an invalid number, or an unknown order.
  """
  known = {name for r in RANGES for name in (f"{r}_min", f"{r}_max")}
  bounds = {k: _number(k, values[k]) for k in sorted(known) if values.get(k)}
  sort = values.get("sort") or "order"
  if sort not in SORTS:
    raise SophiaError(f"sort={sort[:40]!r}: use one of {', '.join(SORTS)}")
  return Query(
    chosen={f: values[f] for f in filters if values.get(f)},
    bounds=bounds,
    text=values.get("text", ""),
    regex=bool(values.get("regex")),
    question=values.get("question", ""),
    sort=sort,
    seed=int(_number("seed", values.get("seed") or "0")) & 0xFFFFFFFF,
    page=max(1, int(_number("page", values.get("page") or "1"))),
  )


def _number(name: str, text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not abs(value) < 1e15:
    raise SophiaError(f"{name}={text[:40]!r}: not a number")
  return value


# ----------------------------------------------------------------------- search
@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
  """A value of a filter, with the rollouts that it would leave."""

  label: str
  count: int
  chosen: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """Answer to a query."""

  rows: Int64[np.ndarray, "N"]
  """Rollouts, sorted by group."""
  groups: Int64[np.ndarray, "G"]
  """Groups that have some, in the query's order."""
  matching: Int64[np.ndarray, "G"]
  """Number of those rollouts in each of `groups`."""
  counts: dict[str, list[Count]]
  """Counts by filter, under the other filters."""


def find(
  table: Table,
  query: Query,
  known: Mapping[str, Filter],
  texts: Bool[np.ndarray, "N"] | None = None,
  questions: Bool[np.ndarray, "G"] | None = None,
) -> Found:
  """Returns the rollouts that pass every filter, and counts for all values.

  Args:
    known: `filters.of_table` of the table.
    texts: rollouts whose answer has the query's text; None: no such query.
    questions: groups whose problem has the query's question; None: as before.
  """
  everything = _ranges(table, query)
  if texts is not None:
    everything &= texts
  if questions is not None:
    everything &= questions[table.group]
  passed = {
    name: _passes(known[name], value)
    for name, value in query.chosen.items()
    if name in known
  }
  mask = everything.copy()
  for passes in passed.values():
    mask &= passes
  counts = {}
  for name, each in known.items():
    others = mask
    if name in passed:
      others = everything.copy()
      for other, passes in passed.items():
        if other != name:
          others &= passes
    counts[name] = _counted(each, others, query.chosen.get(name, ""))
  rows = np.flatnonzero(mask)
  matching = np.bincount(table.group[rows], minlength=table.groups)
  groups = np.flatnonzero(matching)
  groups = groups[_order(table, groups, query)]
  return Found(
    rows=rows, groups=groups, matching=matching[groups], counts=counts
  )


def _passes(each: Filter, value: str) -> Bool[np.ndarray, "N"]:
  if value not in each.labels:
    return np.zeros(len(each.codes), bool)
  return each.codes == each.labels.index(value)


def _counted(
  each: Filter, mask: Bool[np.ndarray, "N"], chosen: str
) -> list[Count]:
  counts = np.bincount(each.codes[mask], minlength=len(each.labels))
  return [
    Count(label=label, count=int(count), chosen=label == chosen)
    for label, count in zip(each.labels, counts)
    if count or label == chosen
  ]


def _ranges(table: Table, query: Query) -> Bool[np.ndarray, "N"]:
  mask = np.ones(table.rows, bool)
  for name, bound in query.bounds.items():
    which, _, side = name.rpartition("_")
    values = _values(table, which)
    mask &= values >= bound if side == "min" else values <= bound
  return mask


def _values(table: Table, name: str) -> Float[np.ndarray, "N"]:
  """Returns the numbers of a range, by rollout."""
  if name == "length":
    return table.length
  if name == "reward":
    return table.rewards[ACCURACY]
  rounds = np.array([p.round for p in table.places] or [0])
  return rounds[table.place][table.group]


def _order(
  table: Table, groups: Int64[np.ndarray, "G"], query: Query
) -> Int64[np.ndarray, "G"]:
  """Returns the order of groups; those without grades come last."""
  mean = table.mean[groups]
  keys = {
    "order": lambda: groups,
    "worst": lambda: mean,
    "best": lambda: -mean,
    "mixed": lambda: np.abs(mean - 0.5),
    "longest": lambda: -table.longest[groups],
    "random": lambda: np.random.default_rng(query.seed).random(table.groups)[
      groups
    ],
  }
  return np.argsort(keys[query.sort](), kind="stable")
