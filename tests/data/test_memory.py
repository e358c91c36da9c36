"""Memory stays flat over epochs: sequences hold paths, the cache is bounded."""

import tracemalloc

import numpy as np

from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from tests.data.data_samples import SMALL

CACHE = 1 << 20


def test_epochs_take_no_more_memory_than_the_first(renderer, picture):
  """Twice as many pixels as the cache may hold go through it, six times."""
  sequences = [
    renderer.sequence(
      renderer.prompt(f"q{i}", (picture(112, 112, seed=i),), ""),
      "yes",
      id=str(i),
      streams={"weights": 1},
    )
    for i in range(45)
  ]
  loader = Loader(
    sequences,
    PackConfig(rows=2, length=96, tile_budget=10),
    LoaderConfig(epochs=6, cache_bytes=CACHE, threads=2, prefetch=2),
    Reading(streams=("weights",), tokens_per_tile=4, image=SMALL),
  )
  pixels = 45 * 5 * 56 * 56 * 3
  assert pixels > 2 * CACHE
  batch_bytes = sum(x.nbytes for x in np_leaves(loader[0]))
  tracemalloc.start()
  peaks, held, ends = [], [], np.cumsum(loader.steps_per_epoch)
  for step, batch in enumerate(iter(loader), start=1):
    del batch
    if step in ends:
      now, peak = tracemalloc.get_traced_memory()
      held.append(now)
      peaks.append(peak)
      tracemalloc.reset_peak()
  tracemalloc.stop()
  # Beside the cache: what is read ahead, and what each thread is making.
  assert max(peaks) < CACHE + 12 * batch_bytes
  # Where a thread stands at the end of an epoch differs by a batch or two.
  assert max(peaks) < peaks[0] + 4 * batch_bytes
  assert max(held) < held[0] + 4 * batch_bytes


def np_leaves(batch):
  return [np.asarray(x) for x in (batch.tokens, batch.tiles)]
