"""MathVista, testmini: visual mathematics from 31 data sets.

The hint is MathVista's where the files have it (`query` in the Hub's Parquet) and
ours where they do not (GitHub). Choices are graded by letter or text, numbers to
the decimals that the problem asks for, lists in order.

Upstream rule (`calculate_score.py`): an answer that is no letter becomes the
nearest option by edit distance, so every response chooses one; integers are
truncated, floats rounded, then texts are compared.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from sophia_jax.evals.benchmarks.base import (
  Benchmark,
  Item,
  Rule,
  answer_in,
  answer_items,
  number_items,
)
from sophia_jax.evals.benchmarks.mmmu import CHOICE
from sophia_jax.types import Problem

_LETTER = re.compile(r"\(([a-zA-Z])\)")


def pose(problem: Problem) -> Problem:
  """Sets hint and tolerance by answer type and decimals."""
  decimals = int(problem.tags.get("decimals", "0"))
  hint = problem.hint or _hint(problem, decimals)
  problem = dataclasses.replace(problem, hint=hint)
  if problem.answer_type != "number" or not decimals:
    return problem
  return dataclasses.replace(problem, tolerance=(0.5 * 10.0**-decimals,))


def _hint(problem: Problem, decimals: int) -> str:
  if problem.answer_type == "choice":
    return CHOICE
  if problem.answer_type == "list":
    return "Hint: Answer with a list, such as [1, 2, 3]."
  if decimals:
    return f"Hint: Answer with a number that has {decimals} decimals."
  return "Hint: Answer with an integer."


def items(problem: Problem, response: str) -> Sequence[Item]:
  """Compares numbers as formulas too."""
  number = problem.answer_type == "number"
  return (number_items if number else answer_items)(problem, response)


# ---------------------------------------------------------------- upstream rule
def upstream(problem: Problem, response: str) -> Sequence[Item]:
  """Compares as the official script does."""
  answer = answer_in(problem, response)
  exact = dataclasses.replace(problem, answer_type="string", choices=())
  if problem.choices:
    return ((_option(answer, problem.choices), exact),)
  try:
    value = float(answer)
  except ValueError:
    return ((answer if problem.answer_type == "list" else "", exact),)
  if not math.isfinite(value):
    return (("", exact),)
  decimals = int(problem.tags.get("decimals", "0"))
  shown = str(round(value, decimals)) if decimals else str(int(value))
  return ((shown, exact),)


def _option(answer: str, choices: Sequence[str]) -> str:
  """Returns the option that a letter names, else the nearest one."""
  letter = _LETTER.search(answer)
  name = letter[1].upper() if letter else answer.strip()
  letters = [chr(ord("A") + i) for i in range(len(choices))]
  if name in letters:
    return choices[letters.index(name)]
  return min(choices, key=lambda choice: edits(name, choice))


def edits(a: str, b: str) -> int:
  """Returns the Levenshtein distance: insertions, deletions, substitutions."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, start=1):
    corner, row[0] = row[0], i
    for j, y in enumerate(b, start=1):
      change = corner + (x != y)
      corner = row[j]
      row[j] = min(change, row[j] + 1, row[j - 1] + 1)
  return row[-1]


BENCHMARK = Benchmark(
  name="mathvista",
  title="MathVista",
  importer="mathvista",
  needs="data/testmini.json with images/, or the Hub's testmini-*.parquet",
  sizes={1000: "testmini"},
  pose=pose,
  rule=Rule(items=items),
  upstream=Rule(items=upstream),
  splits=("task", "context", "grade", "category"),
)
