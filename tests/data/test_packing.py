"""Packing: nothing lost, nothing mixed, always the same shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.data.packing import (
  PackConfig,
  Size,
  check_processes,
  plan,
  rows_of_process,
  size_of,
)
from sophia_jax.data.rows import pack, stack
from sophia_jax.types import Role, SophiaError, TokenSequence

P, S = 2, 3  # image tokens of a tile, side of a tile
IMAGES = {"a": 1, "b": 3, "c": 4, "d": 1}


def sequence(name, text, images=(), role=Role.RESPONSE):
  """`text` tokens with the images in front; every token id is its own."""
  image = P * sum(IMAGES[i] for i in images)
  n = image + text
  ids = 1000 * (int(name) + 1) + np.arange(n, dtype=np.int32)
  roles = np.full(n, role, np.int8)
  roles[:image] = Role.IMAGE
  return TokenSequence(
    id=name,
    token_ids=ids,
    roles=roles,
    images=tuple(images),
    tiles=tuple(IMAGES[i] for i in images),
    streams={
      "weights": ids.astype(np.float32) / 8,
      "logps": -ids.astype(np.float32),
    },
  )


def load(path, count):
  """Tiles whose pixels name the image and the tile."""
  assert IMAGES[path] == count
  first = 10 * (ord(path) - ord("a")) + 1
  values = np.arange(first, first + count, dtype=np.uint8)
  return np.broadcast_to(values[:, None, None, None], (count, S, S, 3))


def packed(rows, config, **kw):
  kw = {"streams": ("weights",), "load_tiles": load, **kw}
  return pack(rows, config, tokens_per_tile=P, tile_size=S, **kw)


some = st.lists(
  st.tuples(
    st.integers(1, 12),
    st.lists(st.sampled_from("abcd"), max_size=2).map(tuple),
  ),
  max_size=30,
)
shapes = st.builds(
  PackConfig,
  rows=st.sampled_from([2, 4, 6]),
  length=st.integers(28, 60),
  tile_budget=st.sampled_from([16, 20, 32]),
  shards=st.sampled_from([1, 2]),
  microbatches=st.integers(1, 3),
  open_rows=st.integers(1, 40),
)


@settings(deadline=None, max_examples=200)
@given(some, shapes, st.booleans(), st.randoms())
def test_no_token_is_lost_and_none_is_mixed(specs, config, each, random):
  processes = config.shards if each else 1
  sequences = [sequence(str(i), *spec) for i, spec in enumerate(specs)]
  order = list(range(len(sequences)))
  random.shuffle(order)
  made = plan([size_of(s) for s in sequences], config, order)
  seen = []
  for batch in made.batches:
    assert len(batch) % config.rows == 0
    assert 0 < len(batch) <= config.microbatches * config.rows
    assert any(batch[-config.rows :]), "no microbatch is empty"
    for process in range(processes):
      for rows in rows_of_process(batch, config, process, processes):
        out = packed(
          [[sequences[i] for i in row] for row in rows],
          config,
          slice_index=process,
          slices=processes,
        )
        for shard, part in enumerate(shards_of(out, config, processes)):
          own = rows[shard * config.shard_rows :][: config.shard_rows]
          first_tile = (process + shard) * config.shard_tiles
          check_rows(part, [[sequences[i] for i in r] for r in own], first_tile)
        seen += [i for row in rows for i in row]
  assert sorted(seen) == sorted(order)
  assert not made.dropped


def shards_of(batch, config, processes):
  """The rows and tiles of each shard in a process's share."""
  for shard in range(config.shards // processes):
    rows = slice(shard * config.shard_rows, (shard + 1) * config.shard_rows)
    part = jax.tree.map(lambda x, rows=rows: x[rows], batch)
    first = shard * config.shard_tiles
    tiles = batch.tiles[first : first + config.shard_tiles]
    yield dataclasses.replace(part, tiles=tiles)


def check_rows(batch, rows, first_tile):
  """Reads every sequence back, by other means than it was written."""
  used = {
    s.images[i] for row in rows for s in row for i in range(len(s.images))
  }
  budget = len(batch.tiles)
  for r, row in enumerate(rows):
    lengths = [len(s) for s in row]
    segments = np.repeat(np.arange(1, len(row) + 1), lengths)
    padding = batch.tokens.shape[1] - len(segments)
    np.testing.assert_array_equal(
      batch.segment_ids[r], np.append(segments, np.zeros(padding))
    )
    for segment, s in enumerate(row, start=1):
      here = batch.segment_ids[r] == segment
      np.testing.assert_array_equal(batch.tokens[r][here], s.token_ids)
      np.testing.assert_array_equal(batch.positions[r][here], range(len(s)))
      targets = batch.targets[r][here]
      np.testing.assert_array_equal(targets[:-1], s.token_ids[1:])
      assert targets[-1] == 0
      # A stream's value stands with the target it belongs to.
      stream = batch.streams["weights"][r][here]
      np.testing.assert_array_equal(stream[:-1] * 8, targets[:-1])
      assert stream[-1] == 0
      slots = batch.tile_slots[r][here]
      image = s.roles == Role.IMAGE
      assert (slots[~image] == -1).all()
      local = slots[image] - first_tile * P
      assert ((local >= 0) & (local < budget * P)).all()
      expected = [load(i, IMAGES[i])[:, 0, 0, 0].repeat(P) for i in s.images]
      pixels = batch.tiles[:, 0, 0, 0]
      np.testing.assert_array_equal(
        pixels[local // P], np.concatenate([[], *expected])
      )
      np.testing.assert_array_equal(local % P, np.arange(image.sum()) % P)
    empty = batch.segment_ids[r] == 0
    for field in (batch.tokens, batch.targets, batch.positions):
      assert not field[r][empty].any()
    assert (batch.tile_slots[r][empty] == -1).all()
  # Each distinct image once, the rest is zero.
  assert (batch.tiles[:, 0, 0, 0] > 0).sum() == sum(IMAGES[i] for i in used)


@given(some, shapes)
def test_a_plan_depends_on_its_arguments_only(specs, config):
  sizes = [size_of(sequence(str(i), *s)) for i, s in enumerate(specs)]
  order = list(reversed(range(len(sizes))))
  assert plan(sizes, config, order) == plan(sizes, config, order)


def test_shapes_never_change():
  config = PackConfig(rows=3, length=40, tile_budget=6, microbatches=2)
  sequences = [sequence(str(i), 20 + i, "ab"[i % 2]) for i in range(9)]
  made = plan([size_of(s) for s in sequences], config)
  shapes = set()
  for batch in made.batches:
    out = stack(
      [
        packed([[sequences[i] for i in row] for row in rows], config)
        for rows in rows_of_process(batch, config, 0, 1)
      ]
    )
    leaves, tree = jax.tree.flatten(out)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    shapes.add((tree, tuple((x.shape[1:], x.dtype) for x in leaves)))
  assert len(made.batches) > 1
  assert len(shapes) == 1
  assert out.tokens.shape[1:] == (3, 40)
  assert out.tiles.shape[1:] == (6, S, S, 3)
  assert out.tiles.dtype == np.uint8
  assert out.tokens.dtype == np.int32
  assert out.streams["weights"].dtype == np.float32


def test_a_single_microbatch_has_its_axis_too():
  config = PackConfig(rows=1, length=9, tile_budget=0)
  out = packed([[sequence("0", 4)]], config)
  assert out.tokens.shape == (1, 9)
  assert stack([out]).tokens.shape == (1, 1, 9)
  assert stack([out]).streams["weights"].shape == (1, 1, 9)
  assert out.tiles.shape == (0, S, S, 3)


def test_a_shared_image_takes_its_tiles_once():
  config = PackConfig(rows=1, length=200, tile_budget=4)
  sequences = [sequence(str(i), 3, "c") for i in range(8)]
  made = plan([size_of(s) for s in sequences], config)
  assert made.batches == [[list(range(8))]]
  out = packed([sequences], config)
  assert set(out.tile_slots[out.tile_slots >= 0]) == set(range(4 * P))


def test_the_tile_budget_opens_another_batch():
  config = PackConfig(rows=1, length=200, tile_budget=4)
  sizes = [size_of(sequence(str(i), 3, "abcd"[i % 4])) for i in range(8)]
  for batch in plan(sizes, config).batches:
    images = {image for row in batch for i in row for image in sizes[i].images}
    assert sum(count for _, count in images) <= 4


def test_one_path_in_two_cuts_is_two_images():
  assert Size("x", 10, (("a", 3), ("a", 5), ("a", 3))).tiles == 8


def test_too_long_names_the_sequence():
  config = PackConfig(rows=2, length=20, tile_budget=2)
  with pytest.raises(SophiaError, match=r"^7: 21 tokens .* row of 20; raise"):
    plan([size_of(sequence("7", 21))], config)
  with pytest.raises(SophiaError, match=r"^7: 3 tiles .* budget of 2; raise"):
    plan([size_of(sequence("7", 2, "b"))], config)
  with pytest.raises(SophiaError, match=r"^7: 3 tiles .* budget of 2; raise"):
    shared = dataclasses.replace(config, tile_budget=4, shards=2)
    plan([size_of(sequence("7", 2, "b"))], shared)


def test_dropping_counts():
  config = PackConfig(rows=1, length=20, tile_budget=2, drop_oversize=True)
  sizes = [
    size_of(sequence(str(i), n, images))
    for i, (n, images) in enumerate([(21, ""), (5, ""), (2, "b"), (20, "")])
  ]
  made = plan(sizes, config)
  assert made.dropped == [0, 2]
  assert made.batches == [[[1]], [[3]]]


def test_an_empty_sequence_is_an_error():
  config = PackConfig(rows=1, length=9, tile_budget=0)
  with pytest.raises(SophiaError, match="empty sequence"):
    plan([Size("x", 0)], config)


def test_an_absent_stream_is_not_zero():
  config = PackConfig(rows=1, length=9, tile_budget=0)
  with pytest.raises(SophiaError, match="3: has no stream 'advantages'"):
    packed([[sequence("3", 4)]], config, streams=("weights", "advantages"))


def test_image_tokens_must_match_the_tiles():
  config = PackConfig(rows=1, length=30, tile_budget=9)
  wrong = dataclasses.replace(sequence("5", 4, "b"), tiles=(1,))
  with pytest.raises(SophiaError, match=r"5: 6 image tokens for 1 tiles of 2"):
    packed([[wrong]], config, load_tiles=lambda p, n: load("a", 1))


def test_rows_must_fit_the_shape():
  config = PackConfig(rows=1, length=9, tile_budget=3)
  with pytest.raises(SophiaError, match="1: ends at token 10 of a row of 9"):
    packed([[sequence("0", 5), sequence("1", 5)]], config)
  with pytest.raises(SophiaError, match="0: its batch has more than 3 tiles"):
    packed([[sequence("0", 1, "c")]], config)
  with pytest.raises(ValueError, match="2 rows, not 1"):
    packed([[], []], config)


def test_rows_and_tiles_divide_among_shards_and_these_among_processes():
  with pytest.raises(ValueError, match="rows 3 does not divide among 2"):
    PackConfig(rows=3, length=9, tile_budget=4, shards=2)
  with pytest.raises(ValueError, match="tile_budget 5 does not divide among 2"):
    PackConfig(rows=4, length=9, tile_budget=5, shards=2)
  config = PackConfig(rows=4, length=9, tile_budget=4, shards=2)
  check_processes(config, 2)
  with pytest.raises(SophiaError, match="shards 2 does not divide among 4"):
    check_processes(config, 4)


@pytest.mark.parametrize(
  "values", [{"rows": 0}, {"length": 0}, {"tile_budget": -1}, {"open_rows": 0}]
)
def test_config_is_checked(values):
  with pytest.raises(ValueError, match=next(iter(values))):
    PackConfig(**{"rows": 1, "length": 1, "tile_budget": 1, **values})


def test_fill_rate():
  config = PackConfig(rows=2, length=10, tile_budget=0)
  sequences = [sequence("0", 6), sequence("1", 4), sequence("2", 5)]
  made = plan([size_of(s) for s in sequences], config)
  assert made.fill_rate == pytest.approx(0.75)
  assert plan([], config).fill_rate == 0


@pytest.mark.parametrize(("rows", "least"), [(1, 0.97), (8, 0.96)])
def test_rows_fill_well(rows, least):
  rng = np.random.default_rng(0)
  lengths = np.clip(rng.lognormal(6.5, 0.8, 5000), 8, 4096).astype(int)
  sizes = [Size(str(i), int(n)) for i, n in enumerate(lengths)]
  config = PackConfig(rows=rows, length=4096, tile_budget=0)
  assert plan(sizes, config).fill_rate > least
