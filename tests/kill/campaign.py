"""A campaign of random kills: whole runs from nothing, killed at any time.

  python -m tests.kill.campaign [--kills=200] [--seed=0] [--term=0.1]

One run is left alone. Others are killed (SIGKILL, a share of them by SIGTERM, which
must end with code 0) after random times and started again, until they are done and
`kills` signals were sent. Each must end as the undisturbed one did: the same bits of
weights, every answer once, the same responses and scores. Log-probabilities of
answers are equal up to rounding, since a row is rounded in another way beside other
rows. Prints a JSON line; exits with 1 where a run differs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sophia_jax.rollout.records import decode
from tests.launch.commands import CONFIG, ROOT, TINY, overrides

VARYING = ("seconds", "versions", "config", "stages")
"""Keys of report.json that time and place change."""
LOGP_GAP = 1e-4
"""Difference of log-probabilities by rounding, at most."""
EXPORTS = ("warmup/export", "export", "models/policy", "models/reasoner")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--kills", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--term", type=float, default=0.1, help="share of SIGTERM"
  )
  args = parser.parse_args()
  rng = random.Random(args.seed)
  with tempfile.TemporaryDirectory(prefix="kills-") as folder:
    whole = Path(folder) / "whole"
    start = time.monotonic()
    ended(whole)
    horizon = time.monotonic() - start
    wanted = outcome(whole)
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    while counts["SIGKILL"] + counts["SIGTERM"] < args.kills and not faults:
      workdir = Path(folder) / "W"
      faults += disturbed(workdir, rng, horizon, args, counts)
      if not faults:
        faults += differences(wanted, outcome(workdir))
      counts["runs"] += 1
      shutil.rmtree(workdir)
  print(
    json.dumps({**counts, "seconds_alone": round(horizon), "faults": faults})
  )
  return bool(faults)


def started(workdir: Path) -> subprocess.Popen[str]:
  """Starts the whole quickstart, as small as it can be."""
  return subprocess.Popen(
    [
      *([sys.executable, "-m", "launch.run", CONFIG]),
      f"--workdir={workdir}",
      *overrides(TINY),
    ],
    cwd=ROOT,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def ended(workdir: Path) -> None:
  """Lets a run end by itself."""
  process = started(workdir)
  said, _ = process.communicate()
  if process.returncode:
    raise SystemExit(f"a run failed that nobody disturbed:\n{said}")


def disturbed(
  workdir: Path,
  rng: random.Random,
  horizon: float,
  args: argparse.Namespace,
  counts: collections.Counter[str],
) -> list[str]:
  """Kills a run again and again until it is done; returns what went wrong."""
  while True:
    process = started(workdir)
    last = counts["SIGKILL"] + counts["SIGTERM"] >= args.kills
    try:
      wait = None if last else rng.uniform(0, 0.6 * horizon)
      said, _ = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
      how = signal.SIGTERM if rng.random() < args.term else signal.SIGKILL
      process.send_signal(how)
      said, _ = process.communicate()
      counts[how.name] += 1
      counts[f"in {_stage(workdir)}"] += 1
      if "Traceback" in said or (how == signal.SIGTERM and process.returncode):
        return [f"{how.name}: code {process.returncode}: {said[-2000:]}"]
      continue
    if process.returncode:
      return [f"code {process.returncode}: {said[-2000:]}"]
    return []


def _stage(workdir: Path) -> str:
  """Names the step that a run was in, by the last one that is done."""
  path = workdir / "stages.json"
  done = list(json.loads(path.read_text())) if path.exists() else []
  return f"the step after {done[-1]}" if done else "the first step"


def outcome(workdir: Path) -> dict[str, Any]:
  """Returns all that a run leaves which must not depend on kills."""
  weights = {
    name: (workdir / name / "model.safetensors").read_bytes()
    for name in EXPORTS
    if (workdir / name / "model.safetensors").exists()
  }
  answers: collections.Counter[str] = collections.Counter()
  logps: dict[str, list[float]] = {}
  for segment in sorted((workdir / "trajectories").glob("*.jsonl")):
    for line in segment.read_bytes().splitlines(True):
      if decode(line) is not None:
        record = json.loads(line)["record"]
        values = record.pop("logps", [])
        name = json.dumps(record, sort_keys=True)
        answers[name] += 1
        logps[name] = values
  responses = {
    path.name: sorted(path.read_bytes().splitlines())
    for path in (workdir / "evals").glob("*.responses.jsonl")
  }
  report = json.loads((workdir / "report.json").read_text())
  return {
    "weights": weights,
    "answers": answers,
    "logps": logps,
    "responses": responses,
    "report": {k: v for k, v in report.items() if k not in VARYING},
    "damaged": [p.name for p in workdir.rglob("damaged-*")],
  }


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
  """Says what differs from an undisturbed run."""
  said = [
    f"{name} differ"
    for name in wanted
    if name not in ("answers", "logps") and wanted[name] != found[name]
  ]
  for what, one, other in (
    ("lost", wanted["answers"], found["answers"]),
    ("too many", found["answers"], wanted["answers"]),
  ):
    if rest := one - other:
      said.append(f"{rest.total()} answers {what}, such as {next(iter(rest))}")
  for name, values in wanted["logps"].items():
    others = found["logps"].get(name, values)
    gap = max((abs(a - b) for a, b in zip(values, others)), default=0.0)
    if gap > LOGP_GAP:
      said.append(f"log-probabilities differ by {gap}: {name}")
  return said


if __name__ == "__main__":
  sys.exit(main())
