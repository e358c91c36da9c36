"""A small training run: `python -m tests.train.training DIR SIGNAL`.

The images are in DIR/images, the rest is written to DIR/run. The process sends
itself the signal in the middle of the run.
"""

import functools
import itertools
import os
import signal
import sys
import time
from pathlib import Path

from sophia_jax.data.images import ImageConfig
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig, size_of
from sophia_jax.models import InternVL, logical_axes
from sophia_jax.stopping import Preempted
from sophia_jax.train import metrics, sharding
from sophia_jax.train.loop import fit
from sophia_jax.train.session import NO_LOG, Session, TrainConfig
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
ONE_AXIS = sharding.MeshConfig()
CLOCK = (
  "seconds",
  "tokens_per_s",
  "tokens_per_s_per_device",
  "perf/time_per_step",
  "perf/throughput",
  *metrics.WAITS,
)


def rows(run):
  """The metrics without what a clock says."""
  found = metrics.read(run / "metrics.jsonl")
  return [{k: v for k, v in row.items() if k not in CLOCK} for row in found]


def steps(run):
  """Steps of the checkpoints that are there."""
  names = (path.name for path in run.glob("checkpoints/*"))
  return sorted(int(name) for name in names if name.isdigit())


class Measured(list):
  """Sequences whose sizes are known."""

  @property
  def sizes(self):
    return [size_of(sequence) for sequence in list.__iter__(self)]


class Cut(Measured):
  """Sequences during the reading of which the process gets a signal.

  It comes with the 40th of 64. By then enough batches were read for a checkpoint
  and four rows, for which it waits; the last batch was not, since a loader reads
  only a few ahead.
  """

  def __init__(self, sequences, run, how):
    super().__init__(sequences)
    self._run, self._how, self._reads = run, how, itertools.count(1)

  def __getitem__(self, index):
    if next(self._reads) == 40:
      while len(rows(self._run)) < 4 or not steps(self._run):
        time.sleep(0.005)
      os.kill(os.getpid(), self._how)
    return super().__getitem__(index)


class Slow(Measured):
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
  log=NO_LOG,
  mesh=ONE_AXIS,
):
  """The trained parameters of DIR/run."""
  images = directory / "images"
  paths = toy.write_images(images, 3) if not images.exists() else None
  paths = paths or sorted(map(str, images.iterdir()))
  sequences = [
    toy.sequence(i, *[(paths[i % 3], 1)] * (i % 2)) for i in range(16)
  ]
  mesh = sharding.make_mesh(mesh)
  index, count = sharding.own_slice(mesh)
  loader = Loader(
    kind(sequences),
    PackConfig(
      rows=config.rows,
      length=config.length,
      tile_budget=config.tiles,
      microbatches=config.microbatches,
      open_rows=1,
    ),
    LoaderConfig(epochs=config.epochs),
    Reading(
      streams=toy.STREAMS,
      tokens_per_tile=toy.P,
      image=ImageConfig(tile_size=toy.SIDE, max_tiles=1),
      slice_index=index,
      slices=count,
    ),
  )
  with Session(
    InternVL(toy.CFG),
    sharding.place(start or toy.fresh_params(), logical_axes(toy.CFG), mesh),
    toy.ALGORITHM,
    config,
    directory / "run",
    {"model": {"name": identity}, "optimizer": {"trained": config.trained}},
    mesh,
    updates=loader.steps,
    log=log,
  ) as session:
    return fit(session, loader)


def cut_off(directory, how, *args, **kwargs):
  """A run that gets the signal `how`; raises Preempted if that is SIGTERM."""
  kind = functools.partial(Cut, run=directory / "run", how=how)
  train(directory, *args, kind=kind, **kwargs)


if __name__ == "__main__":
  try:
    cut_off(Path(sys.argv[1]), signal.Signals[sys.argv[2]])
  except Preempted as e:
    print(f"preempted: {e}")
