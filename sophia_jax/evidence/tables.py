"""Tables of an experiment, computed from its results alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sophia_jax.evidence import paired, survival
from sophia_jax.evidence.experiment import Experiment, Hypothesis

Values = Mapping[str, Mapping[int, float]]
"""arm -> seed -> measure, the mean over repeats."""
Lives = Mapping[str, Sequence[survival.Life]]
"""arm -> its runs, seed by seed."""


def lines(
  experiment: Experiment, rows: Sequence[Mapping[str, Any]]
) -> list[str]:
  """Returns the lines of a Markdown section: arms, hypotheses, every seed."""
  primary = _values(rows, experiment.primary)
  seeds = sorted({row["seed"] for row in rows})
  lives = _lives(experiment, rows)
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
    *_survival(experiment, lives),
    *_hypotheses(experiment, primary, lives),
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


def _lives(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Lives:
  """Returns when the runs of each arm collapsed; {} without such a rule."""
  rule = experiment.collapse
  found: dict[str, list[survival.Life]] = {}
  if rule is None:
    return found
  for row in sorted(rows, key=lambda row: (row["seed"], row["repeat"])):
    values = row.get("series", {}).get(rule.metric)
    if values:
      life = survival.life(values, rule.share, rule.rounds)
      found.setdefault(row["arm"], []).append(life)
  return found


def _survival(experiment: Experiment, lives: Lives) -> Iterator[str]:
  """Yields a table of the arms' survival curves; nothing without such a rule."""
  rule = experiment.collapse
  if rule is None:
    return
  yield (
    f"A run collapses where `{rule.metric}` is below {rule.share:g} of its peak "
    f"for {rule.rounds} rounds in a row."
  )
  yield ""
  yield (
    "| arm | collapsed | rounds before, mean | survival (Kaplan-Meier) "
    "| rounds, seed by seed; + did not collapse |"
  )
  yield "|---|---|---|---|---|"
  horizon = _horizon(lives)
  for arm in experiment.arms:
    own = lives.get(arm.name, [])
    steps = survival.kaplan_meier(own)
    cells = (
      arm.name,
      f"{sum(x.collapsed for x in own)} of {len(own)}",
      f"{survival.mean(own, horizon):.1f}" if own else "-",
      ", ".join(f"{s.survival:.2f} from {s.round}" for s in steps) or "-",
      ", ".join(f"{x.rounds}{'' if x.collapsed else '+'}" for x in own) or "-",
    )
    yield f"| {' | '.join(cells)} |"
  yield ""


def _horizon(lives: Lives) -> int:
  return max((x.rounds for own in lives.values() for x in own), default=0)


def _hypotheses(
  experiment: Experiment, primary: Values, lives: Lives
) -> Iterator[str]:
  """Yields a table of the hypotheses and what was found; p by Holm's method."""
  tested = [_test(experiment, h, primary, lives) for h in experiment.hypotheses]
  adjusted = paired.holm([p for _, p, _ in tested])
  yield (
    "| hypothesis | difference, points [95 %]; of collapses, rounds "
    "| p: test, sign flips, Holm | found |"
    if experiment.collapse
    else "| hypothesis | difference, points [95 %] | p: test, sign flips, Holm "
    "| found |"
  )
  yield "|---|---|---|---|"
  for h, (difference, p, flips), held in zip(
    experiment.hypotheses, tested, adjusted, strict=True
  ):
    sign = {"same": " = ", "later": " later than "}.get(h.kind, " > ")
    shown = _shown(h, difference)
    values = ", ".join(
      "-" if x is None else f"{x:.3g}" for x in (p, flips, held)
    )
    found = _found(h, difference, held)
    yield f"| {sign.join(h.arms)} | {shown} | {values} | {found} |"


def _shown(hypothesis: Hypothesis, difference: paired.Difference | None) -> str:
  if difference is None:
    return "-"
  if hypothesis.kind == "later":
    return f"{difference.mean:+.1f} rounds"
  low, high = _points(difference.low), _points(difference.high)
  return f"{_points(difference.mean)} [{low}, {high}]"


def _test(
  experiment: Experiment,
  hypothesis: Hypothesis,
  primary: Values,
  lives: Lives,
) -> tuple[paired.Difference | None, float, float | None]:
  """Returns the difference of the first and the last arm, p, p by sign flips."""
  first, *_, last = hypothesis.arms
  if hypothesis.kind == "later":
    return _later(lives, first, last)
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


def _later(
  lives: Lives, first: str, last: str
) -> tuple[paired.Difference | None, float, None]:
  """Returns by how many rounds the first arm collapses later, and p of the
  log-rank test."""
  one, other = lives.get(first, []), lives.get(last, [])
  if not (one and other):
    return None, 1.0, None
  horizon = _horizon({first: one, last: other})
  gap = survival.mean(one, horizon) - survival.mean(other, horizon)
  p = survival.log_rank(one, other)
  return paired.Difference(gap, -math.inf, math.inf, p, 1.0), p, None


def _found(
  hypothesis: Hypothesis, difference: paired.Difference | None, p: float
) -> str:
  """Says what a test shows: what it does not show is not refuted."""
  if difference is None:
    return "not run"
  directed = hypothesis.kind in ("above", "later")
  if p < 0.05 and directed and difference.mean < 0:
    return "**contradicted**"
  if p < 0.05:
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
