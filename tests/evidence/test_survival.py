"""Time to collapse: the rule by hand, the estimates against known values."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.evidence import experiment, runner, survival, tables
from sophia_jax.evidence.survival import Life, Step
from sophia_jax.files import write_jsonl
from sophia_jax.types import SophiaError

# Remission of leukaemia in weeks, of 21 patients each; + is censored (Freireich
# et al. 1963), the example of most textbooks.
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def lives(text):
  return [Life(int(t.rstrip("+")), not t.endswith("+")) for t in text.split()]


@pytest.mark.parametrize(
  ("values", "want"),
  [
    ([1, 2, 3, 4], Life(4, False)),
    ([1, 4, 1, 1, 1], Life(2, True)),
    ([1, 4, 1, 1, 3, 1, 1, 1], Life(5, True)),  # it recovered once
    ([1, 4, 1, 1], Life(4, False)),  # too short to say
    ([4, 1.9, 1.9, 2.0, 1.9], Life(5, False)),  # half is not below half
    ([0, 0, 0, 0, 0], Life(5, False)),  # it never rose
  ],
)
def test_a_collapse_is_a_fall_that_lasts(values, want):
  assert survival.life(values, 0.5, 3) == want


@given(
  st.lists(st.floats(0.1, 9), min_size=1, max_size=30),
  st.floats(0.1, 9),
  st.integers(1, 5),
)
def test_the_scale_and_what_follows_a_collapse_do_not_matter(xs, scale, rounds):
  found = survival.life(xs, 0.5, rounds)
  doubled = survival.life([4 * x for x in xs], 0.5, rounds)
  assert found == doubled
  if found.collapsed:
    assert survival.life([*xs, scale], 0.5, rounds) == found
    assert max(xs[: found.rounds]) > 2 * xs[found.rounds]


def test_the_estimate_of_the_textbooks():
  found = {s.round: s.survival for s in survival.kaplan_meier(lives(TREATED))}
  want = {
    6: 0.857,
    7: 0.807,
    10: 0.753,
    13: 0.690,
    16: 0.627,
    22: 0.538,
    23: 0.448,
  }
  assert found == pytest.approx(want, abs=5e-4)
  p = survival.log_rank(lives(TREATED), lives(PLACEBO))
  assert scipy.stats.chi2.isf(p, 1) == pytest.approx(16.79, abs=0.01)


runs = st.lists(
  st.builds(Life, st.integers(1, 12), st.booleans()), min_size=1, max_size=12
)


@given(runs)
def test_the_estimate_is_scipys(xs):
  steps = list(survival.kaplan_meier(xs))
  if not any(x.collapsed for x in xs):
    assert not steps and survival.mean(xs, 12) == 12
    return
  times = [x.rounds for x in xs]
  data = scipy.stats.CensoredData.right_censored(
    times, [not x.collapsed for x in xs]
  )
  want = scipy.stats.ecdf(data).sf
  for step in steps:
    assert step.survival == pytest.approx(float(want.evaluate(step.round)))
  curve = [want.evaluate(t) for t in range(12)]
  assert survival.mean(xs, 12) == pytest.approx(float(np.sum(curve)))


def test_without_a_collapse_nothing_is_shown():
  same = [Life(9, False)] * 6
  assert survival.log_rank(same, same) == 1.0
  early, late = [Life(t, True) for t in (1, 2, 3, 4, 5, 6)], same
  assert survival.log_rank(early, late) < 0.01
  assert survival.log_rank(early, late) == survival.log_rank(late, early)
  assert list(survival.kaplan_meier([Life(3, True)])) == [Step(3, 0.0)]
  assert math.isclose(survival.mean(early, 4), 21 / 6 - 3 / 6)


# ------------------------------------------------------------------ an experiment
TRAP = """
title = "A trap"
claim = "It falls."
config = "configs/digits/starpo.py"
primary = "measures.success.after.value"
smallest = 0.05
seeds = 6
series = ["other", "score"]
[arms.plain]
[arms.filtered]
[collapse]
metric = "score"
share = 0.5
rounds = 2
[[hypotheses]]
kind = "later"
arms = ["filtered", "plain"]
"""


def test_the_table_says_which_arm_collapses_later(tmp_path):
  path = tmp_path / "trap.toml"
  path.write_text(TRAP)
  trap = experiment.read(path)
  assert trap.kept == ("score", "other")
  falls = [4] * 3 + [1] * 3
  rows = [
    {
      "seed": seed,
      "arm": arm,
      "repeat": 0,
      "measures": {},
      "series": {"score": s},
    }
    for seed in range(6)
    for arm, s in (("plain", falls[seed % 2 :]), ("filtered", [4] * 6))
  ]
  text = "\n".join(tables.lines(trap, rows))
  assert "`score` is below 0.5 of its peak for 2 rounds in a row" in text
  assert (
    "| plain | 6 of 6 | 2.5 | 0.50 from 2, 0.00 from 3 | 3, 2, 3, 2, 3, 2 |"
    in text
  )
  assert "| filtered | 0 of 6 | 6.0 | - | 6+, 6+, 6+, 6+, 6+, 6+ |" in text
  assert (
    "| filtered later than plain | collapse of `score` | +3.5 rounds |" in text
  )
  assert "**confirmed**" in text
  turned = [
    {**r, "arm": {"plain": "filtered"}.get(r["arm"], "plain")} for r in rows
  ]
  assert "**contradicted**" in "\n".join(tables.lines(trap, turned))
  assert "not run" in "\n".join(tables.lines(trap, []))


def test_later_needs_a_rule(tmp_path):
  path = tmp_path / "trap.toml"
  rule = TRAP[TRAP.index("[collapse]") : TRAP.index("[[hypo")]
  path.write_text(TRAP.replace(rule, ""))
  with pytest.raises(SophiaError, match=r"needs a table \[collapse\]"):
    experiment.read(path)
  path.write_text(TRAP.replace("share =", "shore ="))
  with pytest.raises(SophiaError, match=r"collapse\.shore: no such key"):
    experiment.read(path)


def test_series_are_read_round_by_round(tmp_path):
  path = tmp_path / "metrics.jsonl"
  rows = [
    {"step": 1, "round": 0.0, "score": 0.123456789},
    {"step": 2},
    {"step": 3, "round": 2.0, "score": 3},  # round 1 learnt nothing
  ]
  write_jsonl(path, rows)
  assert runner.series(path, ("score",)) == {"score": [0.12346, 0.12346, 3.0]}
  assert runner.series(path, ()) == {}
  with pytest.raises(SophiaError, match="no round has 'scare'"):
    runner.series(path, ("scare",))
