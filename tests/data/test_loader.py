"""The loader: epochs, resumption, processes."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.data.images import TileCache, load_tiles
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig, size_of
from sophia_jax.types import SophiaError
from tests.data.data_samples import SMALL

SHAPE = PackConfig(rows=2, length=96, tile_budget=8, microbatches=2)


@pytest.fixture(scope="module")
def sequences(renderer, picture):
  made = []
  for i in range(40):
    sizes = [(), ((30, 30),), ((112, 56),), ((30, 30), (56, 30))][i % 4]
    images = tuple(picture(*size, seed=i // 8) for size in sizes)
    made.append(
      renderer.sequence(
        renderer.prompt(f"q{i}", images, ""),
        "y" * (i % 7),
        id=str(i),
        streams={"weights": i + 1},
      )
    )
  return made


def loader(sequences, shape=SHAPE, process=(0, 1), **config):
  return Loader(
    sequences,
    shape,
    LoaderConfig(**config),
    Reading(
      streams=("weights",),
      tokens_per_tile=4,
      image=SMALL,
      slice_index=process[0],
      slices=process[1],
    ),
  )


def same(a, b):
  np.testing.assert_array_equal(a.tokens, b.tokens)
  np.testing.assert_array_equal(a.tile_slots, b.tile_slots)
  np.testing.assert_array_equal(a.tiles, b.tiles)
  np.testing.assert_array_equal(a.streams["weights"], b.streams["weights"])


def ids(batch):
  """Which sequences a batch holds: their weight is their number plus one."""
  return sorted({int(w) - 1 for w in np.unique(batch.streams["weights"]) if w})


def test_every_epoch_has_every_sequence_once(sequences):
  made = loader(sequences, epochs=3)
  assert made.steps == len(made) == sum(made.steps_per_epoch)
  step, orders = 0, []
  for steps in made.steps_per_epoch:
    batches = [made[step + i] for i in range(steps)]
    seen = [i for batch in batches for i in ids(batch)]
    assert sorted(seen) == list(range(40))
    orders.append(seen)
    step += steps
  assert orders[0] != orders[1]
  with pytest.raises(IndexError):
    made[made.steps]


def test_the_seed_decides_the_order(sequences):
  same(loader(sequences, seed=3)[0], loader(sequences, seed=3)[0])
  assert ids(loader(sequences, seed=3)[0]) != ids(loader(sequences, seed=4)[0])
  unshuffled = loader(sequences, shuffle=False)
  assert ids(unshuffled[0])[0] == 0


@pytest.mark.parametrize("threads", [0, 2])
def test_resumes_identically_at_every_step(sequences, threads):
  """In the middle of an epoch, at its end, across it, and at the very end."""
  made = loader(sequences, epochs=2, threads=threads)
  batches = list(made)
  assert len(batches) == made.steps
  for step in range(made.steps + 1):
    text = json.dumps(made.cursor(step))
    assert len(text) < 100
    resumed = loader(sequences, epochs=2, threads=threads)
    rest = list(resumed.after(json.loads(text)))
    assert len(rest) == made.steps - step
    for a, b in zip(rest, batches[step:]):
      same(a, b)


def test_more_epochs_resume_from_fewer(sequences):
  short = loader(sequences, epochs=1)
  long = loader(sequences, epochs=2)
  resumed = long.after(short.cursor(short.steps))
  same(next(resumed), long[long.steps_per_epoch[0]])


def test_another_run_is_not_resumed(sequences):
  cursor = loader(sequences, seed=1).cursor(0)
  for other in (
    loader(sequences, seed=2),
    loader(sequences[:-1], seed=1),
    loader(sequences, seed=1, round=1),
    loader(sequences, seed=1, updates=3),
    loader(sequences, PackConfig(rows=4, length=96, tile_budget=8), seed=1),
  ):
    with pytest.raises(SophiaError, match="step 0 of other data"):
      other.after(cursor)


def test_shapes_and_axis(sequences):
  *full, last = loader(sequences)
  for batch in full:
    assert batch.tokens.shape == (2, 2, 96)
    assert batch.tiles.shape == (2, 8, 56, 56, 3)
  assert last.tokens.shape[0] in (1, 2), "no microbatch is empty"
  assert (last.segment_ids > 0).any(axis=(1, 2)).all()


def test_processes_split_every_batch(sequences):
  """Together they hold each sequence once, with tiles of their own."""
  shape = dataclasses.replace(SHAPE, shards=2)
  parts = [loader(sequences, shape, (p, 2), epochs=2) for p in range(2)]
  assert parts[0].steps_per_epoch == parts[1].steps_per_epoch
  assert parts[0].identity == parts[1].identity
  seen = []
  for step in range(parts[0].steps_per_epoch[0]):
    for p, part in enumerate(parts):
      batch = part[step]
      assert batch.tokens.shape[1:] == (1, 96)
      assert batch.tiles.shape[1:] == (4, 56, 56, 3)
      slots = batch.tile_slots[batch.tile_slots >= 0]
      assert ((slots >= p * 16) & (slots < (p + 1) * 16)).all()
      seen += ids(batch)
  assert sorted(seen) == list(range(40))


def test_lazily_rendered_sequences(sequences):
  """Only what a batch needs is rendered, if sizes are known."""
  asked = []

  class Lazy:
    sizes = tuple(map(size_of, sequences))

    def __len__(self):
      return len(sequences)

    def __getitem__(self, index):
      asked.append(index)
      return sequences[index]

  made = loader(Lazy(), seed=5)
  assert not asked
  same(made[1], loader(sequences, seed=5)[1])
  assert 0 < len(asked) < 40


def test_pixels_are_those_of_the_file(sequences, picture):
  batch = loader(sequences, shuffle=False)[0]
  expected = load_tiles(picture(30, 30, seed=0), 1, SMALL)
  found = (batch.tiles[0] == expected).all(axis=(1, 2, 3))
  assert found.sum() == 1


def test_a_reading_brings_what_reads_images(sequences):
  asked = []
  cache = TileCache(SMALL)

  def tiles(path, count):
    asked.append(path)
    return cache(path, count)

  own = loader(sequences)
  shared = dataclasses.replace(own.reading, tiles=tiles)
  same(Loader(sequences, SHAPE, LoaderConfig(), shared)[0], own[0])
  assert asked


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_any_seed_loses_nothing(seed, epochs):
  made = loader(any_seed.sequences, seed=seed, epochs=epochs, threads=0)
  seen = [i for step in range(made.steps) for i in ids(made[step])]
  assert sorted(seen) == sorted(list(range(40)) * epochs)


class any_seed:  # hypothesis and function fixtures do not mix
  sequences: list


@pytest.fixture(autouse=True, scope="module")
def _share(sequences):
  any_seed.sequences = sequences


def test_nothing_to_train_on(sequences):
  with pytest.raises(SophiaError, match="nothing to train on: 0 sequences"):
    loader([])
  tiny = PackConfig(rows=1, length=4, tile_budget=0, drop_oversize=True)
  with pytest.raises(SophiaError, match=r"40 seq.*none fits.* a row of 4"):
    loader(sequences, tiny)


@pytest.mark.parametrize("batches", [1, 7, 12])
def test_a_run_of_so_many_batches_begins_as_one_of_whole_epochs(
  sequences, batches
):
  """Another length changes neither their order nor what they hold."""
  whole = loader(sequences, epochs=4, threads=0)
  made = loader(sequences, batches=batches, threads=0)
  assert len(made) == batches != whole.steps_per_epoch[0]
  assert made.identity == whole.identity
  assert (
    made.steps_per_epoch == whole.steps_per_epoch[: made.summary()["epochs"]]
  )
  same(made[batches - 1], whole[batches - 1])
  with pytest.raises(IndexError):
    made[batches]
  drawn = sum(len(row) for n in range(batches) for row in made.rows(n))
  (source,) = made.summary()["sources"].values()
  assert source["drawn"] == drawn


def test_dropped_sequences_are_named(sequences):
  small = PackConfig(rows=2, length=28, tile_budget=8, drop_oversize=True)
  made = loader(sequences, small)
  kept = {i for step in range(made.steps) for i in ids(made[step])}
  assert {int(i) for i in made.dropped} == set(range(40)) - kept
  assert made.dropped


def test_errors_come_through_the_threads(sequences, tmp_path, renderer):
  from PIL import Image

  path = tmp_path / "gone.png"
  Image.new("RGB", (30, 30)).save(path)
  gone = renderer.sequence(
    renderer.prompt("q", (str(path),)), "y", id="x", streams={"weights": 1}
  )
  path.unlink()
  with pytest.raises(SophiaError, match=r"gone\.png: no such image"):
    list(loader([gone], PackConfig(rows=1, length=96, tile_budget=2)))


@pytest.mark.parametrize(
  "values", [{"epochs": 0}, {"threads": -1}, {"batches": -1}]
)
def test_config_is_checked(values):
  with pytest.raises(ValueError, match=next(iter(values))):
    LoaderConfig(**values)
