"""Grades of responses that another program sampled on a benchmark.

  python -m sophia_jax.evals.score --benchmark=mathvision --data=test.jsonl \\
    --responses=R.jsonl --out=V.jsonl

Reads lines {"id", "response"}, with ids of the official file, and writes a line
{"id", "extracted", "correct", "status"} for each problem of the benchmark, in the
same order; no images are needed. "sample" numbers several responses to a problem,
and "finish": "length" says that one was truncated.

Standard output has the scores: a missing problem counts as wrong, and the first
of two responses with the same id counts. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax import commands
from sophia_jax.data.schema import numbered_lines, parse_line
from sophia_jax.evals import tables
from sophia_jax.evals.benchmarks import BENCHMARKS, find_benchmark
from sophia_jax.evals.benchmarks.base import Benchmark, Grade, Scored
from sophia_jax.evals.evaluate import AT_ONCE, grade_each
from sophia_jax.evals.summary import summarise
from sophia_jax.files import write_jsonl
from sophia_jax.types import FinishReason, Problem, SophiaError, Status, host

SHOWN = 5
"""Most ids in a line about them."""
EXAMPLE = (
  "python -m sophia_jax.evals.score --benchmark=mathvision "
  "--data=MATH-V --responses=R.jsonl --out=V.jsonl"
)


@host
class GivenResponse:
  """A line of the file of responses."""

  id: str
  sample: int
  text: str
  finish: FinishReason
  problem: Problem | None
  """The problem; None: not in the benchmark."""


# --------------------------------------------------------------------- reading
def read_responses(
  path: Path, problems: Mapping[str, Problem]
) -> Iterator[GivenResponse]:
  """Yields the lines of a file of responses.

  Args:
    problems: problems by all their names.

  Raises:
    SophiaError: "FILE:LINE: what; remedy" for the first broken line.
  """
  number = 0
  for number, line in numbered_lines(path):
    values, errors = parse_line(line)
    error = errors[0] if values is None else _error(values)
    if values is None or error:
      raise SophiaError(f"{path}:{number}: {error}")
    name = str(values["id"])
    yield GivenResponse(
      id=name,
      sample=values.get("sample", 0),
      text=values["response"],
      finish=FinishReason(values.get("finish", "stop")),
      problem=problems.get(name),
    )
  if not number:
    raise SophiaError(
      f'{path}:1: the file holds no line; write {{"id", "response"}} a line'
    )


def _error(values: Mapping[str, Any]) -> str | None:
  """Returns the fault of a line, or None."""
  for key in ("id", "response"):
    if key not in values:
      return f"{key} is missing; every line needs one"
  if isinstance(values["id"], bool) or not isinstance(values["id"], str | int):
    return "id must be a string; put it in quotes"
  if not isinstance(values["response"], str):
    return "response must be a string; write the model's text"
  sample = values.get("sample", 0)
  if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
    return "sample must be a number from 0; leave it out if there is one"
  ends = (FinishReason.STOP, FinishReason.LENGTH)
  if values.get("finish", "stop") not in ends:
    return f"finish must be one of {', '.join(ends)}; or leave it out"
  return None


def by_name(problems: Sequence[Problem]) -> dict[str, Problem]:
  """Maps our ids ("mathvision/4") and the official ones ("4") to problems."""
  names = {problem.id.partition("/")[2]: problem for problem in problems}
  return names | {problem.id: problem for problem in problems}


# --------------------------------------------------------------------- grading
class Scorer:
  """Grades responses one after another and keeps the grades for the scores."""

  def __init__(
    self, benchmark: Benchmark, problems: Sequence[Problem], upstream: bool
  ):
    """Selects the rule.

    Raises:
      SophiaError: `upstream`, and the benchmark has no published rule.
    """
    self.benchmark, self.problems = benchmark, problems
    rule = benchmark.upstream if upstream else benchmark.rule
    if rule is None:
      raise SophiaError(
        f"--upstream: {benchmark.name} has no rule of its own; leave it out"
      )
    self.rule = rule
    self.grades: dict[tuple[str, int], Grade] = {}
    """First grade of each (problem id, sample)."""
    self.unknown: list[str] = []
    """Ids that the benchmark does not have."""
    self.twice: list[str] = []
    """Ids of repeated responses."""

  def grade(
    self, responses: Iterable[GivenResponse], **limits: Any
  ) -> Iterator[dict[str, Any]]:
    """Yields the verdict of each response to a problem of the benchmark."""
    with self.rule.verifier(**limits) as verifier:
      for chunk in _chunks(responses, AT_ONCE):
        known = [(r, r.problem) for r in chunk if r.problem is not None]
        self.unknown += [r.id for r in chunk if r.problem is None]
        answered = ((problem, r.text, r.finish) for r, problem in known)
        grades = grade_each(answered, self.rule, verifier)
        for (response, problem), grade in zip(known, grades, strict=True):
          self._keep(response, problem, grade)
          yield {
            "id": response.id,
            "extracted": grade.extracted,
            "correct": grade.right,
            "status": grade.status.value,
          }

  def _keep(
    self, response: GivenResponse, problem: Problem, grade: Grade
  ) -> None:
    key = problem.id, response.sample
    if key in self.grades:
      self.twice.append(response.id)
    self.grades.setdefault(key, grade)

  def summary(self) -> dict[str, Any]:
    """Computes the scores; a problem without a response counts as wrong."""
    samples = 1 + max((sample for _, sample in self.grades), default=0)
    none = Grade(status=Status.UNPARSEABLE)
    scored = [
      Scored(
        problem=problem,
        grades=tuple(
          self.grades.get((problem.id, i), none) for i in range(samples)
        ),
      )
      for problem in self.problems
    ]
    scores = summarise(scored, self.benchmark)
    counts = collections.Counter(grade.status for grade in self.grades.values())
    graded = {name for name, _ in self.grades}
    missing = [p.id for p in self.problems if p.id not in graded]
    answered = [s for s in scored if s.problem.id in graded]
    return {
      **scores,
      "answered": summarise(answered, self.benchmark)["pass_at_1"],
      "benchmark": self.benchmark.name,
      "title": self.benchmark.title,
      "part": self.benchmark.part(self.problems),
      "status": {status.value: counts[status] for status in Status},
      "responses": len(self.grades),
      "missing": missing,
      "unknown": self.unknown,
      "twice": self.twice,
    }


def _chunks(
  responses: Iterable[GivenResponse], size: int
) -> Iterator[list[GivenResponse]]:
  chunk: list[GivenResponse] = []
  for response in responses:
    chunk.append(response)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


# ---------------------------------------------------------------- command line
def report(summary: Mapping[str, Any]) -> list[str]:
  """Formats the scores, and ids that are missing, unknown or repeated."""
  lines = tables.scores(summary)
  if summary["missing"]:
    lines += tables.rates({"": summary["answered"]}, "only what has a response")
  for what, why in (
    ("missing", "have no response and count as wrong"),
    ("unknown", "are not in the benchmark and were left out"),
    ("twice", "are repeated; the first counts"),
  ):
    if ids := summary[what]:
      listed = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
      lines.append(f"{len(ids)} ids {why}: {listed}")
  counts = {key: len(summary[key]) for key in ("missing", "unknown", "twice")}
  lines.append(json.dumps({**summary, **counts}))
  return lines


def score(args: argparse.Namespace) -> list[str]:
  """Grades the file, writes the verdicts and returns the lines to print.

  Raises:
    SophiaError: a file cannot be used, or no id is known.
  """
  benchmark = find_benchmark(args.benchmark)
  problems = benchmark.answers(
    Path(args.data), lambda line: print(line, file=sys.stderr)
  )
  scorer = Scorer(benchmark, problems, args.upstream)
  path = Path(args.responses)
  responses = read_responses(path, by_name(problems))
  written = write_jsonl(
    args.out, _some(scorer.grade(responses, workers=args.workers), scorer, path)
  )
  return [f"{args.out}: {written} verdicts", *report(scorer.summary())]


def _some(
  lines: Iterator[dict[str, Any]], scorer: Scorer, path: Path
) -> Iterator[dict[str, Any]]:
  """Checks after the last line, before the file gets its name."""
  yield from lines
  if not scorer.grades:
    raise SophiaError(
      f"{path}: none of its {len(scorer.unknown)} ids is in "
      f"{scorer.benchmark.name}, such as {scorer.unknown[0]!r}; the first of "
      f"the benchmark is {scorer.problems[0].id.partition('/')[2]!r}"
    )


def _parser() -> commands.Parser:
  parser = commands.Parser(
    prog="python -m sophia_jax.evals.score",
    description="Grades responses to a benchmark.",
    example=EXAMPLE,
  )
  parser.add_argument(
    "--benchmark", required=True, help=f"one of {', '.join(BENCHMARKS)}"
  )
  parser.add_argument(
    "--data", required=True, help="the official file, or its folder"
  )
  parser.add_argument(
    "--responses", required=True, help='JSONL of {"id", "response"}'
  )
  parser.add_argument("--out", required=True, help="JSONL to write")
  parser.add_argument(
    "--upstream",
    action="store_true",
    help="grade by the benchmark's published rule, where it has one",
  )
  parser.add_argument(
    "--workers", type=int, default=2, help="processes that compare formulas"
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit code."""
  args = _parser().parse_args(argv)

  def work() -> int:
    print("\n".join(score(args)))
    return 0

  return commands.run(work)


if __name__ == "__main__":
  sys.exit(main())
