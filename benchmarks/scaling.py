"""Time and memory of an update by the length of a row and its tiles.

  python -m benchmarks.scaling [--lengths=512,1024,2048,4096,8192]
    [--tiles=0,1,2,4,8] [--reps=5]

One sequence fills the row; a small InternVL (12M parameters, 448-pixel tiles of
256 tokens), fp32, on the local devices. Lengths are measured with one tile, tiles
in rows of --tiles_length tokens; every point in a new process. Prints one JSON
line for each: seconds and CPU seconds of an update, tokens/s, the memory of the
process before the first update and its peak during them (Linux), and the
compiler's figures for the program. The ratio is to the first line of the curve.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rollout_embedded import random_params
from benchmarks.train_step import Ours, Task, sequence
from sophia_jax.models import DecoderConfig, InternVLConfig, VisionConfig

VOCAB = 8192
CFG = InternVLConfig(
  vision=VisionConfig(width=192, depth=4, heads=3, mlp=768),
  decoder=DecoderConfig(
    vocab=VOCAB, width=256, depth=6, heads=4, kv_heads=2, head_dim=64, mlp=1024
  ),
  image_token_id=VOCAB - 1,
  dtype="float32",
)
BLOCK = 512
QUESTION = 8
GIB = 1 << 30


def point(length: int, tiles: int, reps: int) -> dict[str, Any]:
  """Measures a row of `length` tokens with `tiles` tiles."""
  response = length - QUESTION - tiles * CFG.tokens_per_tile
  task = Task(
    CFG,
    [sequence(0, tiles, QUESTION, response, CFG)],
    rows=1,
    length=length,
    trained=("language",),
    block=min(BLOCK, length),
  )
  start = time.perf_counter()
  update = Ours(task, random_params(CFG))
  update()
  compiled = time.perf_counter() - start
  forget_peak()
  before = held("VmRSS")
  seconds, cpu = [], []
  for _ in range(reps):
    start, begun = time.perf_counter(), time.process_time()
    update()
    seconds.append(time.perf_counter() - start)
    cpu.append(time.process_time() - begun)
  memory = update.memory()
  return {
    "length": length,
    "tiles": tiles,
    "s": round(statistics.median(seconds), 3),
    "cpu_s": round(statistics.median(cpu), 3),
    "tokens_per_s": round(length / statistics.median(seconds)),
    "compile_s": round(compiled, 1),
    "rss_gib": {"before": before, "peak": held("VmHWM")},
    "state_gib": round(memory.argument_size_in_bytes / GIB, 3),
    "temporaries_gib": round(memory.temp_size_in_bytes / GIB, 3),
  }


def forget_peak() -> None:
  """Resets the peak memory: compiling needs more than a small step."""
  Path("/proc/self/clear_refs").write_text("5")


def held(key: str) -> float:
  """Returns GiB of this process: VmRSS, or VmHWM since `forget_peak`."""
  lines = Path("/proc/self/status").read_text().splitlines()
  kib = next(int(line.split()[1]) for line in lines if line.startswith(key))
  return round(kib * 1024 / GIB, 3)


def curve(name: str, points: Sequence[tuple[int, int]], reps: int) -> None:
  """Prints the points, (length, tiles), of one curve."""
  first: dict[str, Any] = {}
  for length, tiles in points:
    with concurrent.futures.ProcessPoolExecutor(
      max_workers=1, mp_context=multiprocessing.get_context("spawn")
    ) as alone:
      found = alone.submit(point, length, tiles, reps).result()
    first = first or found
    ratio = round(found["s"] / first["s"], 2)
    line = {"curve": name, **found, "ratio": ratio}
    print(json.dumps(line), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.scaling --lengths=512,2048 --tiles=",
  )
  numbers = lambda text: [int(n) for n in text.split(",") if n]
  parser.add_argument(
    "--lengths", type=numbers, default="512,1024,2048,4096,8192"
  )
  parser.add_argument("--tiles", type=numbers, default="0,1,2,4,8")
  parser.add_argument("--tiles_length", type=int, default=4096)
  parser.add_argument("--reps", type=int, default=5)
  args = parser.parse_args()
  curve("length", [(n, 1) for n in args.lengths], args.reps)
  curve("tiles", [(args.tiles_length, n) for n in args.tiles], args.reps)


if __name__ == "__main__":
  main()
