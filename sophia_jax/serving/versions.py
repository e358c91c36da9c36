"""The version of the weights that drew each token of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FIRST = "0"
"""Version of the weights that a server starts with."""
ALL = 1 << 62
"""More tokens than an answer has."""

Change = tuple[str, int]
"""The version until a change of weights, and the tokens there were by then."""


def spans(
  changes: Sequence[Change], current: str, count: int
) -> list[dict[str, Any]]:
  """Returns {"version", "start", "end"} of each stretch of an answer's tokens.

  Args:
    changes: the changes of weights while the request was in flight, in order.
    current: the version since the last of them.
    count: tokens of the answer.

  Example: spans([("3", 10)], "4", 25) == [{"version": "3", "start": 0,
    "end": 10}, {"version": "4", "start": 10, "end": 25}]
  """
  found: list[dict[str, Any]] = []
  start = 0
  for version, end in (*changes, (current, count)):
    end = min(end, count)
    if end <= start:
      continue
    if found and found[-1]["version"] == version:
      found[-1]["end"] = end
    else:
      found.append({"version": version, "start": start, "end": end})
    start = end
  return found
