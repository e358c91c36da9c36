r"""OlympiadBench: olympiad problems in mathematics and physics, two languages.

All open-ended problems, with images and without; proofs are left out.
OlympiadBench's judge (`rewards.verify`, answer type "olympiad") grades, with the
tolerance that a problem states. Upstream rule: the judge with its quirks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sophia_jax.evals.benchmarks.base import Benchmark, Item, Rule
from sophia_jax.rewards.openbmb_text import extract_upstream
from sophia_jax.types import Problem

_FORMS = {
  "Numerical": ("The answer is a number.", "答案是一个数值。"),
  "Expression": ("The answer is an expression.", "答案是一个表达式。"),
  "Equation": ("The answer is an equation.", "答案是一个方程。"),
  "Interval": ("The answer is an interval.", "答案是一个区间。"),
}
_UNIT = (
  "Leave the unit {} out of the answer.",
  "答案中不要写单位 {}。",
)
_SEVERAL = (
  "There are several answers: separate them by commas.",
  "有多个答案：用英文逗号分隔。",
)


def pose(problem: Problem) -> Problem:
  """Sets a hint in the problem's language: form, unit, number of answers."""
  chinese = problem.tags.get("language") == "zh"
  forms = problem.tags.get("form", "").split(",")
  hints = [_FORMS[form][chinese] for form in forms[:1] if form in _FORMS]
  if unit := problem.tags.get("unit"):
    before, after = _UNIT[chinese].split("{}")
    hints.append(before + unit + after)
  if problem.tags.get("answers") == "several":
    hints.append(_SEVERAL[chinese])
  return dataclasses.replace(problem, hint=" ".join(hints))


def upstream(problem: Problem, response: str) -> Sequence[Item]:
  """Extracts as the official script does: the text after its closing words."""
  return ((extract_upstream(response, problem) or "", problem),)


BENCHMARK = Benchmark(
  name="olympiadbench",
  title="OlympiadBench",
  importer="olympiadbench",
  needs="Hothan/OlympiadBench of the Hub: OE_*/OE_*.parquet",
  sizes={6728: "open-ended, both languages"},
  pose=pose,
  upstream=Rule(items=upstream, upstream_compatible=True),
  splits=("subject", "language", "images", "contest", "subfield"),
)
