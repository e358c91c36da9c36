"""Fill rates, packing as sequences arrive, and the tile budget data ask for.

The distributions are those of benchmarks/packing.py, which prints the figures.
"""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.packing import LENGTH, mixed, text
from sophia_jax.data.packing import (
  PackConfig,
  Packer,
  Size,
  packed,
  plan,
  suggest_tile_budget,
)

LONG = PackConfig(rows=1, length=LENGTH, tile_budget=0)


# ---------------------------------------------------------------------- fill rates
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [1, 8])
def test_long_trajectories_fill_rows(rows, seed):
  """At least 97 % of the tokens' places; the rows left over count in full."""
  made = plan(text(8000, seed), dataclasses.replace(LONG, rows=rows))
  assert made.fill_rate > 0.97
  assert made.tile_fill_rate == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rows", "shards"), [(1, 1), (8, 1), (8, 2)])
def test_mixed_data_fill_tokens_and_tiles(rows, shards, seed):
  """97 % and 90 %, with the budget that their own sizes suggest."""
  sizes = mixed(16_000, seed)
  shape = dataclasses.replace(LONG, rows=rows, shards=shards)
  budget = suggest_tile_budget(sizes, shape)
  made = plan(sizes, dataclasses.replace(shape, tile_budget=budget))
  assert made.fill_rate > 0.97
  assert made.tile_fill_rate > 0.90
  assert not made.dropped


# ---------------------------------------------------------------------- the budget
sizes = st.lists(
  st.builds(
    lambda n, images: Size("x", n, tuple((f"{i}", i) for i in images)),
    st.integers(1, 40),
    st.lists(st.integers(1, 5), max_size=2),
  ),
  min_size=1,
  max_size=40,
)
shapes = st.builds(
  lambda shards, **kw: PackConfig(rows=2 * shards, shards=shards, **kw),
  shards=st.integers(1, 3),
  length=st.just(40),
  tile_budget=st.just(0),
  microbatches=st.integers(1, 2),
  open_rows=st.integers(1, 9),
)


@given(sizes, shapes, st.integers(1, 8))
def test_every_sequence_fits_the_suggested_budget(sizes, shape, multiple):
  budget = suggest_tile_budget(sizes, shape, multiple)
  assert budget % (multiple * shape.shards) == 0
  made = plan(sizes, dataclasses.replace(shape, tile_budget=budget))
  assert not made.dropped
  assert budget == 0 or any(size.images for size in sizes)


def test_images_that_are_shown_again_count_once():
  shape = PackConfig(rows=1, length=100, tile_budget=0)
  shared = [Size(str(i), 10, (("a", 5),)) for i in range(100)]
  apart = [Size(str(i), 10, ((str(i), 5),)) for i in range(100)]
  assert suggest_tile_budget(shared, shape) == 5
  assert suggest_tile_budget(apart, shape) == 50


# ----------------------------------------------------------------------- as they come
@given(sizes, shapes)
def test_rows_as_they_come_are_the_plan(sizes, shape):
  budget = suggest_tile_budget(sizes, shape)
  shape = dataclasses.replace(shape, tile_budget=budget)
  named = ((f"s{i}", size) for i, size in enumerate(sizes))
  batches = list(packed(named, Packer(shape)))
  made = plan(sizes, shape)
  assert batches == [
    [[f"s{i}" for i in row] for row in batch] for batch in made.batches
  ]


def test_an_endless_source_is_not_read_far_ahead():
  """No further than open rows, those being closed, and one more."""
  shape = PackConfig(rows=2, length=100, tile_budget=0, open_rows=8)
  taken = 0

  def endless():
    nonlocal taken
    for taken in itertools.count(1):
      yield taken, Size(str(taken), 20 + taken % 7)

  batches = packed(endless(), Packer(shape))
  given_out = 0
  for _ in range(200):
    given_out += sum(map(len, next(batches)))
    # At most five sequences to a row.
    assert taken - given_out <= (8 + 2) * 5 + 1


def test_sequences_that_cannot_fit_are_counted():
  shape = PackConfig(rows=1, length=20, tile_budget=2, drop_oversize=True)
  packer = Packer(shape)
  sizes = [
    Size("a", 21),
    Size("b", 5),
    Size("c", 9, (("x", 3),)),
    Size("d", 20, (("x", 2),)),
  ]
  batches = list(packed(((s.id, s) for s in sizes), packer))
  assert batches == [[["b"]], [["d"]]]
  assert packer.dropped == ["a", "c"]
  assert (packer.tokens, packer.tiles, packer.microbatches) == (25, 2, 2)
