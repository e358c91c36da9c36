"""Streaming: what a planned loader gives, with bounded look-ahead."""

import json

import jax
import numpy as np
import pytest
from data_samples import SMALL, joined

from sophia_jax.data.loader import Loader, LoaderConfig
from sophia_jax.data.packing import PackConfig, size_of
from sophia_jax.data.streaming import StreamLoader
from sophia_jax.types import SophiaError

SHAPE = PackConfig(
  rows=2, length=96, tile_budget=8, microbatches=2, shards=2, open_rows=4
)


@pytest.fixture(scope="module")
def sequences(renderer, picture):
  images = [(), (picture(30, 30),), (picture(112, 56),)]
  return [
    renderer.sequence(
      renderer.prompt(f"q{i}", images[i % 3], ""),
      "y" * (i % 11),
      id=str(i),
      streams={"weights": i + 1},
    )
    for i in range(60)
  ]


def options(process=(0, 1)):
  return {
    "streams": ("weights",),
    "tokens_per_tile": 4,
    "image": SMALL,
    "process_index": process[0],
    "process_count": process[1],
  }


def streamed(sequences, shape=SHAPE, process=(0, 1), source=None, **config):
  """The second epoch goes backwards, as a source may."""
  every = range(len(sequences))

  def sized(epoch):
    for i in reversed(every) if epoch else every:
      yield i, size_of(sequences[i])

  config = LoaderConfig(**{"epochs": 2, **config})
  return StreamLoader(
    source or sized, sequences.__getitem__, shape, config, **options(process)
  )


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_is_the_planned_loader(sequences):
  planned = Loader(sequences, SHAPE, LoaderConfig(shuffle=False), **options())
  made = streamed(sequences, epochs=1)
  assert made.steps == len(made) == planned.steps
  for a, b in zip(made, planned):
    same(a, b)


@pytest.mark.parametrize("threads", [0, 3])
def test_resumes_identically_at_every_step(sequences, threads):
  iterator, states, batches = iter(streamed(sequences)), [], []
  states.append(iterator.get_state())
  for batch in iterator:
    batches.append(batch)
    states.append(iterator.get_state())
  for step, state in enumerate(states):
    resumed = iter(streamed(sequences, threads=threads))
    resumed.set_state(json.loads(json.dumps(state)))
    rest = list(resumed)
    assert len(rest) == len(batches) - step
    for a, b in zip(rest, batches[step:]):
      same(a, b)


def test_hosts_make_up_the_batch_of_one(sequences):
  whole = streamed(sequences)
  parts = [streamed(sequences, process=(p, 2)) for p in range(2)]
  for step in range(whole.steps):
    same(joined(parts, step), whole[step])


def test_any_step_can_be_asked_for(sequences):
  made = streamed(sequences)
  for step in (made.steps - 1, 0, made.steps // 2, 1):
    same(made[step], streamed(sequences)[step])
  with pytest.raises(IndexError):
    made[made.steps]


def test_it_holds_no_more_rows_than_are_read_ahead(sequences):
  made = streamed(sequences, threads=2, prefetch=2)
  for step in range(made.steps):
    made[step]
    assert len(made._window) <= 5


def test_another_source_is_not_resumed(sequences):
  state = iter(streamed(sequences)).get_state()
  with pytest.raises(SophiaError, match="step 0 of other data"):
    iter(streamed(sequences[1:])).set_state(state)
  longer = iter(streamed(sequences, epochs=3))
  longer.set_state(state)


def test_what_fits_no_batch_is_counted(sequences):
  small = PackConfig(rows=2, length=30, tile_budget=2, drop_oversize=True)
  fits = [s for s in sequences if len(s) <= 30 and sum(s.tiles) <= 2]
  made = streamed(sequences, small, epochs=1)
  assert made.dropped_count == 60 - len(fits) > 0
  kept = {int(w) for batch in made for w in np.unique(batch.streams["weights"])}
  assert kept - {0} == {int(s.id) + 1 for s in fits}
  tiny = PackConfig(rows=2, length=4, tile_budget=2, drop_oversize=True)
  with pytest.raises(SophiaError, match="nothing to train on: 60 sequences"):
    streamed(sequences, tiny, epochs=1)
  with pytest.raises(SophiaError, match="do not fit a row of 30"):
    streamed(sequences, PackConfig(rows=2, length=30, tile_budget=8))


def test_a_source_that_forgets_is_an_error(sequences):
  once = iter([(i, size_of(s)) for i, s in enumerate(sequences)])
  made = streamed(sequences, source=lambda epoch: once, epochs=1)
  with pytest.raises(SophiaError, match="the source ended before step 0"):
    made[0]
