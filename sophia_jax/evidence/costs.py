"""The cost of an experiment: units done and left, and the time of the rest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sophia_jax.evidence.experiment import Experiment, units


def said(
  experiment: Experiment,
  seeds: Sequence[int],
  rows: Sequence[Mapping[str, Any]],
) -> str:
  """Returns one line: units done, units left, and about how long these take.

  The time of a unit is the mean of its arm's, or of all where none of its arm is
  done; the stages that seeds share are not counted.

  Args:
    rows: the results so far.
  """
  took: dict[str, list[float]] = {}
  for row in rows:
    took.setdefault(row["arm"], []).append(row["seconds"])
  done = {(row["seed"], row["arm"], row["repeat"]) for row in rows}
  every = list(units(experiment, tuple(seeds)))
  left = [unit for unit in every if unit.key not in done]
  line = (
    f"{experiment.name}: {len(every) - len(left)} of {len(every)} units done, "
    f"{len(left)} left"
  )
  if not (left and took):
    return line + "; no unit is timed yet" * bool(left)
  means = {arm: statistics.fmean(seconds) for arm, seconds in took.items()}
  usual = statistics.fmean(means.values())
  seconds = sum(means.get(unit.arm.name, usual) for unit in left)
  return f"{line}, about {seconds / 60:.0f} min by those that are done"
