"""Paired comparison of two evaluations, on the problems that both have."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sophia_jax.evals.benchmarks.base import Benchmark, Scored
from sophia_jax.evals.rates import grouped
from sophia_jax.evals.stats import mcnemar, paired_bootstrap
from sophia_jax.types import SophiaError, Status


def read_scores(path: Path) -> dict[str, list[bool]]:
  """Reads, for each problem id, whether its samples are right.

  Raises:
    SophiaError: the file is no evaluation.
  """
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))["responses"]
    scores: dict[str, list[bool]] = {}
    for row in rows:
      right = Status(row["status"]) is Status.RIGHT
      scores.setdefault(row["id"], []).append(right)
  except OSError as e:
    raise SophiaError(f"{path}: {e.strerror}; give a W/evals/NAME.json") from e
  except (ValueError, KeyError, TypeError, RecursionError):
    raise SophiaError(
      f"{path}: not an evaluation; give a W/evals/NAME.json"
    ) from None
  return scores


def compare(
  before: Path, after: Sequence[Scored], benchmark: Benchmark
) -> dict[str, Any]:
  """Compares `after` with the evaluation in `before`.

  By the exact McNemar test where each question has one answer in both, else by a
  bootstrap of the questions' differences.

  Raises:
    SophiaError: `before` is no evaluation, or shares no problem with `after`.
  """
  old = read_scores(before)
  common = [s for s in after if s.problem.id in old]
  if not common:
    raise SophiaError(f"{before}: none of these problems is in it")
  groups = grouped(common, lambda s: benchmark.unit(s.problem)).values()
  was = [[_share(old[s.problem.id]) for s in group] for group in groups]
  now = [[s.score for s in group] for group in groups]
  single = all(len(s.grades) == len(old[s.problem.id]) == 1 for s in common)
  shared = {
    "against": str(before),
    "n": len(common),
    "before": math.fsum(map(math.fsum, was)) / len(common),
    "after": math.fsum(map(math.fsum, now)) / len(common),
  }
  if single and len(groups) == len(common):
    gained, lost, p = mcnemar(
      [bool(w[0]) for w in was], [bool(n[0]) for n in now]
    )
    return {
      **shared, "test": "McNemar", "gained": gained, "lost": lost, "p": p
    }  # fmt: skip
  low, high, p = paired_bootstrap([*map(_mean, was)], [*map(_mean, now)])
  return {
    **shared,
    "test": "paired bootstrap",
    "low": low,
    "high": high,
    "p": p,
  }


def _share(right: Sequence[bool]) -> float:
  return sum(right) / len(right)


def _mean(values: Sequence[float]) -> float:
  return math.fsum(values) / len(values)
