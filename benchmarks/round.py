"""One GRPO round against TRL's GRPOTrainer: same weights, prompts, machine.

  python -m benchmarks.round [--tiny] [--reps=3] [--questions=32]
    [--algorithm=NAME]

Both sample 32 questions x 8 answers of exactly 128 tokens about one image each,
score them, and make one update of the language model with AdamW. Rounds
alternate: ours in this process, TRL's in one with an environment to itself, made on
first use, each with all cores (or one GPU) while the other waits. Rewards are
the same function of the ids. Both score with the reference alone, since one
update a round needs no old log-probabilities.

Prints one JSON line: median seconds of sampling, scoring, update and the whole
of both, the medians of the paired ratios (above 1: ours is faster), and the
parts where ours is slower ("lost"). Each round's seconds go to stderr when it ends:
on two cores one of the full size takes minutes.

Threads of torch that wait for each other spin by default, which on a busy
machine makes TRL many times slower than it is: by default they sleep. On an idle
machine --omp_wait=active may suit TRL better; quote the smaller ratio.

--algorithm=NAME times that method against plain GRPO instead, ours both, on the
same questions with the same number of answers; above 1: GRPO is faster. A teacher
of the method has stored answers, as long as the policy's. "mib" is the largest
resident memory of the process in a round; the models of both lie in it, so that
only the difference counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rollout_embedded import SIZES, Both
from benchmarks.round_ours import Ours, method
from benchmarks.round_task import FULL, PARTS, TINY, Round, task_of
from benchmarks.round_theirs import Theirs


def interleaved(
  works: dict[str, Round], reps: int
) -> dict[str, list[dict[str, float]]]:
  """Makes rounds in alternating order; the first of each compiles and is left
  out."""
  seconds: dict[str, list[dict[str, float]]] = {name: [] for name in works}
  for rep in range(reps + 1):
    for name in sorted(works, reverse=bool(rep % 2)):
      found = works[name]()
      print(f"{rep} {name} {found}", file=sys.stderr, flush=True)
      if rep:
        seconds[name].append(found)
  return seconds


def report(
  seconds: dict[str, list[dict[str, float]]], fast: str, slow: str
) -> dict[str, Any]:
  """Summarises rounds; ratios are `slow`'s seconds over `fast`'s."""
  pairs = list(zip(seconds[fast], seconds[slow], strict=True))
  ratios = {
    part: statistics.median(b[part] / a[part] for a, b in pairs)
    for part in (*PARTS, "cpu")
  }
  measured = [k for k in (*PARTS, "cpu", "mib") if k in seconds[slow][0]]
  return {
    "ratio": {part: round(ratio, 3) for part, ratio in ratios.items()},
    "s": {
      name: {
        part: round(statistics.median(r[part] for r in rounds), 3)
        for part in measured
      }
      for name, rounds in seconds.items()
    },
  }


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
  scale = TINY if args.tiny else FULL
  questions = args.questions or scale.questions
  scale = dataclasses.replace(scale, questions=questions)
  both = Both(SIZES[scale.size], scale.questions, directory)
  task = task_of(both, scale, directory, args.reps + 1, args.kl)
  if args.algorithm:
    task = dataclasses.replace(task, together=2)
  ours = Ours(both, task, method("grpo", task), "grpo")
  other: Ours | Theirs
  if args.algorithm:
    algorithm = method(args.algorithm, task)
    other = Ours(both, task, algorithm, f"other_{args.algorithm}")
  else:
    prompt = both.prompts[0].token_ids.tolist()
    other = Theirs(task, prompt, directory / "log", args.omp_wait)
  against = args.algorithm or "trl"
  with ours, other:
    seconds = interleaved({"grpo": ours, against: other}, args.reps)
  found = report(seconds, "grpo", against)
  if not args.algorithm:
    found["lost"] = [part for part in PARTS if found["ratio"][part] < 1]
    found["omp_wait"] = args.omp_wait
  return {
    "size": scale.size,
    "questions": scale.questions,
    "n": scale.n,
    "prompt_tokens": len(both.prompts[0]),
    "new_tokens": scale.new,
    "kl": args.kl,
    "reps": args.reps,
    "against": against,
    **found,
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.round --tiny",
  )
  parser.add_argument("--tiny", action="store_true", help="a round of a second")
  parser.add_argument("--questions", type=int, help="32; 4 with --tiny")
  parser.add_argument("--algorithm", default="", help="method instead of TRL")
  parser.add_argument("--kl", type=float, default=0.04)
  parser.add_argument(
    "--omp_wait", default="passive", choices=["passive", "active"]
  )
  parser.add_argument("--reps", type=int, default=3)
  args = parser.parse_args()
  if args.algorithm == "grpo":
    parser.error("--algorithm=grpo: others are timed against it")
  with tempfile.TemporaryDirectory() as directory:
    print(json.dumps(measure(args, Path(directory))), flush=True)


if __name__ == "__main__":
  main()
