"""Cost of saving for the training loop.

  python -m benchmarks.checkpoint_stall [--updates=40] [--every=10] [--reps=2]

Trains a text-only model of 42 million parameters (fp32, 0.5 GB of state) on random
tokens, in turns with a checkpoint every `every` updates and with one at the end
only. Prints a JSON line: seconds of an update in both cases, the paired ratio (1:
saving costs nothing), the share of time that the loop waits for a checkpoint, and
the bytes of one. Writing in the background shares the cores of a CPU with the
updates; on an accelerator it does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sophia_jax.algorithms import sft
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  abstract_params,
  logical_axes,
)
from sophia_jax.train import metrics, sharding
from sophia_jax.train.loop import fit
from sophia_jax.train.session import Session, TrainConfig
from sophia_jax.types import Role, TokenSequence

CFG = InternVLConfig(
  vision=None,
  decoder=DecoderConfig(
    vocab=16_000, width=512, depth=8, heads=8, kv_heads=2, mlp=2048, head_dim=64
  ),
  dtype="float32",
  scan_unroll=8,
)
LENGTH, ROWS = 256, 2
ALGORITHM = sft.sft(sft.Config())


def sequences(count: int) -> list[TokenSequence]:
  """Yields sequences that fill a row; all tokens except the first are targets."""
  rng = np.random.default_rng(0)
  learnt = np.ones(LENGTH, np.float32)
  learnt[0] = 0
  return [
    TokenSequence(
      id=str(i),
      token_ids=rng.integers(0, CFG.decoder.vocab, LENGTH, np.int32),
      roles=np.full(LENGTH, Role.RESPONSE, np.int8),
      images=(),
      tiles=(),
      streams=dict.fromkeys(ALGORITHM.streams, learnt),
    )
    for i in range(count)
  ]


def random_params(mesh: jax.sharding.Mesh) -> Any:
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(0, 0.02, leaf.shape).astype(leaf.dtype)
  params = jax.tree.map(draw, abstract_params(CFG))
  return sharding.place(params, logical_axes(CFG), mesh)


def run(updates: int, every: int, directory: Path) -> dict[str, float]:
  """Returns seconds of the updates after the first, and those spent waiting."""
  config = TrainConfig(
    rows=ROWS, length=LENGTH, tiles=0, checkpoint_every=every, log_every=1
  )
  mesh = sharding.make_mesh(sharding.MeshConfig())
  loader = Loader(
    sequences(ROWS * updates),
    PackConfig(rows=ROWS, length=LENGTH, tile_budget=0),
    LoaderConfig(),
    Reading(streams=ALGORITHM.streams, tokens_per_tile=0),
  )
  with Session(
    InternVL(CFG),
    random_params(mesh),
    ALGORITHM,
    config,
    directory,
    {},
    mesh,
    updates=loader.steps,
  ) as session:
    fit(session, loader)
  rows = metrics.read(directory / "metrics.jsonl")[1:]  # the first compiles
  return {
    "seconds": sum(row["seconds"] for row in rows),
    "waited": sum(row["checkpoint_wait"] for row in rows),
  }


def size_of(directory: Path) -> int:
  """Returns the bytes of the newest checkpoint."""
  newest = max((directory / "checkpoints").iterdir(), key=lambda p: p.name)
  return sum(p.stat().st_size for p in newest.rglob("*") if p.is_file())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--updates", type=int, default=40)
  parser.add_argument("--every", type=int, default=10)
  parser.add_argument("--reps", type=int, default=2)
  args = parser.parse_args()
  often, once = [], []
  for _ in range(args.reps):
    with tempfile.TemporaryDirectory() as folder:
      for name, every, found in (
        ("often", args.every, often),
        ("once", args.updates, once),
      ):
        found.append(run(args.updates, every, Path(folder) / name))
      written = size_of(Path(folder) / "often")
  median = lambda found, key: statistics.median(one[key] for one in found)
  ratios = [b["seconds"] / a["seconds"] for a, b in zip(often, once)]
  print(
    json.dumps(
      {
        "benchmark": "checkpoint_stall",
        "checkpoint_gib": round(written / 2**30, 3),
        "updates": args.updates,
        "every": args.every,
        "update_s": round(median(often, "seconds") / (args.updates - 1), 4),
        "update_s_without": round(
          median(once, "seconds") / (args.updates - 1), 4
        ),
        "ratio": round(statistics.median(ratios), 4),
        "stall": round(
          statistics.median(one["waited"] / one["seconds"] for one in often),
          5,
        ),
      }
    )
  )


if __name__ == "__main__":
  main()
