"""MMMU, validation: college questions of thirty subjects, several images each.

Choices are shown as "A. text"; the hint asks for a letter, or for a short answer
to an open question. The verifier grades choices by letter or text, open answers
by the form of the gold answer. A response without an option is wrong; the
official script draws a random option for it. The paper judges MMMU with an LLM.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.evals.benchmarks.base import Benchmark
from sophia_jax.types import Problem

CHOICE = "Hint: Answer with the letter of the right option."
_OPEN = "Hint: Answer with a single word, phrase or number."


def pose(problem: Problem) -> Problem:
  """Sets the hint."""
  choice = problem.answer_type == "choice"
  return dataclasses.replace(problem, hint=CHOICE if choice else _OPEN)


BENCHMARK = Benchmark(
  name="mmmu",
  title="MMMU",
  importer="mmmu",
  needs="MMMU/MMMU of the Hub: SUBJECT/validation-*.parquet",
  sizes={900: "val"},
  pose=pose,
  judged=True,
  splits=("subject", "difficulty", "kind"),
)
