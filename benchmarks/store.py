"""Cost of writing, opening and reading a store of many trajectories.

  python -m benchmarks.store [--trajectories=1000000] [--words=60]

K = N = 8, as in the paper. Every step runs in a new process, so that its peak
memory is known. Opening is compared with parsing every line and keeping the
records, which the index replaces. Prints one JSON line: CPU seconds, MiB above an
empty process, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sophia_jax.algorithms.sampling import described
from sophia_jax.data.problems import problem_digest
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.records import Answer, Graded, decode, identity
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import Seat, World
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Grade,
  Problem,
  Status,
  Verdict,
)

META = {"recipe": [8, 8]}
RIGHT = Grade(
  verdict=Verdict(status=Status.RIGHT, extracted="6"), rewards={"accuracy": 1.0}
)


def problems(trajectories: int) -> list[Problem]:
  """Returns problems for at least so many trajectories."""
  count = -(-trajectories // 64)
  return [
    Problem(id=f"mv-{i:07}", question="", answer="6") for i in range(count)
  ]


def write(path: Path, trajectories: int, words: int) -> int:
  """Writes a store as `collect` does; returns its bytes."""
  completion = Completion(
    request_id="mv",
    text="apple " * words,
    token_ids=tuple(range(words)),
    logps=(-0.5,) * words,
    finish_reason=FinishReason.STOP,
  )
  of = identity(completion)
  with Store(path, META) as store:
    for problem in problems(trajectories):
      key = {"problem_id": problem.id, "digest": problem_digest(problem)}
      said = {"completion": completion, "length": words}
      for k in range(8):
        store.append(Answer(**key, path=(k,), role="caption", **said))
        for n in range(8):
          place = {**key, "path": (k, n)}
          store.append(Answer(**place, role="reasoner", **said))
          store.append(Graded(**place, of=of, grade=RIGHT))
      store.finish(**key)
  return (path / "0.jsonl").stat().st_size


def open_it(path: Path) -> int:
  """Counts the graded trajectories of the index."""
  return Store(path, read_only=True).index.grades


def parse_it(path: Path) -> int:
  """Counts the records, with all of them in memory."""
  with (path / "0.jsonl").open("rb") as f:
    return len([decode(line) for line in f])


def read_groups(path: Path, trajectories: int) -> int:
  """Counts the complete groups, reading all of them."""
  seat = Seat(prompt=lambda problem, **context: Chat(text=problem.question))
  store = Store(path, read_only=True)
  # Lengths are stored: no vocabulary is needed to count them.
  world = World(store, {"caption": seat, "reasoner": seat}, words=Any)
  groups = collect(problems(trajectories), described(8, 8), world, ahead=1)
  return sum(1 for _ in groups)


def _child(send: Any, work: Callable[..., int], args: tuple[Any, ...]) -> None:
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  start = time.process_time()
  result = work(*args)
  seconds = time.process_time() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  send.send((result, seconds, (peak - before) / 1024))


def measured(work: Callable[..., int], *args: Any) -> tuple[int, float, float]:
  """Runs a function in a new process; returns its result, seconds and MiB."""
  context = multiprocessing.get_context("spawn")
  receive, send = context.Pipe(duplex=False)
  process = context.Process(target=_child, args=(send, work, args))
  process.start()
  found = receive.recv()
  process.join()
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--trajectories", type=int, default=1_000_000)
  parser.add_argument("--words", type=int, default=60)
  given = parser.parse_args()
  count = len(problems(given.trajectories)) * 64
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "store"
    size, write_s, _ = measured(write, path, given.trajectories, given.words)
    found, open_s, open_mib = measured(open_it, path)
    groups, groups_s, groups_mib = measured(
      read_groups, path, given.trajectories
    )
    _, parse_s, parse_mib = measured(parse_it, path)
  assert found == count == groups * 64
  print(
    json.dumps(
      {
        "benchmark": "store",
        "trajectories": count,
        "mib": round(size / 2**20),
        "written_per_s": round(count / write_s),
        "open_s": round(open_s, 2),
        "open_mib": round(open_mib),
        "groups_s": round(groups_s - open_s, 2),
        "groups_mib": round(groups_mib),
        "parse_s": round(parse_s, 2),
        "parse_mib": round(parse_mib),
        "parse_over_open_s": round(parse_s / open_s, 1),
        "parse_over_open_mib": round(parse_mib / max(open_mib, 1), 1),
      }
    )
  )


if __name__ == "__main__":
  main()
