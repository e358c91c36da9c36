"""Marks with a language model's help, as the paper's are (App. C).

It finds the answer in every response. Of MMMU, MathVerse and MV-MATH it also
says whether that answer is the gold one; of the others the rule does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sophia_jax.evals import llm
from sophia_jax.evals.benchmarks.base import Benchmark, Mark, Rule
from sophia_jax.evals.evaluate import Answered, mark_each
from sophia_jax.rewards.pool import Verifier
from sophia_jax.types import Engine, FinishReason, Status

_STATUS = {True: Status.RIGHT, False: Status.WRONG, None: Status.UNPARSEABLE}


class Reader(NamedTuple):
  """A language model and its replies so far."""

  name: str
  engine: Engine
  cache: llm.Cache


def mark_read(
  answered: Iterable[Answered],
  benchmark: Benchmark,
  rule: Rule,
  verifier: Verifier,
  reader: Reader,
) -> list[Mark]:
  """As `mark_each`, of the answers that `reader` finds in the responses."""
  rows = [*answered]
  asked = (
    (str(i), problem, text)
    for i, (problem, text, finish) in enumerate(rows)
    if finish is FinishReason.STOP
  )
  found = dict(llm.extract(asked, reader.engine, reader.cache))
  if not benchmark.judged:
    answers = (
      (problem, _stated(found.get(str(i))), finish)
      for i, (problem, _, finish) in enumerate(rows)
    )
    return mark_each(answers, rule, verifier)
  compared = (
    (name, rows[int(name)][0], answer)
    for name, answer in found.items()
    if answer is not None
  )
  same = dict(llm.judge(compared, reader.engine, reader.cache))
  return [
    Mark(status=_STATUS[same.get(str(i))], extracted=found.get(str(i)) or "")
    if finish is FinishReason.STOP
    else Mark(status=Status.TRUNCATED)
    for i, (_, _, finish) in enumerate(rows)
  ]


def _stated(answer: str | None) -> str:
  """A response that says nothing but the answer."""
  if not answer:
    return ""
  if answer.count("{") == answer.count("}"):
    return f"\\boxed{{{answer}}}"
  return f"**Final answer**\n{answer}"
