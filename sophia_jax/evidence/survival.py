"""Time to collapse over seeds: when a measure falls for good, and in which arm
later. A run that ends before it collapses is censored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy


class Life(NamedTuple):
  """One run, until it collapses or ends."""

  rounds: int
  """Rounds before the collapse, or of the whole run."""
  collapsed: bool


class Step(NamedTuple):
  """A fall of a survival curve."""

  round: int
  survival: float
  """Share of runs that live beyond this round."""


def life(values: Sequence[float], share: float, rounds: int) -> Life:
  """Returns when a measure collapses.

  It collapses at the first of `rounds` rounds in a row whose values are all
  below `share` of the highest value before them.

  Args:
    values: the measure, a value each round, at least one.
  """
  below, peak = 0, -math.inf
  for number, value in enumerate(values):
    below = below + 1 if value < share * peak else 0
    if below == rounds:
      return Life(number + 1 - rounds, True)
    if not below:
      peak = max(peak, value)
  return Life(len(values), False)


def kaplan_meier(lives: Sequence[Life]) -> Iterator[Step]:
  """Yields the falls of the survival curve (Kaplan and Meier 1958).

    S(t) = product over collapses at t_i <= t of 1 - d_i / n_i

  d_i runs collapse at t_i, of n_i that have neither collapsed nor ended before.
  """
  survival = 1.0
  for time in sorted({each.rounds for each in lives if each.collapsed}):
    left = sum(each.rounds >= time for each in lives)
    fell = sum(each.rounds == time and each.collapsed for each in lives)
    survival *= 1 - fell / left
    yield Step(time, survival)


def mean(lives: Sequence[Life], horizon: int) -> float:
  """Returns the mean rounds before a collapse, up to a horizon: the area under
  the survival curve."""
  area, before = 0.0, Step(0, 1.0)
  for step in kaplan_meier(lives):
    area += before.survival * (min(step.round, horizon) - before.round)
    before = Step(min(step.round, horizon), step.survival)
  return area + before.survival * (horizon - before.round)


def log_rank(one: Sequence[Life], other: Sequence[Life]) -> float:
  """Returns p of the log-rank test that two curves are the same, two-sided; 1
  where nothing collapses."""
  if not any(each.collapsed for each in (*one, *other)):
    return 1.0
  found = scipy.stats.logrank(_censored(one), _censored(other))
  return float(found.pvalue) if math.isfinite(found.pvalue) else 1.0


def _censored(lives: Sequence[Life]) -> scipy.stats.CensoredData:
  times = np.array([each.rounds for each in lives], float)
  ended = np.array([not each.collapsed for each in lives])
  return scipy.stats.CensoredData.right_censored(times, ended)
