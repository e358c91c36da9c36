"""Agreement of our verdicts with those published by a benchmark's authors.

  python benchmarks/verdicts.py --benchmark=mathvision --data=MATH-V \\
    MATH-V/outputs/closed-source/Gemini/*.jsonl

Reads lines {"id", "response", "correct"}, such as the outputs in MATH-V's
repository, and grades them by our rule and by the published one. Prints a JSON
line a file: the share of equal verdicts, the responses that only we (`ours_only`)
or only they (`theirs_only`) call right, and both accuracies. --show=N lists the
first N disagreements.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sophia_jax.evals.benchmarks import find_benchmark
from sophia_jax.evals.benchmarks.base import Grade, Rule
from sophia_jax.evals.evaluate import grade_each
from sophia_jax.evals.score import by_name
from sophia_jax.types import FinishReason, Problem

Answered = list[tuple[Problem, str, FinishReason]]


def grades(answered: Answered, rule: Rule) -> list[Grade]:
  with rule.verifier(workers=2) as verifier:
    return grade_each(iter(answered), rule, verifier)


def agreement(found: list[Grade], theirs: list[bool]) -> dict[str, float]:
  pairs = [(grade.right, right) for grade, right in zip(found, theirs)]
  return {
    "agreement": sum(a == b for a, b in pairs) / len(pairs),
    "ours_only": pairs.count((True, False)),
    "theirs_only": pairs.count((False, True)),
    "accuracy": sum(a for a, _ in pairs) / len(pairs),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--benchmark", default="mathvision")
  parser.add_argument("--data", type=Path, required=True)
  parser.add_argument("--show", type=int, default=0)
  parser.add_argument("files", nargs="+", type=Path)
  args = parser.parse_args()
  benchmark = find_benchmark(args.benchmark)
  names = by_name(benchmark.answers(args.data))
  rules = {"ours": benchmark.rule}
  if benchmark.upstream:
    rules["upstream"] = benchmark.upstream
  for file in args.files:
    lines = [json.loads(line) for line in file.open(encoding="utf-8")]
    answered = [
      (names[row["id"]], row["response"], FinishReason.STOP) for row in lines
    ]
    theirs = [row["correct"] for row in lines]
    result = {
      "file": file.name,
      "n": len(lines),
      "theirs": sum(theirs) / len(theirs),
    }
    for name, rule in rules.items():
      found = grades(answered, rule)
      result[name] = agreement(found, theirs)
      differing = [i for i, m in enumerate(found) if m.right != theirs[i]]
      for i in differing[: args.show]:
        problem, text, _ = answered[i]
        print(
          f"{name}: {problem.id}: gold {problem.answer!r}, found "
          f"{found[i].extracted!r} ({found[i].status}), theirs {theirs[i]}: "
          f"...{text[-80:]!r}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
  main()
