"""Metrics of the benchmarks, against values computed by hand."""

import pytest

from sophia_jax.evals.benchmarks import dynamath, mv_math
from sophia_jax.evals.benchmarks.base import Grade, Scored
from sophia_jax.evals.rates import rate
from sophia_jax.evals.stats import wilson
from sophia_jax.evals.summary import PLAIN, summarise
from sophia_jax.types import Status
from tests.evals.answering import problem, scored


def test_a_rate_of_single_answers_has_wilsons_interval():
  low, high = wilson(2, 5)
  assert rate([[1.0], [0.0], [1.0], [0.0], [0.0]]) == {
    "value": 0.4,
    "low": low,
    "high": high,
    "n": 5,
  }
  assert rate([])["n"] == 0


def test_a_rate_of_several_samples_counts_problems():
  found = rate([[0.5], [0.25], [1.0]])
  assert found["n"] == 3 and found["value"] == pytest.approx(1.75 / 3)
  assert 0.25 <= found["low"] < found["value"] < found["high"] <= 1


# -------------------------------------------------------------------- summarise
def test_pass_at_1_and_pass_at_k():
  summary = summarise(
    [
      scored("1", "1000", source="a", tags={"level": "1"}),
      scored("2", "1111", source="a", tags={"level": "2"}),
      scored("3", "0000", source="b", tags={"level": "1"}),
    ],
    dynamath.BENCHMARK,
  )
  assert summary["samples"] == 4
  assert summary["pass_at_1"]["value"] == pytest.approx(1.25 / 3)
  # 1 - C(3, k) / C(4, k) for the first: 1/4, 1/2, 1.
  found = {k: p["value"] for k, p in summary["pass_at_k"].items()}
  assert found == pytest.approx({"1": 1.25 / 3, "2": 1.5 / 3, "4": 2 / 3})
  assert summary["by_source"]["a"]["value"] == pytest.approx(0.625)
  assert summary["status"]["right"] == 5 and summary["status"]["wrong"] == 7
  levels = summary["splits"]["level"]
  assert {k: v["value"] for k, v in levels.items()} == {"1": 0.125, "2": 1.0}


def test_own_problems_are_split_by_their_tags():
  summary = summarise(
    [
      scored("1", "1", tags={"level": "L1", "kind": "sum"}),
      scored("2", "0", tags={"level": "L2"}),
    ],
    PLAIN,
  )
  rates = {
    tag: {name: each["value"] for name, each in split.items()}
    for tag, split in summary["splits"].items()
  }
  assert rates == {"level": {"L1": 1, "L2": 0}, "kind": {"": 0, "sum": 1}}


def test_own_problems_without_tags_have_no_splits():
  summary = summarise([scored("1", "1")], PLAIN)
  assert summary["splits"] == {} and summary["metrics"] == {}
  assert summary["pass_at_1"]["value"] == 1.0


# --------------------------------------------------------------------- DynaMath
def variants(question, *rights):
  return [
    scored(f"dynamath/trial{i}/{question}", right)
    for i, right in enumerate(rights, start=1)
  ]


def test_dynamath_worst_case_needs_every_variant():
  found = dynamath.metrics(
    [
      *variants("17", "1", "1", "1"),
      *variants("2", "1", "0", "1"),
      *variants("31", "0", "0", "0"),
      *variants("4", "1", "1", "1"),
    ]
  )
  assert found["average"]["value"] == pytest.approx(8 / 12)
  assert found["average"]["n"] == 12
  assert found["worst case"]["value"] == 0.5
  assert found["worst case"]["n"] == 4
  low, high = wilson(2, 4)
  assert (found["worst case"]["low"], found["worst case"]["high"]) == (
    low,
    high,
  )


def test_dynamath_worst_case_of_several_samples_is_their_mean():
  """A sampling is right where every variant is right in it."""
  assert dynamath.worst(variants("1", "110", "101", "111")) == pytest.approx(
    1 / 3
  )
  assert dynamath.worst(variants("1", "10", "01")) == 0.0
  with pytest.raises(ValueError, match="shorter"):
    dynamath.worst(variants("1", "10", "1"))


def test_dynamath_counts_questions():
  problems = [
    s.problem for s in [*variants("5", "1", "1"), *variants("6", "1")]
  ]
  first = dynamath.BENCHMARK.first(problems, 1)
  assert [p.id for p in first] == ["dynamath/trial1/5", "dynamath/trial2/5"]
  assert dynamath.BENCHMARK.first(problems, 0) == problems


# ---------------------------------------------------------------------- MV-MATH
def stepwise(name, *rows):
  outcomes = {"1": Status.RIGHT, "0": Status.WRONG}
  grades = [
    Grade(
      status=Status.RIGHT if "0" not in row else Status.WRONG,
      steps=tuple(outcomes[step] for step in row),
    )
    for row in rows
  ]
  answer = "; ".join(f"({i}) {i}" for i in range(1, len(rows[0]) + 1))
  asked = problem(name, answer, tags={"type": "multi-step"})
  return Scored(problem=asked, grades=tuple(grades))


def test_mv_math_counts_steps_and_whole_problems():
  found = mv_math.metrics(
    [
      scored("1", "1", tags={"type": "choice"}),
      scored("2", "0", tags={"type": "choice"}),
      scored("3", "1", tags={"type": "single-step"}),
      stepwise("4", "110"),
      stepwise("5", "11"),
    ]
  )
  assert {name: rate["value"] for name, rate in found.items()} == {
    "choice": 0.5,
    "free-form": 1.0,
    "multi-step": 0.5,  # question completeness
    "steps": 0.8,  # step accuracy: 4 of 5
  }
  assert found["steps"]["n"] == 5


def test_mv_math_steps_of_a_response_that_was_cut_off():
  cut = Scored(
    problem=stepwise("4", "111").problem,
    grades=(Grade(status=Status.TRUNCATED), *stepwise("4", "101").grades),
  )
  assert mv_math.step_scores(cut) == [0.5, 0.0, 0.5]
