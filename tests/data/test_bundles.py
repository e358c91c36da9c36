"""Bundles share a row, updates share an epoch, values go back to their tokens."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig, Size, bundled, plan, size_of
from sophia_jax.data.rows import pack, unpack
from sophia_jax.types import Role, SophiaError, TokenSequence

READING = Reading(streams=("weights",), tokens_per_tile=1)


def sequence(i, length, bundle=""):
  """A sequence whose weights are 100 i + 1, 100 i + 2, ..."""
  values = 100 * i + np.arange(length)
  return TokenSequence(
    id=f"s{i}",
    token_ids=values.astype(np.int32),
    roles=np.full(length, Role.RESPONSE, np.int8),
    images=(),
    tiles=(),
    streams={"weights": values.astype(np.float32)},
    bundle=bundle,
  )


@st.composite
def bundles(draw):
  """Lists of sequences, some of them in bundles of two or three."""
  made, count = [], draw(st.integers(1, 12))
  for b in range(count):
    members = draw(st.sampled_from([1, 1, 2, 3]))
    for _ in range(members):
      length = draw(st.integers(2, 9))
      name = f"b{b}" if members > 1 else ""
      made.append(sequence(len(made), length, name))
  return made


shapes = st.builds(
  PackConfig,
  rows=st.sampled_from([2, 4]),
  length=st.integers(27, 40),
  tile_budget=st.just(0),
  shards=st.sampled_from([1, 2]),
  microbatches=st.integers(1, 3),
  open_rows=st.integers(1, 9),
)


def rows_of(loader):
  return [row for step in range(loader.steps) for row in loader.rows(step)]


@settings(deadline=None)
@given(bundles(), shapes, st.integers(0, 5), st.integers(0, 3))
def test_a_bundle_lies_in_one_row(sequences, shape, seed, updates):
  config = LoaderConfig(seed=seed, updates=updates, threads=0)
  loader = Loader(sequences, shape, config, READING)
  rows = rows_of(loader)
  assert sorted(i for row in rows for i in row) == list(range(len(sequences)))
  for step in range(loader.steps):
    batch = loader[step]
    for r, row in enumerate(loader.rows(step)):
      segments = batch.segment_ids.reshape(-1, shape.length)[r]
      ids = batch.bundle_ids.reshape(-1, shape.length)[r]
      names = [sequences[i].bundle or sequences[i].id for i in row]
      firsts = dict.fromkeys(names)
      numbers = {name: n for n, name in enumerate(firsts, start=1)}
      wanted = [numbers[name] for name in names]
      assert [ids[segments == s + 1][0] for s in range(len(row))] == wanted
      assert (ids[segments == 0] == 0).all()
  where = {i: r for r, row in enumerate(rows) for i in row}
  for name in {s.bundle for s in sequences} - {""}:
    own = [i for i, s in enumerate(sequences) if s.bundle == name]
    assert len({where[i] for i in own}) == 1


def test_a_bundle_that_is_drawn_twice_is_two():
  pair = [sequence(0, 4, "p"), sequence(1, 3, "p")]
  batch = pack(
    [[*pair, *pair]],
    PackConfig(rows=1, length=16, tile_budget=0),
    tokens_per_tile=1,
    tile_size=1,
    streams=(),
    load_tiles=lambda path, count: None,
  )
  assert (
    batch.segment_ids[0].tolist()
    == [1] * 4 + [2] * 3 + [3] * 4 + [4] * 3 + [0] * 2
  )
  assert batch.bundle_ids[0].tolist() == [1] * 7 + [2] * 7 + [0] * 2


def test_a_pair_longer_than_a_row_is_named_or_dropped():
  shape = PackConfig(rows=1, length=10, tile_budget=0)
  pairs = [sequence(0, 6, "q"), sequence(1, 6, "q"), sequence(2, 9)]
  with pytest.raises(SophiaError) as error:
    Loader(pairs, shape, LoaderConfig(), READING)
  assert str(error.value).startswith("q (s0, s1): 12 tokens do not fit a row")
  assert "\n" not in str(error.value)
  dropping = dataclasses.replace(shape, drop_oversize=True)
  loader = Loader(pairs, dropping, LoaderConfig(), READING)
  assert loader.dropped == ("q (s0, s1)",)
  assert rows_of(loader) == [[2]]
  assert loader.summary()["dropped"] == 1


def test_a_bundle_that_is_apart_is_an_error():
  apart = [sequence(0, 3, "p"), sequence(1, 3), sequence(2, 3, "p")]
  with pytest.raises(SophiaError, match="s2: other sequences stand between"):
    bundled([size_of(s) for s in apart])


def test_a_mixture_counts_sequences_not_bundles():
  sources = {
    "pairs": [sequence(i, 4, f"p{i // 2}") for i in range(6)],
    "alone": [sequence(i + 6, 4) for i in range(5)],
  }
  shape = PackConfig(rows=2, length=16, tile_budget=0)
  found = Loader(sources, shape, LoaderConfig(), READING).summary()["sources"]
  assert {name: s["drawn"] for name, s in found.items()} == {
    "pairs": 6,
    "alone": 5,
  }


# ------------------------------------------------------------------------ updates
@given(st.lists(st.integers(2, 20), min_size=1, max_size=30), st.integers(1, 8))
def test_updates_share_an_epoch_equally(lengths, updates):
  sequences = [sequence(i, n) for i, n in enumerate(lengths)]
  shape = PackConfig(rows=2, length=20, tile_budget=0)
  made = plan([size_of(s) for s in sequences], shape, None, updates)
  counts = [sum(map(len, batch)) for batch in made.batches]
  assert sum(counts) == len(sequences)
  assert len(counts) == min(updates, len(sequences))
  assert max(counts) - min(counts) <= 1
  for batch in made.batches:
    assert len(batch) % 2 == 0 and any(batch[-2:]), "no microbatch is empty"


def test_the_answers_to_an_image_lie_together_in_an_update():
  sizes = [Size(f"{i}", 10, ((str(i // 8), 1),)) for i in range(64)]
  shape = PackConfig(rows=4, length=20, tile_budget=2)
  shuffled = np.random.default_rng(0).permutation(32) * 2
  made = plan(sizes, shape, [*shuffled, *(shuffled + 1)], updates=2)
  for first, batch in enumerate(made.batches):
    # 32 answers to 8 images, 8 answers to a microbatch: as few as there can be.
    placed = [i for row in batch for i in row]
    assert placed == list(range(first, 64, 2))
    assert len(batch) == 4 * shape.rows
  assert made.tile_fill_rate == 1


def test_rounds_and_epochs_have_orders_of_their_own():
  sequences = [sequence(i, 5) for i in range(40)]
  shape = PackConfig(rows=2, length=20, tile_budget=0)

  def orders(**config):
    config = LoaderConfig(epochs=2, updates=4, **config)
    loader = Loader(sequences, shape, config, READING)
    assert loader.steps_per_epoch == (4, 4)
    return [str(loader.rows(step)) for step in range(8)]

  first, again, other = orders(seed=1), orders(seed=1), orders(seed=1, round=1)
  assert first == again
  assert len({*first, *other}) == 16


# ------------------------------------------------------------------------- unpack
@settings(deadline=None)
@given(bundles(), shapes)
def test_values_go_back_to_their_tokens(sequences, shape):
  loader = Loader(sequences, shape, LoaderConfig(threads=0), READING)
  found = {}
  for step in range(loader.steps):
    streams = loader[step].streams
    whole = streams["weights"].reshape(-1, shape.length)
    found |= unpack(loader.rows(step), sequences, {"copied": whole})
  assert found.keys() == set(range(len(sequences)))
  for i, s in enumerate(sequences):
    assert found[i]["copied"][0] == 0
    np.testing.assert_array_equal(
      found[i]["copied"][1:], s.streams["weights"][1:]
    )
