"""Grades with the help of a language model, as in the paper (App. C).

The model extracts the answer of every response. On MMMU, MathVerse and MV-MATH
it also compares it with the gold answer; on the others the rule does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sophia_jax.evals import llm
from sophia_jax.evals.benchmarks.base import Benchmark, Grade, Rule
from sophia_jax.evals.evaluate import Answered, grade_each
from sophia_jax.rewards.pool import Verifier
from sophia_jax.types import Engine, FinishReason, Status

_STATUS = {True: Status.RIGHT, False: Status.WRONG, None: Status.UNPARSEABLE}


class Reader(NamedTuple):
  """A language model and its cached replies."""

  name: str
  engine: Engine
  cache: llm.Cache


def grade_read(
  answered: Iterable[Answered],
  benchmark: Benchmark,
  rule: Rule,
  verifier: Verifier,
  reader: Reader,
) -> list[Grade]:
  """Grades as `grade_each`, with the answers that `reader` extracts."""
  rows = [*answered]
  responses = (
    (str(i), problem, text)
    for i, (problem, text, finish) in enumerate(rows)
    if finish is FinishReason.STOP
  )
  answers = dict(llm.extract(responses, reader.engine, reader.cache))
  if not benchmark.judged:
    stated = (
      (problem, _stated(answers.get(str(i))), finish)
      for i, (problem, _, finish) in enumerate(rows)
    )
    return grade_each(stated, rule, verifier)
  compared = (
    (name, rows[int(name)][0], answer)
    for name, answer in answers.items()
    if answer is not None
  )
  same = dict(llm.judge(compared, reader.engine, reader.cache))
  return [
    Grade(status=_STATUS[same.get(str(i))], extracted=answers.get(str(i)) or "")
    if finish is FinishReason.STOP
    else Grade(status=Status.TRUNCATED)
    for i, (_, _, finish) in enumerate(rows)
  ]


def _stated(answer: str | None) -> str:
  """Returns a response that states only the answer."""
  if not answer:
    return ""
  if answer.count("{") == answer.count("}"):
    return f"\\boxed{{{answer}}}"
  return f"**Final answer**\n{answer}"
