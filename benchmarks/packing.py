"""Fill rate of packed rows, on the lengths of long reasoning trajectories.

  python -m benchmarks.packing [--sequences=20000] [--seed=0]

Sequences, in rows of 32,768 tokens:

  text    lognormal lengths, median 3,000 tokens, sigma 0.8, cut at 32,768
  mixed   every other sequence begins with an image, of 256 tokens a tile and with
          the tiles of an image of MATH-V testmini at most 12 tiles (TILES, its
          304 images); the tile budget is `suggest_tile_budget`

Prints one JSON line for each: the share of token and of tile places that are
filled, and the same over InternVL's greedy buffers under the same limits (20
buffers, the one with the most tiles first; a buffer is emitted when it is full or
there are too many).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sophia_jax.data.packing import PackConfig, Size, plan, suggest_tile_budget

LENGTH = 32_768
TOKENS_PER_TILE = 256
TILES = {
  1: 79,
  3: 22,
  4: 19,
  5: 20,
  6: 15,
  7: 51,
  8: 2,
  9: 20,
  10: 7,
  11: 25,
  13: 44,
}
"""Number of images of MATH-V testmini by their tiles, thumbnail included."""


def text(count: int, seed: int) -> list[Size]:
  """Draws sizes of text-only trajectories."""
  rng = np.random.default_rng(seed)
  lengths = rng.lognormal(np.log(3000), 0.8, count)
  lengths = np.clip(lengths, 16, LENGTH).astype(int)
  return [Size(str(i), int(n)) for i, n in enumerate(lengths)]


def mixed(count: int, seed: int) -> list[Size]:
  """Draws sizes of trajectories, every other one with an image."""
  rng = np.random.default_rng([seed, 1])
  share = np.array(list(TILES.values())) / sum(TILES.values())
  tiles = rng.choice(list(TILES), count, p=share)
  sizes = text(count, seed)
  for i in range(0, count, 2):
    number = int(tiles[i])
    length = min(sizes[i].length + TOKENS_PER_TILE * number, LENGTH)
    sizes[i] = Size(str(i), length, ((f"{i}.jpg", number),))
  return sizes


def internvl_rows(sizes: Sequence[Size], tile_budget: int) -> int:
  """Counts the rows that InternVL's greedy buffers make of the sequences."""
  open_rows: list[list[int]] = []  # [tiles, tokens]
  rows = 0
  for size in sizes:
    for i, (tiles, tokens) in enumerate(open_rows):
      if tiles + size.tiles <= tile_budget and tokens + size.length <= LENGTH:
        row = open_rows.pop(i)
        break
    else:
      row = [0, 0]
    row[0] += size.tiles
    row[1] += size.length
    full = 0 < tile_budget == row[0] or row[1] == LENGTH
    rows += full
    if not full:
      open_rows.append(row)
      open_rows.sort(reverse=True)
    if len(open_rows) > 20:
      open_rows.pop(0)
      rows += 1
  return rows + len(open_rows)


def measure(name: str, sizes: Sequence[Size], rows: int) -> dict[str, Any]:
  """Returns a line of figures."""
  shape = PackConfig(rows=rows, length=LENGTH, tile_budget=0)
  budget = suggest_tile_budget(sizes, shape)
  shape = PackConfig(rows=rows, length=LENGTH, tile_budget=budget)
  start = time.perf_counter()
  made = plan(sizes, shape)
  seconds = time.perf_counter() - start
  tokens = sum(size.length for size in sizes)
  theirs = tokens / (internvl_rows(sizes, budget // rows) * LENGTH)
  return {
    "stream": name,
    "sequences": len(sizes),
    "rows": rows,
    "tile_budget": budget,
    "tokens_filled": round(made.fill_rate, 4),
    "tiles_filled": round(made.tile_fill_rate, 4) if budget else None,
    "dropped": len(made.dropped),
    "internvl_tokens_filled": round(theirs, 4),
    "tokens_ratio": round(made.fill_rate / theirs, 4),
    "sequences_per_s": round(len(sizes) / seconds),
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.packing --sequences=20000",
  )
  parser.add_argument("--sequences", type=int, default=20_000)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  for name, make in (("text", text), ("mixed", mixed)):
    for rows in (1, 8):
      sizes = make(args.sequences, args.seed)
      print(json.dumps(measure(name, sizes, rows)), flush=True)


if __name__ == "__main__":
  main()
