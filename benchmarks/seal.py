"""Cost of the digests of a checkpoint, against that of writing it.

  python -m benchmarks.seal [--mib=512] [--reps=5] [--folder=/tmp]

Saves a state of random numbers and seals the directory, in turns. Prints a JSON line:
medians of the processor seconds and wall seconds of both, and the shares of sealing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import optax

from sophia_jax.checkpoints import manifest
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.state import TrainState, create


def state(mib: int) -> TrainState:
  """Returns weights and two moments of `mib` MiB together, all random."""
  keys = jax.random.split(jax.random.key(0), 8)
  size = (mib << 20) // 4 // 3 // len(keys)
  params = {
    "language": {str(i): jax.random.normal(k, size) for i, k in enumerate(keys)}
  }
  made = create(params, optax.adam(1e-3), ("language",))
  moments = jax.tree.map(
    lambda x: jax.random.normal(keys[0], x.shape) if x.ndim else x,
    made.opt_state,
  )
  return made.replace(opt_state=moments)


def measured(saved: TrainState, folder: str) -> dict[str, float]:
  """Returns wall and processor seconds of writing and of sealing."""
  with tempfile.TemporaryDirectory(dir=folder) as name:
    checkpoints = Checkpoints(Path(name), 1, {})
    wall, cpu = time.monotonic(), time.process_time()
    checkpoints.save(saved, {})
    checkpoints._manager.wait_until_finished()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    checkpoints.close()
    found = {"write_s": wall, "write_cpu_s": cpu}
    wall, cpu = time.monotonic(), time.process_time()
    manifest.seal(Path(name) / "0")
    found["seal_s"] = time.monotonic() - wall
    found["seal_cpu_s"] = time.process_time() - cpu
    return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--mib", type=int, default=512)
  parser.add_argument("--reps", type=int, default=5)
  parser.add_argument("--folder", default=None)
  args = parser.parse_args()
  saved = state(args.mib)
  runs = [measured(saved, args.folder) for _ in range(args.reps)]
  medians = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
  shares = {
    "seal_share": medians["seal_s"] / medians["write_s"],
    "seal_cpu_share": medians["seal_cpu_s"] / medians["write_cpu_s"],
  }
  print(json.dumps({k: round(v, 4) for k, v in (medians | shares).items()}))


if __name__ == "__main__":
  main()
