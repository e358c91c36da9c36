"""A small training run that can be killed: `python -m tests.train.training DIR`.

The images are in DIR/images, the rest is written to DIR/run.
"""

import sys
import time
from pathlib import Path

from sophia_jax.algorithms import sophia
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.loader import Loader, LoaderConfig
from sophia_jax.data.packing import PackConfig, size_of
from sophia_jax.models import InternVL, logical_axes
from sophia_jax.train import sharding
from sophia_jax.train.loop import NO_LOG, Preempted, TrainConfig, fit
from tests.train import toy

CONFIG = TrainConfig(
  learning_rate=1e-2,
  rows=2,
  length=24,
  tiles=2,
  microbatches=2,
  block=16,
  epochs=4,
  checkpoint_every=3,
  log_every=2,
)


class Slow(list):
  """Sequences from a slow disk, so that a run can be killed in its middle."""

  def __getitem__(self, index):
    time.sleep(0.03)
    return super().__getitem__(index)


def train(
  directory,
  config=CONFIG,
  kind=list,
  identity="toy",
  start=None,
  shards=1,
  log=NO_LOG,
):
  """The trained parameters of DIR/run."""
  images = directory / "images"
  paths = toy.write_images(images, 3) if not images.exists() else None
  paths = paths or sorted(map(str, images.iterdir()))
  sequences = [
    toy.sequence(i, *[(paths[i % 3], 1)] * (i % 2)) for i in range(16)
  ]
  mesh = sharding.make_mesh(sharding.MeshConfig())
  index, count = sharding.share(mesh)
  loader = Loader(
    kind(sequences),
    PackConfig(
      rows=config.rows,
      length=config.length,
      tile_budget=config.tiles,
      microbatches=config.microbatches,
      open_rows=1,
      shards=shards,
    ),
    LoaderConfig(epochs=config.epochs),
    streams=sophia.STREAMS,
    tokens_per_tile=toy.P,
    image=ImageConfig(tile_size=toy.SIDE, max_tiles=1),
    sizes=list(map(size_of, sequences)),
    process_index=index,
    process_count=count,
  )
  return fit(
    InternVL(toy.CFG),
    sharding.place(start or toy.fresh_params(), logical_axes(toy.CFG), mesh),
    loader,
    sophia.TERMS,
    config,
    directory / "run",
    {"model": {"name": identity}, "optimizer": {"trained": config.trained}},
    mesh,
    log,
  )


if __name__ == "__main__":
  try:
    train(Path(sys.argv[1]), kind=Slow)
  except Preempted as e:
    print(f"preempted: {e}")
