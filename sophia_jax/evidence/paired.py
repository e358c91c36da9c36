"""Tests of paired differences over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy


class Difference(NamedTuple):
  """A paired difference over seeds.

  Example: Difference(mean=0.031, low=0.012, high=0.050, t=0.004, flips=0.0078)
  """

  mean: float
  low: float
  """Lower end of the 95 % interval (paired t)."""
  high: float
  t: float
  """p of the paired t test, two-sided."""
  flips: float
  """p of the exact sign-flip test, two-sided."""


def paired(values: Sequence[float]) -> Difference:
  """Tests whether paired differences have a mean of 0.

  With one seed nothing is known but the difference: the interval is infinite.
  """
  x = np.asarray(values, float)
  mean, n = float(x.mean()), len(x)
  if n < 2:
    return Difference(mean, -math.inf, math.inf, 1.0, 1.0)
  se = float(x.std(ddof=1)) / math.sqrt(n)
  half = float(scipy.stats.t.ppf(0.975, n - 1)) * se
  p = (
    float(2 * scipy.stats.t.sf(abs(mean) / se, n - 1))
    if se
    else float(not mean)
  )
  return Difference(mean, mean - half, mean + half, p, sign_flips(values))


def sign_flips(values: Sequence[float]) -> float:
  """Returns the exact two-sided p of a mean of 0: the share of all sign patterns
  whose mean is at least as far from 0 (Fisher 1935). n is at most 20."""
  x = np.asarray(values, float)
  if len(x) > 20:
    raise ValueError(f"{len(x)} differences have too many sign patterns")
  signs = np.array(list(itertools.product((1, -1), repeat=len(x))))
  sums = np.abs(signs @ x)
  return float(np.mean(sums >= abs(x.sum()) * (1 - 1e-12)))


def equivalent(values: Sequence[float], margin: float) -> float:
  """Returns p of two one-sided t tests that |mean| < margin (TOST)."""
  x = np.asarray(values, float)
  if len(x) < 2:
    return 1.0
  se = float(x.std(ddof=1)) / math.sqrt(len(x))
  if not se:
    return float(abs(x.mean()) >= margin)
  sf = lambda z: float(scipy.stats.t.sf(z, len(x) - 1))
  return max(sf((margin - x.mean()) / se), sf((x.mean() + margin) / se))


def ordered(table: Sequence[Sequence[float]]) -> float:
  """Returns p of Page's test that measures fall from one arm to the next.

  Args:
    table: a row for each seed, with the arm that should be the highest first.
  """
  rising = np.asarray(table, float)[:, ::-1]
  if len(rising) < 2:
    return 1.0
  method = "exact" if len(rising) <= 12 and rising.shape[1] <= 6 else "auto"
  return float(scipy.stats.page_trend_test(rising, method=method).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
  """Returns p values adjusted for their number (Holm 1979)."""
  order = sorted(range(len(ps)), key=ps.__getitem__)
  adjusted, highest = [0.0] * len(ps), 0.0
  for rank, i in enumerate(order):
    highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
    adjusted[i] = highest
  return adjusted
