"""Tables of an experiment, computed from its stored results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sophia_jax.evidence import paired, survival
from sophia_jax.evidence.experiment import START, Experiment, Hypothesis

Row = Mapping[str, Any]
"""A line of results; see `runner.LINE`."""
Values = Mapping[str, Mapping[int, float]]
"""arm -> seed -> measure, the mean over repeats."""
Lives = Mapping[str, Sequence[survival.Life]]
"""arm -> its runs, seed by seed."""
_AMOUNTS = (
  *("tokens", "problems", "captions", "trajectories", "selected", "n"),
  *("nats", "median"),
)
"""Last names of measures that are amounts; all others are shares."""
_SIGNS = {
  "above": " > ",
  "same": " = ",
  "order": " > ",
  "later": " later than ",
}


class Tested(NamedTuple):
  """A hypothesis and what its test found."""

  hypothesis: Hypothesis
  differences: list[float]
  """First arm less last arm, by seed."""
  difference: paired.Difference | None
  """Their mean and interval; None: not run."""
  p: float
  flips: float | None
  """p of the sign-flip test, where the kind has one."""
  adjusted: float
  """p adjusted for the hypotheses on the same measure."""
  margin: float = math.inf
  """Difference up to which two arms count as the same."""

  @property
  def title(self) -> str:
    """The relation in words: "full > random"."""
    return _SIGNS[self.hypothesis.kind].join(self.hypothesis.arms)

  @property
  def found(self) -> str:
    """Finding of the test; a relation that it does not show is not refuted."""
    if self.difference is None:
      return "not run"
    one_way = self.hypothesis.kind in ("above", "later")
    low, high = self.difference.low, self.difference.high
    if low > self.margin or high < -self.margin:
      return "**contradicted**"
    if self.adjusted >= 0.05:
      return "not shown"
    if one_way and self.difference.mean < 0:
      return "**contradicted**"
    return "**confirmed**"


def lines(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
  """Returns the lines of a Markdown page: arms, hypotheses, every seed."""
  seeds = sorted({row["seed"] for row in rows})
  return [
    f"# {experiment.title}",
    "",
    experiment.claim.strip(),
    "",
    f"{_count(len(seeds), 'seed')} of {experiment.seeds}, {_updates(experiment)}; "
    f"primary measure: {experiment.label(experiment.primary)}; smallest effect of "
    f"interest {points(experiment.smallest).lstrip('+')} points. "
    f"{_shared(experiment)}"
    f"`python -m sophia_jax.evidence run {experiment.name}` makes it from nothing, "
    "`table` from the stored results.",
    "",
    *_arms(experiment, rows),
    "",
    *_survival(experiment, _lives(experiment, rows)),
    *_hypotheses(experiment, rows),
    "",
    *_noise(experiment, rows),
  ]


def _count(n: int, what: str) -> str:
  return f"{n} {what}" + "s" * (n != 1)


def _updates(experiment: Experiment) -> str:
  every = _count(experiment.repeats, "update")
  if not experiment.repeated:
    return f"{every} an arm"
  return f"{every} of {', '.join(experiment.repeated)}, 1 of each other arm"


def _shared(experiment: Experiment) -> str:
  if not experiment.given:
    return ""
  return (
    f"All seeds share the result of {', '.join(experiment.given.stages)}: "
    "intervals are over what follows. "
  )


# --------------------------------------------------------------------- measures
def values(
  experiment: Experiment,
  rows: Sequence[Row],
  path: str,
  repeat: int | None = None,
) -> Values:
  """Returns a measure of each arm, and of what the first arm starts from.

  Args:
    path: its path in report.json; the first arm's start has it where `path` names
      "before" instead of "after".
    repeat: the one update that counts; None: the mean of all.
  """
  found: dict[str, dict[int, list[float]]] = {}
  first = experiment.arms[0].name
  before = path.replace(".after", ".before")
  for row in rows:
    if repeat not in (None, row["repeat"]):
      continue
    named = {row["arm"]: path}
    if before != path and row["arm"] == first:
      named[START] = before
    for arm, key in named.items():
      if (value := row["measures"].get(key)) is not None:
        seeds = found.setdefault(arm, {})
        seeds.setdefault(row["seed"], []).append(value)
  return {
    arm: {seed: statistics.fmean(every) for seed, every in seeds.items()}
    for arm, seeds in found.items()
  }


def is_share(path: str) -> bool:
  """Returns whether a measure is a share, shown in per cent and points."""
  return path.rpartition(".")[2] not in _AMOUNTS


def points(value: float, path: str = "") -> str:
  """Returns a difference with its sign, a share's in points."""
  return f"{(100 if is_share(path) else 1) * value:+.1f}"


def _mean(path: str, known: Mapping[int, float]) -> str:
  if not known:
    return "-"
  factor = 100 if is_share(path) else 1
  every = list(known.values())
  spread = f" ± {factor * statistics.stdev(every):.1f}" if every[1:] else ""
  return f"{factor * statistics.fmean(every):.1f}{spread}"


def _arms(experiment: Experiment, rows: Sequence[Row]) -> Iterator[str]:
  """Yields a table of means and standard deviations over seeds."""
  primary = values(experiment, rows, experiment.primary)
  paths = [experiment.primary, *experiment.shown]
  shown = [values(experiment, rows, path) for path in paths]
  units = [", %" if is_share(path) else "" for path in paths]
  named = [f"{experiment.label(p)}{u}" for p, u in zip(paths, units)]
  seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
  yield f"| arm | {' | '.join(named)} | primary, seeds {seeds} |"
  yield "|---" * (len(paths) + 2) + "|"
  arms = [START] * (START in primary) + [arm.name for arm in experiment.arms]
  for arm in arms:
    own = primary.get(arm, {})
    factor = 100 if is_share(experiment.primary) else 1
    every = ", ".join(f"{factor * own[seed]:.1f}" for seed in sorted(own))
    cells = [_mean(p, v.get(arm, {})) for p, v in zip(paths, shown)]
    yield f"| {' | '.join([arm, *cells, every or '-'])} |"


# --------------------------------------------------------------------- collapse
def _lives(experiment: Experiment, rows: Sequence[Row]) -> Lives:
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


# ------------------------------------------------------------------- hypotheses
def tested(experiment: Experiment, rows: Sequence[Row]) -> list[Tested]:
  """Tests every hypothesis; p is adjusted among those on one measure (Holm)."""
  made = [_test(experiment, h, rows) for h in experiment.hypotheses]
  families: dict[str, list[int]] = {}
  for i, one in enumerate(made):
    families.setdefault(label(experiment, one), []).append(i)
  for family in families.values():
    adjusted = paired.holm([made[i].p for i in family])
    for i, p in zip(family, adjusted, strict=True):
      made[i] = made[i]._replace(adjusted=p)
  return made


def _test(
  experiment: Experiment, hypothesis: Hypothesis, rows: Sequence[Row]
) -> Tested:
  """Tests a hypothesis by itself."""
  if hypothesis.kind == "later":
    return _later(hypothesis, _lives(experiment, rows))
  known = values(experiment, rows, experiment.measure(hypothesis))
  arms = [known.get(arm, {}) for arm in hypothesis.arms]
  seeds = sorted(set.intersection(*(set(arm) for arm in arms)))
  differences = [arms[0][seed] - arms[-1][seed] for seed in seeds]
  if not differences:
    return Tested(hypothesis, [], None, 1.0, None, 1.0)
  difference = paired.paired(differences)
  p, flips, margin = difference.t, None, math.inf
  if hypothesis.kind == "same":
    margin = experiment.smallest
    p = paired.equivalent(differences, margin)
  elif hypothesis.kind == "order":
    p = paired.ordered([[arm[seed] for arm in arms] for seed in seeds])
  else:
    flips = difference.flips
  return Tested(hypothesis, differences, difference, p, flips, p, margin)


def _hypotheses(experiment: Experiment, rows: Sequence[Row]) -> Iterator[str]:
  """Yields a table of the hypotheses and what was found."""
  yield (
    "| hypothesis | measure | difference [95 %] | p: test, sign flips, Holm "
    "| found |"
  )
  yield "|---|---|---|---|---|"
  for one in tested(experiment, rows):
    ps = ", ".join(
      "-" if p is None else f"{p:.2g}" for p in (one.p, one.flips, one.adjusted)
    )
    cells = one.title, label(experiment, one), shown(experiment, one), ps
    yield f"| {' | '.join(cells)} | {one.found} |"


def label(experiment: Experiment, one: Tested) -> str:
  """Returns the name of a hypothesis's measure."""
  if one.hypothesis.kind == "later" and experiment.collapse:
    return f"collapse of `{experiment.collapse.metric}`"
  return experiment.label(experiment.measure(one.hypothesis))


def shown(experiment: Experiment, one: Tested) -> str:
  """Returns a hypothesis's difference in words; "-" where it has not been run."""
  if one.difference is None:
    return "-"
  if one.hypothesis.kind == "later":
    return f"{one.difference.mean:+.1f} rounds"
  return interval(one.difference, experiment.measure(one.hypothesis))


def _later(hypothesis: Hypothesis, lives: Lives) -> Tested:
  """Tests by how many rounds the first arm collapses later (log-rank)."""
  first, *_, last = hypothesis.arms
  one, other = lives.get(first, []), lives.get(last, [])
  if not (one and other):
    return Tested(hypothesis, [], None, 1.0, None, 1.0)
  horizon = _horizon({first: one, last: other})
  gap = survival.mean(one, horizon) - survival.mean(other, horizon)
  p = survival.log_rank(one, other)
  difference = paired.Difference(gap, -math.inf, math.inf, p, 1.0)
  return Tested(hypothesis, [], difference, p, None, p)


def interval(found: paired.Difference, path: str) -> str:
  """Returns a difference with its interval: "+3.1 [+1.2, +5.0]"; of one seed
  there is none."""
  if math.isinf(found.low):
    return f"{points(found.mean, path)} (no interval)"
  low, high = points(found.low, path), points(found.high, path)
  return f"{points(found.mean, path)} [{low}, {high}]"


def noise(
  experiment: Experiment, rows: Sequence[Row]
) -> paired.Difference | None:
  """Compares the first arm with itself: repeats differ in order alone.

  Returns:
    The first update less the second; None where it has not been repeated.
  """
  name = experiment.arms[0].name
  first, second = (
    values(experiment, rows, experiment.primary, repeat).get(name, {})
    for repeat in (0, 1)
  )
  seeds = sorted(first.keys() & second.keys())
  return paired.paired([first[s] - second[s] for s in seeds]) if seeds else None


def _noise(experiment: Experiment, rows: Sequence[Row]) -> Iterator[str]:
  found = noise(experiment, rows)
  if found is None:
    return
  said = (
    f"The same against the same ({experiment.arms[0].name}, another order of "
    f"sequences): {interval(found, experiment.primary)}"
  )
  if math.isinf(found.low):
    yield f"{said}: one seed."
  else:
    covers = found.low <= 0 <= found.high
    yield f"{said}; the interval {'covers' if covers else '**does not cover**'} 0."
