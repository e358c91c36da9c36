"""Answers verified per second, against bare calls of math-verify.

  python -m benchmarks.verify [--answers=1000] [--rounds=3] [--workers=2]

Two kinds of work with all answers distinct, so that no cache helps: `ordinary`,
60 % numbers and 40 % formulas, and `formulas`, for the `math` verifier and for
`olympiad`. The peer parses and compares the same responses in a loop in one
process, without time limits or protection from hangs. Interleaved, best round of
each; workers start before the measurement. Prints one JSON line for each; `ratio`
is over the peer.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Callable, Sequence

import math_verify

from sophia_jax.rewards.pool import Item, Verifier
from sophia_jax.types import FinishReason, Problem

FORMULAS = (
  ("{a}x+{b}", "{b}+{a}x"),
  ("{a}x+{b}", "{a}x-{b}"),
  (r"\frac{{{a}\sqrt{{{b}}}}}{{2}}", r"\frac{{{a}}}{{2}}\sqrt{{{b}}}"),
  (r"({a},{b})", r"({a}, {b}.0)"),
  (r"{a}\pi r^2", r"\pi {a} r^{{2}}"),
  (r"\sin^2 x+{a}", r"{b}-\cos^2 x"),
  (r"x={a}", r"{a}.0"),
  (r"\frac{{{a}}}{{x+{b}}}", r"\frac{{{a}}}{{{b}+x}}"),
)
NUMBERS = (
  ("{a}.{b}", "{a}.{b}0"),
  ("{a}", "{b}"),
  ("{a}", r"\frac{{{b}}}{{2}}"),
)


def items(kind: str, formulas: float, count: int, seed: int) -> list[Item]:
  """Returns problems with responses, a share of them formulas."""
  rng = random.Random(seed)
  made = []
  for i in range(count):
    is_formula = rng.random() < formulas
    gold, answer = rng.choice(FORMULAS if is_formula else NUMBERS)
    numbers = {"a": rng.randrange(2, 10**6), "b": rng.randrange(2, 10**6)}
    problem = Problem(
      id=str(i),
      question="",
      answer=gold.format(**numbers),
      answer_type=kind if is_formula else "number",
    )
    text = f"So it is \\boxed{{{answer.format(**numbers)}}}."
    made.append((text, problem, FinishReason.STOP))
  return made


def bare(work: Sequence[Item]) -> list[bool]:
  """Parses and compares gold and response with math-verify in a loop."""
  return [
    math_verify.verify(
      math_verify.parse(f"${problem.answer}$", parsing_timeout=None),
      math_verify.parse(text, parsing_timeout=None),
      timeout_seconds=None,
    )
    for text, problem, _ in work
  ]


def rate(verify: Callable[[Sequence[Item]], object], work: list[Item]) -> float:
  start = time.perf_counter()
  verify(work)
  return len(work) / (time.perf_counter() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--answers", type=int, default=1000)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--workers", type=int, default=2)
  args = parser.parse_args()
  logging.disable(
    logging.WARNING
  )  # silences the peer's warning that it has no time limit
  with Verifier(workers=args.workers) as verifier:
    verifier.verify(items("math", 1.0, 100, -1))
    for name, kind, formulas in (
      ("ordinary", "math", 0.4),
      ("formulas", "math", 1.0),
      ("formulas", "olympiad", 1.0),
    ):
      ours, peer = 0.0, 0.0
      for seed in range(args.rounds):
        work = items(kind, formulas, args.answers, seed)
        ours = max(ours, rate(verifier.verify, work))
        peer = max(peer, rate(bare, work))
      result = {
        "benchmark": "verify",
        "work": name,
        "verifier": kind,
        "workers": args.workers,
        "answers": args.answers,
        "answers_per_s": round(ours, 1),
        "math_verify_per_s": round(peer, 1),
        "ratio": round(ours / peer, 2),
      }
      print(json.dumps(result), flush=True)


if __name__ == "__main__":
  main()
