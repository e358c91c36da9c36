"""Tables of an experiment, computed from its results alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sophia_jax.evidence import paired
from sophia_jax.evidence.experiment import Experiment, Hypothesis

Values = Mapping[str, Mapping[int, float]]
"""arm -> seed -> measure, the mean over repeats."""


def lines(
  experiment: Experiment, rows: Sequence[Mapping[str, Any]]
) -> list[str]:
  """Returns the lines of a Markdown section: arms, hypotheses, every seed."""
  primary = _values(rows, experiment.primary)
  seeds = sorted({row["seed"] for row in rows})
  return [
    f"## {experiment.title}",
    "",
    experiment.claim.strip(),
    "",
    f"{_count(len(seeds), 'seed')} of {experiment.seeds}, "
    f"{_count(experiment.repeats, 'update')} an arm; primary measure "
    f"`{experiment.primary}`, smallest effect of interest "
    f"{_points(experiment.smallest).lstrip('+')} points. "
    f"`python -m sophia_jax.evidence run {experiment.name}` makes it from nothing, "
    "`table` from the stored results.",
    "",
    *_arms(experiment, rows, primary),
    "",
    *_hypotheses(experiment, primary),
    "",
    *_noise(experiment, rows),
  ]


def _count(n: int, what: str) -> str:
  return f"{n} {what}" + "s" * (n != 1)


def _values(
  rows: Sequence[Mapping[str, Any]], path: str, repeat: int | None = None
) -> Values:
  found: dict[str, dict[int, list[float]]] = {}
  for row in rows:
    value = row["measures"].get(path)
    if value is not None and repeat in (None, row["repeat"]):
      seeds = found.setdefault(row["arm"], {})
      seeds.setdefault(row["seed"], []).append(value)
  return {
    arm: {seed: statistics.fmean(v) for seed, v in seeds.items()}
    for arm, seeds in found.items()
  }


def _points(value: float) -> str:
  return f"{100 * value:+.1f}"


def _mean(values: Mapping[int, float]) -> str:
  if not values:
    return "-"
  known = list(values.values())
  spread = f" ± {100 * statistics.stdev(known):.1f}" if len(known) > 1 else ""
  return f"{100 * statistics.fmean(known):.1f}{spread}"


def _arms(
  experiment: Experiment, rows: Sequence[Mapping[str, Any]], primary: Values
) -> Iterator[str]:
  """Yields a table of means and standard deviations over seeds, in per cent."""
  shown = [_values(rows, path) for path in experiment.shown]
  heads = [
    "arm",
    "primary, %",
    *(f"`{p}`, %" for p in experiment.shown),
    "seeds",
  ]
  yield f"| {' | '.join(heads)} |"
  yield "|---" * len(heads) + "|"
  for arm in experiment.arms:
    of = primary.get(arm.name, {})
    every = ", ".join(f"{100 * of[seed]:.1f}" for seed in sorted(of))
    cells = [arm.name, _mean(of), *(_mean(v.get(arm.name, {})) for v in shown)]
    yield f"| {' | '.join([*cells, every or '-'])} |"


def _differences(primary: Values, one: str, other: str) -> list[float]:
  a, b = primary.get(one, {}), primary.get(other, {})
  return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def _hypotheses(experiment: Experiment, primary: Values) -> Iterator[str]:
  """Yields a table of the hypotheses and what was found; p by Holm's method."""
  tested = [_test(experiment, h, primary) for h in experiment.hypotheses]
  adjusted = paired.holm([p for _, p, _ in tested])
  yield (
    "| hypothesis | difference, points [95 %] | p: test, sign flips, Holm "
    "| found |"
  )
  yield "|---|---|---|---|"
  for h, (difference, p, flips), held in zip(
    experiment.hypotheses, tested, adjusted, strict=True
  ):
    sign = {"above": " > ", "same": " = ", "order": " > "}[h.kind]
    shown = (
      f"{_points(difference.mean)} [{_points(difference.low)}, "
      f"{_points(difference.high)}]"
      if difference
      else "-"
    )
    values = ", ".join(
      "-" if x is None else f"{x:.3g}" for x in (p, flips, held)
    )
    found = _found(h, difference, held)
    yield f"| {sign.join(h.arms)} | {shown} | {values} | {found} |"


def _test(
  experiment: Experiment, hypothesis: Hypothesis, primary: Values
) -> tuple[paired.Difference | None, float, float | None]:
  """Returns the difference of the first and the last arm, p, p by sign flips."""
  first, *_, last = hypothesis.arms
  values = _differences(primary, first, last)
  if not values:
    return None, 1.0, None
  difference = paired.paired(values)
  if hypothesis.kind == "same":
    p = paired.equivalent(values, experiment.smallest)
    return difference, p, None
  if hypothesis.kind == "order":
    arms = [primary.get(arm, {}) for arm in hypothesis.arms]
    seeds = sorted(set.intersection(*(set(arm) for arm in arms)))
    table = [[arm[seed] for arm in arms] for seed in seeds]
    return difference, paired.ordered(table) if table else 1.0, None
  return difference, difference.t, difference.flips


def _found(
  hypothesis: Hypothesis, difference: paired.Difference | None, p: float
) -> str:
  """Says what a test shows: what it does not show is not refuted."""
  if difference is None:
    return "not run"
  opposed = hypothesis.kind == "above" and difference.high < 0
  if opposed and p < 0.05:
    return "**contradicted**"
  if p < 0.05 and (hypothesis.kind != "above" or difference.mean > 0):
    return "**confirmed**"
  return "not shown"


def _noise(
  experiment: Experiment, rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
  """Yields the comparison of an arm with itself: repeats differ in order alone."""
  if experiment.repeats < 2:
    return
  name = experiment.arms[0].name
  first, second = (
    _values(rows, experiment.primary, repeat).get(name, {}) for repeat in (0, 1)
  )
  values = [first[s] - second[s] for s in sorted(first.keys() & second.keys())]
  if not values:
    return
  found = paired.paired(values)
  covers = found.low <= 0 <= found.high
  yield (
    f"The same against the same ({name}, another order of sequences): "
    f"{_points(found.mean)} [{_points(found.low)}, {_points(found.high)}]; the "
    f"interval {'covers' if covers else '**does not cover**'} 0."
  )
