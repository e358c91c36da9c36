"""Rows: the arrays of packed sequences, and back.

`pack` writes the arrays of a microbatch whose rows `data.packing` planned, `stack`
joins microbatches, and `unpack` gives values of rows back to their sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int32

from sophia_jax.data.native import NOWHERE, Tiles, placed
from sophia_jax.data.packing import Image, PackConfig, Row
from sophia_jax.types import Batch, Role, SophiaError, TokenSequence

LoadTiles = Callable[[str, int], Tiles]
"""(path, number of tiles) -> tiles; see data.images.load_tiles."""


def pack(
  rows: Sequence[Sequence[TokenSequence]],
  config: PackConfig,
  *,
  tokens_per_tile: int,
  tile_size: int,
  streams: Sequence[str],
  load_tiles: LoadTiles,
  channels: int = 3,
  slice_index: int = 0,
  slices: int = 1,
) -> Batch:
  """Writes the arrays of one microbatch, or of a process's slice of it.

  Args:
    rows: the sequences of each of rows / slices rows; empty ones are padding.
    config: the shape.
    tokens_per_tile: image tokens P of a tile.
    tile_size: side S of a tile.
    streams: the streams the trainer reads; the sequences may carry more.
    load_tiles: reads an image.
    channels: of a tile, three a frame.
    slice_index: which slice this is; `tile_slots` count over the tiles of all
      slices, in their order.
    slices: number of slices; divides the shards.

  Returns:
    numpy arrays without a microbatch axis.

  Raises:
    SophiaError: a stream is absent (absent is not zero), or a sequence's image
      tokens do not match its tiles.
  """
  if len(rows) != config.rows // slices:
    raise ValueError(f"{len(rows)} rows, not {config.rows // slices}")
  shards = config.shards // slices
  tiles = config.shard_tiles
  shape = (shards * tiles, tile_size, tile_size, channels)
  out = _empty((len(rows), config.length), shape, streams)
  for shard in range(shards):
    own = range(shard * config.shard_rows, (shard + 1) * config.shard_rows)
    place = slice(shard * tiles, (shard + 1) * tiles)
    first = (slice_index * shards + shard) * tiles
    arrays = out.tiles[place], out.tile_places[place]
    images = _place_images(*arrays, first, [rows[r] for r in own], load_tiles)
    first_slots = {
      image: (first + tile) * tokens_per_tile for image, tile in images.items()
    }
    for r in own:
      _write_row(out, r, rows[r], first_slots, tokens_per_tile)
  return out


def stack(microbatches: Sequence[Batch]) -> Batch:
  """Joins microbatches along a new leading axis A, even a single one."""
  return jax.tree.map(lambda *arrays: np.stack(arrays), *microbatches)


# `Batch` promises jax arrays; before they are on a device they are numpy arrays,
# and writable: therefore Any.
def _empty(
  shape: tuple[int, int],
  tiles: tuple[int, int, int, int],
  streams: Sequence[str],
) -> Any:
  """Returns a batch that is all padding."""
  arrays: dict[str, Any] = {
    name: np.zeros(shape, np.int32)
    for name in ("tokens", "targets", "segment_ids", "bundle_ids", "positions")
  }
  return Batch(
    **arrays,
    tile_slots=np.full(shape, -1, np.int32),  # type: ignore[arg-type]
    tiles=np.zeros(tiles, np.uint8),  # type: ignore[arg-type]
    tile_places=np.full((tiles[0], 4), NOWHERE, np.int32),  # type: ignore[arg-type]
    streams={name: np.zeros(shape, np.float32) for name in streams},  # type: ignore[misc]
  )


def _write_row(
  out: Any,
  r: int,
  row: Sequence[TokenSequence],
  first_slots: Mapping[Image, int],
  tokens_per_tile: int,
) -> None:
  start = 0
  for segment, (bundle, sequence) in enumerate(_numbered(row), start=1):
    _write_tokens(out, r, start, segment, bundle, sequence)
    _write_slots(
      out.tile_slots[r, start:], sequence, first_slots, tokens_per_tile
    )
    start += len(sequence)


def _numbered(
  row: Sequence[TokenSequence],
) -> Iterator[tuple[int, TokenSequence]]:
  """Yields the sequences of a row with the numbers of their bundles, from 1."""
  number, name = 0, ""
  members: set[str] = set()
  for sequence in row:
    # A bundle that is drawn twice may stand beside itself.
    if not name or sequence.bundle != name or sequence.id in members:
      number, name, members = number + 1, sequence.bundle, set()
    members.add(sequence.id)
    yield number, sequence


def _place_images(
  tiles: Any,
  tile_places: Any,
  first: int,
  rows: Sequence[Sequence[TokenSequence]],
  load_tiles: LoadTiles,
) -> dict[Image, int]:
  """Writes each distinct image once; returns its first tile.

  Args:
    first: index in the batch of the first of `tiles`.
  """
  place: dict[Image, int] = {}
  used = 0
  for sequence in (sequence for row in rows for sequence in row):
    for path, count in zip(sequence.images, sequence.tiles):
      if (path, count) in place:
        continue
      if used + count > len(tiles):
        raise SophiaError(
          f"{sequence.id}: its batch has more than {len(tiles)} tiles; raise "
          "tile_budget"
        )
      here = slice(used, used + count)
      tiles[here], tile_places[here] = placed(
        load_tiles(path, count), first + used, path
      )
      place[path, count] = used
      used += count
  return place


def _write_tokens(
  out: Any,
  r: int,
  start: int,
  segment: int,
  bundle: int,
  sequence: TokenSequence,
) -> None:
  ids, n = sequence.token_ids, len(sequence)
  if start + n > out.tokens.shape[1]:
    raise SophiaError(
      f"{sequence.id}: ends at token {start + n} of a row of "
      f"{out.tokens.shape[1]}; pack by a plan of the same length"
    )
  # Token t is predicted one place before it, inside the segment.
  here, before = slice(start, start + n), slice(start, start + n - 1)
  out.tokens[r, here] = ids
  out.targets[r, before] = ids[1:]
  out.segment_ids[r, here] = segment
  out.bundle_ids[r, here] = bundle
  out.positions[r, here] = np.arange(n)
  for name, stream in out.streams.items():
    if name not in sequence.streams:
      raise SophiaError(
        f"{sequence.id}: has no stream {name!r}, which the trainer reads; it "
        f"has {', '.join(sorted(sequence.streams)) or 'none'}"
      )
    stream[r, before] = sequence.streams[name][1:]


def _write_slots(
  out: Int32[np.ndarray, "T"],
  sequence: TokenSequence,
  first_slots: Mapping[Image, int],
  tokens_per_tile: int,
) -> None:
  slots = [
    np.arange(count * tokens_per_tile) + first_slots[path, count]
    for path, count in zip(sequence.images, sequence.tiles)
  ]
  where = np.flatnonzero(sequence.roles == Role.IMAGE)
  if len(where) != sum(map(len, slots)):
    raise SophiaError(
      f"{sequence.id}: {len(where)} image tokens for {sum(sequence.tiles)} "
      f"tiles of {tokens_per_tile}; render it again with this model's image "
      "settings"
    )
  if slots:
    out[where] = np.concatenate(slots)


def unpack(
  rows: Sequence[Row],
  sequences: Sequence[TokenSequence],
  streams: Mapping[str, Float[np.ndarray, "B T"]],
) -> dict[int, dict[str, Float[np.ndarray, "L"]]]:
  """Gives values of a microbatch's rows back to their tokens.

  Args:
    rows: indices of the sequences of each row, as `pack` was given them.
    sequences: what the indices count.
    streams: values at t of targets[t].

  Returns:
    The streams of each sequence by its index; 0 at its first token, which is
    nobody's target.
  """
  found: dict[int, dict[str, np.ndarray]] = {}
  for r, row in enumerate(rows):
    start = 0
    for i in row:
      n = len(sequences[i])
      found[i] = {}
      for name, values in streams.items():
        found[i][name] = np.zeros(n, np.float32)
        found[i][name][1:] = values[r, start : start + n - 1]
      start += n
  return found
