"""Threads against processes for reading: images/s of grain with each.

  python -m benchmarks.input_workers [--images=DIR] [--limit=152]

Each setting reads every image of the folder once, into uint8 tiles: 1 and 2
threads, and grain's worker processes, which return tiles through shared memory.
Wall seconds exclude the start of the workers, which is a figure of its line.
Prints one JSON line; `ratio` is over one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from benchmarks.input import DATA
from sophia_jax.data.images import ImageConfig, open_image, tile


class Read(grain.transforms.Map):
  """Reads the tiles of a path; picklable, as worker processes need it."""

  def __init__(self, resize: str):
    self._config = ImageConfig(resize=resize)

  def map(self, path: str) -> np.ndarray:
    return tile(open_image(path), self._config)


def iterator(
  paths: list[str], resize: str, threads: int, processes: int
) -> Iterator[np.ndarray]:
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
  dataset = grain.MapDataset.source(paths).map(Read(resize))
  reading: Any = dataset.to_iter_dataset(options)
  if processes:
    reading = reading.mp_prefetch(
      grain.MultiprocessingOptions(processes, per_worker_buffer_size=4)
    )
  return iter(reading)


def measure(paths: list[str], *how: Any) -> tuple[float, float]:
  """Returns images per second, and the seconds until the first."""
  start = time.perf_counter()
  images = iterator(paths, *how)
  next(images)
  first = time.perf_counter()
  count = sum(1 for _ in images)
  return count / (time.perf_counter() - first), first - start


SETTINGS = {"threads_1": (1, 0), "threads_2": (2, 0), "processes_2": (1, 2)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", type=Path, default=DATA)
  parser.add_argument("--limit", type=int, default=152)
  parser.add_argument("--rounds", type=int, default=3)
  args = parser.parse_args()
  flags.FLAGS.mark_as_parsed()  # grain reads a flag in its workers
  paths = [str(p) for p in sorted(args.images.iterdir())][: args.limit]
  for resize in ("pil", "fast"):
    best = dict.fromkeys(SETTINGS, 0.0)
    first = {}
    for _ in range(args.rounds):  # interleaved, so that other load falls on all
      for name, how in SETTINGS.items():
        rate, first[name] = measure(paths, resize, *how)
        best[name] = max(best[name], rate)
    result = {
      "benchmark": "input_workers",
      "resize": resize,
      "images_per_s": {n: round(rate, 1) for n, rate in best.items()},
      "first_image_s": {n: round(s, 2) for n, s in first.items()},
      "ratio": {
        n: round(rate / best["threads_1"], 2) for n, rate in best.items()
      },
    }
    print(json.dumps(result))


if __name__ == "__main__":
  main()
