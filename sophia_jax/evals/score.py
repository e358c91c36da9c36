"""Marks responses that somebody else's model gave to a benchmark.

  python -m sophia_jax.evals.score --benchmark=mathvision --data=test.jsonl \\
    --responses=R.jsonl --out=V.jsonl

Reads lines {"id", "response"}, ids as in the official file, and writes a line
{"id", "extracted", "correct", "status"} for each that is in the benchmark, in
their order; images need not be there. "sample" numbers several responses to a
problem, and "finish": "length" says that one was cut off.

Standard output has the scores: missing problems count as wrong, of a response
given twice the first counts. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.data.schema import numbered_lines, parse_line
from sophia_jax.evals import tables
from sophia_jax.evals.benchmarks import BENCHMARKS, find_benchmark
from sophia_jax.evals.benchmarks.base import Benchmark, Mark, Scored
from sophia_jax.evals.evaluate import AT_ONCE, mark_each
from sophia_jax.evals.summary import summarise
from sophia_jax.files import write_jsonl
from sophia_jax.types import FinishReason, Problem, SophiaError, Status, host

SHOWN = 5
"""Ids that a line about them lists."""
EXAMPLE = (
  "example: python -m sophia_jax.evals.score --benchmark=mathvision "
  "--data=MATH-V --responses=R.jsonl --out=V.jsonl"
)


@host
class Given:
  """A line of the responses. `problem` is None if the benchmark has none."""

  id: str
  sample: int
  text: str
  finish: FinishReason
  problem: Problem | None


# --------------------------------------------------------------------- reading
def read_responses(
  path: Path, problems: Mapping[str, Problem]
) -> Iterator[Given]:
  """The lines of a file of responses.

  Args:
    problems: by every name that a line may call one.

  Raises:
    SophiaError: "FILE:LINE: what; remedy" of the first broken line.
  """
  number = 0
  for number, line in numbered_lines(path):
    values, errors = parse_line(line)
    error = errors[0] if values is None else _error(values)
    if values is None or error:
      raise SophiaError(f"{path}:{number}: {error}")
    name = str(values["id"])
    yield Given(
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
  """What is wrong with a line; None if nothing is."""
  for key in ("id", "response"):
    if key not in values:
      return f"{key} is missing; every line needs one"
  if isinstance(values["id"], bool) or not isinstance(values["id"], str | int):
    return "id must be a string; put it in quotes"
  if not isinstance(values["response"], str):
    return "response must be a string; write what the model said"
  sample = values.get("sample", 0)
  if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
    return "sample must be a number from 0; leave it out if there is one"
  if values.get("finish", "stop") not in [*FinishReason]:
    return f"finish must be one of {', '.join(FinishReason)}; or leave it out"
  return None


def by_name(problems: Sequence[Problem]) -> dict[str, Problem]:
  """Problems by our id, "mathvision/4", and by the official one, "4"."""
  names = {problem.id.partition("/")[2]: problem for problem in problems}
  return names | {problem.id: problem for problem in problems}


# --------------------------------------------------------------------- marking
class Scorer:
  """Marks a stream of responses and keeps what the scores need."""

  def __init__(
    self, benchmark: Benchmark, problems: Sequence[Problem], upstream: bool
  ):
    """Raises SophiaError if `upstream` is asked for and there is no such rule."""
    self.benchmark, self.problems = benchmark, problems
    rule = benchmark.upstream if upstream else benchmark.rule
    if rule is None:
      raise SophiaError(
        f"--upstream: {benchmark.name} has no rule of its own; leave it out"
      )
    self.rule = rule
    self.marks: dict[tuple[str, int], Mark] = {}
    """By problem and sample; the first of each."""
    self.unknown: list[str] = []
    self.twice: list[str] = []

  def mark(
    self, given: Iterable[Given], **limits: Any
  ) -> Iterator[dict[str, Any]]:
    """The line of each response that is in the benchmark."""
    with self.rule.verifier(**limits) as verifier:
      for chunk in _chunks(given, AT_ONCE):
        known = [(one, one.problem) for one in chunk if one.problem is not None]
        self.unknown += [one.id for one in chunk if one.problem is None]
        answered = ((problem, one.text, one.finish) for one, problem in known)
        marks = mark_each(answered, self.rule, verifier)
        for (one, problem), mark in zip(known, marks, strict=True):
          self._keep(one, problem, mark)
          yield {
            "id": one.id,
            "extracted": mark.extracted,
            "correct": mark.right,
            "status": mark.status.value,
          }

  def _keep(self, one: Given, problem: Problem, mark: Mark) -> None:
    if (problem.id, one.sample) in self.marks:
      self.twice.append(one.id)
    self.marks.setdefault((problem.id, one.sample), mark)

  def summary(self) -> dict[str, Any]:
    """Scores over all problems; one without a response is wrong."""
    samples = 1 + max((sample for _, sample in self.marks), default=0)
    none = Mark(status=Status.UNPARSEABLE)
    scored = [
      Scored(
        problem=problem,
        marks=tuple(
          self.marks.get((problem.id, i), none) for i in range(samples)
        ),
      )
      for problem in self.problems
    ]
    found = summarise(scored, self.benchmark)
    counts = collections.Counter(mark.status for mark in self.marks.values())
    given = {name for name, _ in self.marks}
    missing = [p.id for p in self.problems if p.id not in given]
    answered = [s for s in scored if s.problem.id in given]
    return {
      **found,
      "answered": summarise(answered, self.benchmark)["pass_at_1"],
      "benchmark": self.benchmark.name,
      "title": self.benchmark.title,
      "part": self.benchmark.part(self.problems),
      "status": {status.value: counts[status] for status in Status},
      "responses": len(self.marks),
      "missing": missing,
      "unknown": self.unknown,
      "twice": self.twice,
    }


def _chunks(given: Iterable[Given], size: int) -> Iterator[list[Given]]:
  chunk: list[Given] = []
  for one in given:
    chunk.append(one)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


# ---------------------------------------------------------------- command line
def report(summary: Mapping[str, Any]) -> list[str]:
  """The scores as text; ids that are missing, unknown or there twice."""
  lines = tables.scores(summary)
  if summary["missing"]:
    lines += tables.rates({"": summary["answered"]}, "only what has a response")
  for what, why in (
    ("missing", "have no response and count as wrong"),
    ("unknown", "are not in the benchmark and were left out"),
    ("twice", "were given again; the first counts"),
  ):
    if ids := summary[what]:
      listed = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
      lines.append(f"{len(ids)} ids {why}: {listed}")
  counts = {key: len(summary[key]) for key in ("missing", "unknown", "twice")}
  lines.append(json.dumps({**summary, **counts}))
  return lines


def score(args: argparse.Namespace) -> list[str]:
  """Marks the file and writes the verdicts; what there is to print.

  Raises:
    SophiaError: a file cannot be used, or none of its ids is known.
  """
  benchmark = find_benchmark(args.benchmark)
  problems = benchmark.answers(
    Path(args.data), lambda line: print(line, file=sys.stderr)
  )
  scorer = Scorer(benchmark, problems, args.upstream)
  path = Path(args.responses)
  given = read_responses(path, by_name(problems))
  written = write_jsonl(
    args.out, _some(scorer.mark(given, workers=args.workers), scorer, path)
  )
  return [f"{args.out}: {written} verdicts", *report(scorer.summary())]


def _some(
  lines: Iterator[dict[str, Any]], scorer: Scorer, path: Path
) -> Iterator[dict[str, Any]]:
  """Raises after the last line, before the file gets its name."""
  yield from lines
  if not scorer.marks:
    raise SophiaError(
      f"{path}: none of its {len(scorer.unknown)} ids is in "
      f"{scorer.benchmark.name}, such as {scorer.unknown[0]!r}; the first of "
      f"the benchmark is {scorer.problems[0].id.partition('/')[2]!r}"
    )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sophia_jax.evals.score",
    description="Marks responses to a benchmark.",
    epilog=EXAMPLE,
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
    help="mark by the benchmark's published rule, where it has one",
  )
  parser.add_argument(
    "--workers", type=int, default=2, help="processes that compare formulas"
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """The command line; returns the exit code."""
  args = _parser().parse_args(argv)
  try:
    print("\n".join(score(args)))
  except SophiaError as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
