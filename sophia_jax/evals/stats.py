"""Statistics of scores: intervals, pass@k, paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported at their first use
from jaxtyping import Float

RESAMPLES = 10_000
"""Samples of a bootstrap."""
_CHUNK = 1 << 22
"""Random numbers in memory at once."""


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
  """Returns the Wilson score interval of a proportion (Wilson 1927).

  (0, 1) where n = 0: nothing is known.

  Args:
    z: quantile of the normal distribution; 1.96 makes a 95 % interval.

  Raises:
    ValueError: not 0 <= successes <= n.
  """
  if not 0 <= successes <= n:
    raise ValueError(f"{successes} successes of {n}")
  if n == 0:
    return 0.0, 1.0
  confidence = math.erf(z / math.sqrt(2))
  low, high = scipy.stats.binomtest(successes, n).proportion_ci(
    confidence, "wilson"
  )
  # Exact at the ends, where the formula is and its rounding is not.
  return (
    0.0 if successes == 0 else float(low),
    1.0 if successes == n else float(high),
  )


def pass_at_1(right: Sequence[Sequence[bool]]) -> float:
  """Returns the mean over problems of the share of right samples; 0 if none."""
  if not right:
    return 0.0
  return math.fsum(sum(r) / len(r) for r in right) / len(right)


def pass_at_k(n: int, c: int, k: int) -> float:
  """Returns the unbiased estimate that one of k samples is right, c of n being.

  1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, Eq. 1).
  """
  if not (0 <= c <= n and 1 <= k <= n):
    raise ValueError(f"pass@{k} of n={n}, c={c}")
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mcnemar(
  before: Sequence[bool], after: Sequence[bool]
) -> tuple[int, int, float]:
  """Returns (gained, lost, p) of two runs on the same problems, paired.

  p is McNemar's exact two-sided one: with no difference between the runs, each
  problem that changed is a fair coin (McNemar 1947).

  Raises:
    ValueError: the runs differ in length.
  """
  if len(before) != len(after):
    raise ValueError(f"{len(before)} answers before, {len(after)} after")
  gained = sum(a and not b for b, a in zip(before, after, strict=True))
  lost = sum(b and not a for b, a in zip(before, after, strict=True))
  if gained == lost:  # zero changes are no sample of a binomial
    return gained, lost, 1.0
  p = scipy.stats.binomtest(gained, gained + lost).pvalue
  return gained, lost, float(p)


# -------------------------------------------------------------------- bootstrap
def bootstrap(
  totals: Sequence[float], sizes: Sequence[int], seed: int = 0
) -> tuple[float, float]:
  """Returns a 95 % percentile interval of sum(totals) / sum(sizes) (Efron 1979).

  Whole units (questions with all samples and variants) are drawn with
  replacement, because answers to one question are correlated.

  Args:
    totals: sum of the scores of each unit's problems.
    sizes: number of problems of each unit.
  """
  if not totals:
    return 0.0, 1.0
  means = _resampled(np.stack([totals, sizes], 1), seed)
  low, high = np.quantile(means[:, 0] / means[:, 1], (0.025, 0.975))
  value = math.fsum(totals) / sum(sizes)
  # A percentile may lie on the wrong side of the value by rounding alone.
  return min(float(low), value), max(float(high), value)


def paired_bootstrap(
  before: Sequence[float], after: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
  """Returns (low, high, p) of mean(after - before), units in the same order.

  The interval is the 95 % percentile one; p is two-sided: twice the smaller
  share of resampled means on either side of zero, (r + 1) / (R + 1).
  """
  if len(before) != len(after):
    raise ValueError(f"{len(before)} units before, {len(after)} after")
  change = np.asarray(after, float) - np.asarray(before, float)
  if not change.any():
    return 0.0, 0.0, 1.0
  means = _resampled(change[:, None], seed)[:, 0]
  low, high = np.quantile(means, (0.025, 0.975))
  tail = min((means <= 0).sum(), (means >= 0).sum())
  return float(low), float(high), min(1.0, 2 * (tail + 1) / (RESAMPLES + 1))


def _resampled(
  units: Float[np.ndarray, "n d"], seed: int
) -> Float[np.ndarray, "resamples d"]:
  """Returns means of RESAMPLES draws of n units, with replacement."""
  units = np.asarray(units, float)
  rng = np.random.default_rng(seed)
  rows = max(1, _CHUNK // len(units))
  means = [
    units[rng.integers(len(units), size=(size, len(units)))].mean(1)
    for size in _sizes(RESAMPLES, rows)
  ]
  return np.concatenate(means)


def _sizes(total: int, most: int) -> list[int]:
  """Splits `total` into pieces of at most `most`."""
  return [min(most, total - start) for start in range(0, total, most)]
