r"""MathVision (MATH-V): competition problems with an image.

Without test.jsonl, testmini is read; `mathvision_testmini` always reads that.
Choices are graded by letter or text, other answers as formulas.

Upstream rule (`evaluate.py`): another extraction (a letter or a number at the
end of the response, "the answer is", the last box); then texts, or LaTeX values
rounded to two decimals, must equal the answer or the text of its option.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from sophia_jax.evals.benchmarks.base import (
  Benchmark,
  Item,
  Rule,
  decided,
  option,
)
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.rewards.extract import TAIL_CHARS, after_thinking
from sophia_jax.types import Problem

_STATED = ("the final answer is", "the answer is", "the correct answer is")
_ANSWER = re.compile(
  "|".join((*_STATED, "the answer should be")), re.IGNORECASE
)
_DROPPED = re.compile(
  r"\s|\\(?:text|mbox|left|right|[,!%$])|\^\{\\circ\}|\^\\circ|\$"
  r"|\{m\}\^3|m\^3|\{units\}|units|\{km\}|km"
)
_FORMULA = re.compile(
  r"\\(?:displaystyle|[dt]?frac|sqrt|pi|times|cdot|div|left|right)"
)
_NUMBER = re.compile(r"[0-9.,:+*/^!{}()\[\]-]+")
_LETTERS = re.compile(r"\(([a-e])\)"), re.compile(r"\{([a-e])\}")


def pose(problem: Problem) -> Problem:
  """Sets the hint of choices."""
  if problem.answer_type != "choice":
    return problem
  return dataclasses.replace(problem, hint=CHOICE)


# ---------------------------------------------------------------- upstream rule
def upstream(problem: Problem, response: str) -> Sequence[Item]:
  """Compares as the official script does: with the answer and the option's
  text."""
  answer = upstream_answer(response)
  golds = [problem.answer.lower()]
  if problem.choices:
    golds.append(option(problem).lower())
  return [_compared(problem, answer, gold) for gold in golds]


def _compared(problem: Problem, answer: str, gold: str) -> Item:
  """Compares texts, or values where the gold answer has one."""
  if answer == gold or not _has_value(gold):
    return decided(problem, answer, answer == gold)
  return answer, dataclasses.replace(
    problem, answer=gold, answer_type="math", choices=()
  )


def _has_value(gold: str) -> bool:
  """Returns whether text is a number or a bracketed tuple, without letters."""
  text = _FORMULA.sub("", "".join(gold.split()).strip("$"))
  in_brackets = text[:1] in ("(", "[")
  return bool(_NUMBER.fullmatch(text)) and ("," not in text or in_brackets)


def upstream_answer(response: str) -> str:
  """Extracts the answer as the official script does, in lower case."""
  text = (after_thinking(response) or "")[-TAIL_CHARS:].strip()
  for letter in "ABCDE":
    ends = (f" {letter}.", f" ({letter}).")
    starts = (f"{letter}\n", f"({letter})\n")
    if text.endswith(ends) or text.startswith(starts):
      text = letter
  tail = text.rpartition("is ")[2].rstrip(".")
  if _is_number(tail):
    text = tail
  if "oxed{" in text:
    text = text.rpartition("oxed{")[2].replace("{}", "")
    text = _until_closed(text)
  elif stated := [*_ANSWER.finditer(text)]:
    text = (
      text[stated[-1].end() :].strip().partition("\n")[0].partition(". ")[0]
    )
  text = text.lower().rpartition("=")[2].rpartition("\\approx")[2]
  text = _DROPPED.sub("", text)
  for brackets in _LETTERS:
    text = brackets.sub(r"\1", text)
  return text.rstrip(".").lstrip(":")


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _until_closed(text: str) -> str:
  """Returns `text` up to the brace that closes the one before it."""
  depth = 1
  for i, char in enumerate(text):
    depth += {"{": 1, "}": -1}.get(char, 0)
    if not depth:
      return text[:i]
  return text


BENCHMARK = Benchmark(
  name="mathvision",
  title="MathVision",
  importer="mathvision",
  needs="data/test.jsonl (or testmini.jsonl) and images/ of mathllm/MATH-V",
  sizes={3040: "test", 304: "testmini"},
  pose=pose,
  upstream=Rule(
    items=upstream,
    comparer="sophia_jax.evals.upstream:two_decimals",
  ),
  splits=("subject", "level"),
)

TESTMINI = dataclasses.replace(
  BENCHMARK,
  name="mathvision_testmini",
  title="MathVision (testmini)",
  needs="data/testmini.jsonl and images/ of mathllm/MATH-V",
  sizes={304: "testmini"},
  files=("testmini.jsonl", "data/testmini.jsonl", "**/testmini*.parquet"),
)
