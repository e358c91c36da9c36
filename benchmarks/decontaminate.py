"""Decontamination at the size of the paper's data: 360K questions against 20K.

  python -m benchmarks.decontaminate [--train=360000] [--known=20000]
    [--images=DIR] [--workers=2]

Text runs at full size, on generated questions of 20 to 120 words with Zipf's law,
1 % of them planted copies. Image hashing is measured on a folder and on a
1600x1200 JPEG and extrapolated; the search of the image index runs at full size
on random hashes. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.input import DATA, photo
from sophia_jax.datasets import perceptual
from sophia_jax.files import write_jsonl

# The kernel's high-water mark: getrusage of a child counts its parent too.
_COMMAND = """
from sophia_jax.datasets.__main__ import main
main("decontaminate train.jsonl --against bench.jsonl --out clean.jsonl --report d.jsonl".split())
print(next(s for s in open("/proc/self/status") if s.startswith("VmHWM")))
"""


def questions(n: int, seed: int) -> list[str]:
  """Generates texts of lognormal length (median 45 words) with Zipf's law."""
  rng = np.random.default_rng(seed)
  lengths = np.clip(rng.lognormal(np.log(45), 0.45, n), 20, 120).astype(int)
  ranks = np.minimum(rng.zipf(1.25, lengths.sum()), 20_000)
  words = [f"w{rank}" if rank % 9 else str(rank) for rank in ranks.tolist()]
  ends = np.cumsum(lengths).tolist()
  return [" ".join(words[a:b]) for a, b in zip([0, *ends], ends)]


def records(prefix: str, texts: list[str]) -> Iterator[dict[str, Any]]:
  for i, text in enumerate(texts):
    yield {"id": f"{prefix}{i}", "question": text, "answer": "1"}


def text_seconds(train: int, known: int) -> dict[str, Any]:
  """Returns wall seconds of the command, and whether it found all copies."""
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    bench, texts = questions(known, 1), questions(train, 2)
    planted = set(range(0, train, 100))
    for i in planted:  # other case and spacing, and a preface
      texts[i] = f"Hint: think. {bench[i % known].upper().replace(' ', '  ')}"
    write_jsonl(folder / "train.jsonl", records("t", texts))
    write_jsonl(folder / "bench.jsonl", records("b", bench))
    size = (folder / "train.jsonl").stat().st_size
    del texts, bench
    start = time.perf_counter()
    done = subprocess.run(
      [sys.executable, "-c", _COMMAND],
      cwd=folder,
      check=True,
      capture_output=True,
      text=True,
    )
    seconds = time.perf_counter() - start
    peak = int(done.stdout.split()[-2])
    with open(folder / "d.jsonl", encoding="utf-8") as file:
      found = {int(json.loads(line)["id"][1:]) for line in file}
  return {
    "text_s": round(seconds, 1),
    "text_peak_rss_mib": peak // 1024,
    "train_mb": round(size / 1e6),
    "planted": len(planted),
    "missed": len(planted - found),
    "false": len(found - planted),
  }


def image_rate(paths: list[str]) -> float:
  """Returns the images hashed per CPU second of one core."""
  start = time.process_time()
  perceptual.signatures(paths)
  return len(paths) / (time.process_time() - start)


def search_seconds(train: int, known: int) -> float:
  """Returns wall seconds to search for `train` images among `known`."""
  rng = np.random.default_rng(0)

  def some(n: int) -> perceptual.Signatures:
    return perceptual.Signatures(
      rng.integers(0, 2**63, (n, perceptual.VIEWS), dtype=np.uint64),
      np.ones((n, perceptual.VIEWS, 256), np.int8),
      np.ones((n, perceptual.VIEWS), np.float32),
    )

  index, part = perceptual.Index(some(known)), some(20_000)
  start = time.perf_counter()
  index(part)
  return (time.perf_counter() - start) * train / 20_000


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--train", type=int, default=360_000)
  parser.add_argument("--known", type=int, default=20_000)
  parser.add_argument("--images", type=Path, default=DATA)
  parser.add_argument("--workers", type=int, default=2)
  args = parser.parse_args()
  result: dict[str, Any] = {"benchmark": "decontaminate"}
  result |= {"train": args.train, "known": args.known}
  result |= text_seconds(args.train, args.known)
  with tempfile.TemporaryDirectory() as folder:
    photo(Path(folder, "photo.jpg"), 1600, 1200)
    sets = {"photo_1600x1200": [f"{folder}/photo.jpg"] * 40}
    if args.images.is_dir():
      sets[args.images.parent.name] = [
        str(path) for path in sorted(args.images.iterdir())
      ]
    for name, paths in sets.items():
      rate = image_rate(paths)
      result[f"{name}_images_per_s_core"] = round(rate, 1)
      minutes = (args.train + args.known) / rate / args.workers / 60
      result[f"{name}_hash_minutes_extrapolated"] = round(minutes, 1)
  result["search_s"] = round(search_seconds(args.train, args.known), 1)
  print(json.dumps(result))


if __name__ == "__main__":
  main()
