r"""MV-MATH: school problems that show several images.

1,109 choices (by letter), 800 free-form, 100 in several steps. A problem in
steps is right if every step is (question completeness); step accuracy counts
steps. The official scripts and the paper have an LLM judge all three; the rule
here takes answers apart at (1), (2), ..., so an answer whose parts have parts
of their own, or that is a sentence, is rarely found right.
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
  every,
  judged,
)
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.evals.rates import Rate, grouped, rate
from sophia_jax.rewards.extract import TAIL_CHARS, after_thinking, last_boxed
from sophia_jax.types import Problem, Status

_STEPS = (
  "Hint: Answer every part. End with the answers of all parts in one "
  "\\boxed{}, in the form (1) ...; (2) ...."
)
_MARK = re.compile(r"[(（]\s?(\d{1,2})\s?[)）]")
_AROUND = " \t\r\n;；,，.。:：$"


def pose(problem: Problem) -> Problem:
  if problem.answer_type == "choice":
    return dataclasses.replace(problem, hint=CHOICE)
  if stepwise(problem):
    return dataclasses.replace(problem, hint=_STEPS)
  return problem


def stepwise(problem: Problem) -> bool:
  return problem.tags.get("type") == "multi-step"


def kind(problem: Problem) -> str:
  """choice, free-form (in the data single-step) or multi-step."""
  said = problem.tags.get("type", "")
  return "free-form" if said == "single-step" else said


def steps(text: str) -> list[str]:
  """The answers after (1), (2), ... in this order; all of it if there are none.

  "(1) 70; (2) 5" -> ["70", "5"].
  """
  starts: list[tuple[int, int]] = []
  for mark in _MARK.finditer(text):
    if int(mark[1]) == len(starts) + 1:
      starts.append(mark.span())
  ends = [start for start, _ in starts[1:]] + [len(text)]
  parts = [text[start:end] for (_, start), end in zip(starts, ends)]
  return [_clean(part) for part in parts] or [_clean(text)]


def _clean(part: str) -> str:
  """Without what separates parts; dollars go only as a pair."""
  part = part.strip(_AROUND.replace("$", ""))
  return part.strip(_AROUND) if part.count("$") == 2 else part


def items(problem: Problem, response: str) -> Sequence[Item]:
  """A step each; a response without that many steps misses the last ones."""
  if not stepwise(problem):
    return judged(problem, response)
  text = (after_thinking(response) or "")[-TAIL_CHARS:]
  found = steps(last_boxed(text) or text)
  wanted = steps(problem.answer)
  found += [""] * (len(wanted) - len(found))
  return [
    (
      answer,
      dataclasses.replace(
        problem, id=f"{problem.id}/{i}", answer=gold, answer_type="auto"
      ),
    )
    for i, (answer, gold) in enumerate(zip(found, wanted), start=1)
  ]


def metrics(scored: Sequence[Scored]) -> dict[str, Rate]:
  """pass@1 of each kind of problem, and the share of right steps."""
  rates = {
    name: rate([[s.score] for s in group])
    for name, group in sorted(
      grouped(scored, lambda s: kind(s.problem)).items()
    )
  }
  counted = [step_scores(s) for s in scored if stepwise(s.problem)]
  return {**rates, "steps": rate(counted)} if counted else rates


def step_scores(scored: Scored) -> list[float]:
  """For each step the share of samples that have it right."""
  count = len(steps(scored.problem.answer))
  # Whoever judged the whole said nothing of its steps.
  rows = [mark.steps or (mark.status,) * count for mark in scored.marks]
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
  rule=Rule(items=items, combine=every),
  splits=("subject", "difficulty", "grade"),
  metrics=metrics,
)
