"""DynaMath: 501 questions, each in ten variants made by a program.

The average counts all 5,010 variants; the worst case counts a question as right
if all its variants are. Gold answers are rounded to about three decimals, so a
number is right within 0.001. Options compare by their letter, coordinates and
codes item by item, a time with or without the leading zero of its minutes.

Upstream rule: |difference| <= 0.001 for a plain float or a multiple of pi, the
letter among an option's first three characters, any text that contains the gold
answer. The answer is the "short answer" of a JSON object, else the last line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence

from sophia_jax.evals.benchmarks.base import (
  Benchmark,
  Item,
  Rule,
  Scored,
  answer_in,
  decided,
  number_items,
)
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.evals.rates import Rate, grouped, rate
from sophia_jax.rewards.extract import TAIL_CHARS, after_thinking, last_boxed
from sophia_jax.types import Problem

TOLERANCE = 1e-3
_DECIMALS = "Hint: Answer with a number that has three decimals."
_LIST = re.compile(r"[\[(].*,.*[\])]", re.DOTALL)
_CLOCK = re.compile(r"(\d{1,2}):(\d)")


def pose(problem: Problem) -> Problem:
  """Sets hint and tolerance by answer type."""
  if problem.answer_type == "choice":
    return dataclasses.replace(problem, hint=CHOICE)
  if problem.answer_type == "number":
    return dataclasses.replace(problem, hint=_DECIMALS, tolerance=(TOLERANCE,))
  if _LIST.fullmatch(problem.answer.strip()):
    return dataclasses.replace(
      problem, answer_type="list", tolerance=(TOLERANCE,)
    )
  return problem


def _on_the_clock(text: str) -> str:
  """Writes minutes with two digits: 3:0 -> 3:00."""
  return _CLOCK.sub(r"\1:0\2", text) if _CLOCK.fullmatch(text) else text


def items(problem: Problem, response: str) -> Sequence[Item]:
  """Compares times with two-digit minutes, and numbers as formulas too."""
  if problem.answer_type == "number":
    return number_items(problem, response)
  gold = _on_the_clock(problem.answer)
  answer = _on_the_clock(answer_in(problem, response).strip())
  return ((answer, dataclasses.replace(problem, answer=gold)),)


# ---------------------------------------------------------------- upstream rule
def upstream(problem: Problem, response: str) -> Sequence[Item]:
  """Compares as the official script does."""
  answer = short_answer(response)
  if problem.answer_type == "choice":
    right = problem.answer in answer[:3]
  elif problem.answer_type == "number":
    right = abs(_value(answer) - float(problem.answer)) <= TOLERANCE
  else:
    right = problem.answer in answer
  return (decided(problem, answer, right),)


def short_answer(response: str) -> str:
  """Returns the "short answer" of the requested JSON object, else the last box
  or line."""
  text = (after_thinking(response) or "")[-TAIL_CHARS:]
  start, end = text.find("{"), text.rfind("}") + 1
  try:
    values = json.loads(text[start:end], strict=False)
  except (ValueError, RecursionError):
    values = None
  if isinstance(values, dict) and "short answer" in values:
    return str(values["short answer"])
  return last_boxed(text) or text.rstrip().rpartition("\n")[2][:-1]


def _value(text: str) -> float:
  """Parses a float, alone or before the letter pi; nan for other text."""
  number, pi, _ = text.partition(" ")[0].partition("π")
  try:
    return float(number) * (math.pi if pi else 1.0)
  except ValueError:
    return math.nan


# --------------------------------------------------------------------- counting
def question(problem: Problem) -> str:
  """Returns the question of a variant: "dynamath/trial3/17" -> "17"."""
  return problem.id.rpartition("/")[2]


def metrics(scored: Sequence[Scored]) -> dict[str, Rate]:
  """Computes the average over variants and the worst case of each question."""
  groups = [*grouped(scored, lambda s: question(s.problem)).values()]
  return {
    "average": rate([[s.score for s in group] for group in groups]),
    "worst case": rate([[worst(group)] for group in groups]),
  }


def worst(variants: Sequence[Scored]) -> float:
  """Returns the share of samples in which every variant is right."""
  rounds = [*zip(*(s.grades for s in variants), strict=True)]
  return sum(all(m.right for m in grades) for grades in rounds) / len(rounds)


BENCHMARK = Benchmark(
  name="dynamath",
  title="DynaMath",
  importer="dynamath",
  needs='"samples and result/10trials" of DynaMath/DynaMath',
  sizes={5010: "501 questions in ten variants", 501: "one variant"},
  pose=pose,
  rule=Rule(items=items),
  upstream=Rule(items=upstream),
  unit=question,
  splits=("subject", "level"),
  metrics=metrics,
)
