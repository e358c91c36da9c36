r"""MV-MATH: school problems that show several images.

1,109 choices (by letter), 800 free-form, 100 in several steps. A problem in
steps is right if every step is (question completeness); step accuracy counts
steps. The official scripts and the paper judge all three with an LLM. The rule
here splits answers at (1), (2), ...: an answer whose parts have parts, or that is
a sentence, rarely grades as right.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from sophia_jax.evals.benchmarks.base import (
  Benchmark,
  Item,
  Rule,
  Scored,
  all_right,
  answer_items,
)
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.evals.rates import Rate, grouped, rate
from sophia_jax.rewards.extract import TAIL_CHARS, after_thinking, last_boxed
from sophia_jax.types import Problem, Status

_STEPS = (
  "Hint: Answer every part. End with the answers of all parts in one "
  "\\boxed{}, in the form (1) ...; (2) ...."
)
_NUMBER = re.compile(r"[(（]\s?(\d{1,2})\s?[)）]")
_AROUND = " \t\r\n;；,，.。:：$"


def pose(problem: Problem) -> Problem:
  """Sets the hint of choices and of problems in steps."""
  if problem.answer_type == "choice":
    return dataclasses.replace(problem, hint=CHOICE)
  if stepwise(problem):
    return dataclasses.replace(problem, hint=_STEPS)
  return problem


def stepwise(problem: Problem) -> bool:
  """Returns whether a problem has several steps."""
  return problem.tags.get("type") == "multi-step"


def kind(problem: Problem) -> str:
  """Returns choice, free-form (single-step in the data) or multi-step."""
  name = problem.tags.get("type", "")
  return "free-form" if name == "single-step" else name


def steps(text: str) -> list[str]:
  """Splits at (1), (2), ... in this order: "(1) 70; (2) 5" -> ["70", "5"].

  Text without such numbers is one step.
  """
  starts: list[tuple[int, int]] = []
  for number in _NUMBER.finditer(text):
    if int(number[1]) == len(starts) + 1:
      starts.append(number.span())
  ends = [start for start, _ in starts[1:]] + [len(text)]
  parts = [text[start:end] for (_, start), end in zip(starts, ends)]
  return [_clean(part) for part in parts] or [_clean(text)]


def _clean(part: str) -> str:
  """Strips separators; dollars only as a pair."""
  part = part.strip(_AROUND.replace("$", ""))
  return part.strip(_AROUND) if part.count("$") == 2 else part


def items(problem: Problem, response: str) -> Sequence[Item]:
  """Compares step by step; steps that a response lacks are wrong."""
  if not stepwise(problem):
    return answer_items(problem, response)
  text = (after_thinking(response) or "")[-TAIL_CHARS:]
  answers = steps(last_boxed(text) or text)
  golds = steps(problem.answer)
  answers += [""] * (len(golds) - len(answers))
  return [
    (
      answer,
      dataclasses.replace(
        problem, id=f"{problem.id}/{i}", answer=gold, answer_type="auto"
      ),
    )
    for i, (answer, gold) in enumerate(zip(answers, golds), start=1)
  ]


def metrics(scored: Sequence[Scored]) -> dict[str, Rate]:
  """Computes pass@1 of each kind of problem, and the share of right steps."""
  rates = {
    name: rate([[s.score] for s in group])
    for name, group in sorted(
      grouped(scored, lambda s: kind(s.problem)).items()
    )
  }
  counted = [step_scores(s) for s in scored if stepwise(s.problem)]
  return {**rates, "steps": rate(counted)} if counted else rates


def step_scores(scored: Scored) -> list[float]:
  """Returns for each step the share of samples that have it right."""
  count = len(steps(scored.problem.answer))
  # A grade of the whole answer has no steps.
  rows = [grade.steps or (grade.status,) * count for grade in scored.grades]
  return [
    sum(row[i : i + 1] == (Status.RIGHT,) for row in rows) / len(rows)
    for i in range(count)
  ]


BENCHMARK = Benchmark(
  name="mv_math",
  title="MV-MATH",
  importer="mv_math",
  needs="data/MV-MATH.json of eternal8080/MV-MATH with images/ of its Hub page",
  sizes={2009: "full"},
  pose=pose,
  judged=True,
  rule=Rule(items=items, combine=all_right),
  splits=("subject", "difficulty", "grade"),
  metrics=metrics,
)
