"""Scores with their intervals: {"value", "low", "high", "n"}."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sophia_jax.evals.stats import bootstrap, wilson

T = TypeVar("T")
Rate = dict[str, float]


def rate(units: Sequence[Sequence[float]]) -> Rate:
  """Computes the mean over all problems and its 95 % interval.

  Wilson's interval where every unit is one answer, right or wrong; else a
  bootstrap over whole units. `n` counts problems.

  Args:
    units: for each question, the scores in [0, 1] of its problems: one, or one
      a variant. A score is the share of a problem's samples that are right.
  """
  totals = [math.fsum(unit) for unit in units]
  sizes = [len(unit) for unit in units]
  n = sum(sizes)
  if not n:
    return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
  if n == len(units) and set(totals) <= {0.0, 1.0}:
    low, high = wilson(round(sum(totals)), n)
  else:
    low, high = bootstrap(totals, sizes)
  return {"value": math.fsum(totals) / n, "low": low, "high": high, "n": n}


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
  """Groups items by their key, in the order of first appearance."""
  groups: dict[str, list[T]] = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return groups
