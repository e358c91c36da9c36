"""Everything that only a GPU can show, in under 8 minutes of one H100.

  python -m benchmarks.gpu [--out=runs/gpu.jsonl] [--parts=correctness,...]
  python -m benchmarks.gpu --dry --parts=attention

Parts run one after the other, the most important first, each in a new process with
a time limit, which is at most what is left of --minutes. Each result is a
JSON line, in the file and on the screen as soon as it is there: a suite that is
cut off keeps what it had. A part that fails, or is out of time, is a line too.

--dry does the same on a CPU at toy sizes: every part runs, no figure means
anything. The exit code is 1 if a part failed or a result is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sophia_jax.hosts import xla_flags


@dataclasses.dataclass(frozen=True)
class Part:
  """A module to run, and its command line."""

  name: str
  module: str
  seconds: float
  """Time limit on a GPU."""
  arguments: tuple[str, ...] = ()
  shares: bool = False
  """Whether PyTorch, or another process, wants the GPU's memory as well."""


PARTS = (
  Part("correctness", "benchmarks.gpu.correctness", 80),
  Part("attention", "benchmarks.gpu.attention", 60, shares=True),
  Part("train 2b", "benchmarks.gpu.train", 100, ("--model=2b",), shares=True),
  Part("train 8b", "benchmarks.gpu.train", 90, ("--model=8b",), shares=True),
  Part("engine", "benchmarks.gpu.engine", 70, shares=True),
  Part("round", "benchmarks.gpu.round", 50),
  Part("checkpoint", "benchmarks.gpu.checkpoint", 30, shares=True),
  Part("quickstart", "benchmarks.gpu.quickstart", 120),
)
CACHE = Path("runs/gpu-cache")
"""Compiled programs of JAX."""
DRY_SECONDS = 1800.0
"""Time limit of a part on a CPU, however busy."""


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.gpu --dry --parts=attention",
  )
  parser.add_argument("--out", type=Path, default=Path("runs/gpu.jsonl"))
  parser.add_argument(
    "--parts", default=",".join(p.name for p in PARTS), help="names, in order"
  )
  parser.add_argument("--minutes", type=float, default=8.0)
  parser.add_argument("--dry", action="store_true", help="toy sizes on a CPU")
  args = parser.parse_args()
  known = {part.name: part for part in PARTS}
  wanted = args.parts.split(",")
  if unknown := [name for name in wanted if name not in known]:
    parser.error(f"--parts={unknown[0]}: known: {', '.join(known)}")
  args.out.parent.mkdir(parents=True, exist_ok=True)
  with args.out.open("a", encoding="utf-8") as file:
    good = suite([known[name] for name in wanted], args, file)
  sys.exit(0 if good else 1)


def suite(parts: list[Part], args: argparse.Namespace, file: TextIO) -> bool:
  """Runs the parts; returns whether all of them ended well."""
  end = time.monotonic() + 60 * args.minutes
  good = True
  for part in parts:
    limit = min(part.seconds, end - time.monotonic())
    limit = DRY_SECONDS if args.dry else limit
    for line in results(part, limit, args.dry):
      good = good and line.get("ok", True)
      text = json.dumps({"part": part.name, **line})
      file.write(text + "\n")
      file.flush()
      print(text, flush=True)
  return good


def results(part: Part, limit: float, dry: bool) -> Iterator[dict[str, Any]]:
  """Runs a part; yields its results, and last how it ended."""
  if limit <= 0:
    yield {"ok": False, "error": "no time was left"}
    return
  command = [sys.executable, "-m", part.module]
  command += [*part.arguments, *(["--dry"] if dry else [])]
  start, said = time.monotonic(), ""
  with subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=environment(part, dry),
    start_new_session=True,
  ) as process:
    assert process.stdout is not None
    timer = threading.Timer(limit, _stop, (process,))
    timer.start()
    try:
      for line in process.stdout:
        if line.startswith("{"):
          yield json.loads(line)
        elif line.strip():
          said = line.strip()
          print(said, file=sys.stderr, flush=True)
      process.wait()
    finally:
      timer.cancel()
      _stop(process)
  seconds = round(time.monotonic() - start, 1)
  if process.returncode == 0:
    yield {"seconds": seconds}
  elif seconds >= limit:
    yield {
      "ok": False,
      "seconds": seconds,
      "error": f"stopped at {limit:.0f} s",
    }
  else:
    why = said or f"exit code {process.returncode}"
    yield {"ok": False, "seconds": seconds, "error": why}


def _stop(process: subprocess.Popen[str]) -> None:
  """Ends a process and all that it started."""
  if process.returncode is None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)


def environment(part: Part, dry: bool) -> dict[str, str]:
  """Returns the variables of a part."""
  env = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
  # The reference of `correctness` is computed by the CPU of the same process.
  env["JAX_PLATFORMS"] = "cpu" if dry else "cuda,cpu"
  if dry:
    # Threads of torch that wait for each other spin, which costs others most.
    env |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
  else:
    # Parts, and a second suite, compile the same programs.
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE.absolute()))
  if part.shares:
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  xla_flags.apply(env)
  return env


if __name__ == "__main__":
  main()
