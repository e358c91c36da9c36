"""Packing: whole sequences into rows of fixed shape.

`plan` decides on lengths alone, before a pixel is read; `data.rows` writes the
arrays. A sequence is never split: half a response has no reward. Sequences that
are judged together, a bundle, lie side by side in one row.

A microbatch consists of shards. Each has its own rows and tile budget, and
an image that several of its sequences show takes its tiles once. A process takes
whole shards, its slice, so the contents of a batch do not depend on the number of
processes. A batch has as many microbatches as its sequences need.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64

from sophia_jax.types import SophiaError, TokenSequence

T = TypeVar("T")

Image = tuple[str, int]
"""Path and number of tiles; the same path may be cut in two ways."""

Starts = Int64[np.ndarray, "n"]
"""First sequence of each unit, and the number of sequences last."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
  """The fixed shape of a batch."""

  rows: int
  """Rows B of a microbatch, over all processes."""
  length: int
  """Tokens T of a row."""
  tile_budget: int
  """Tiles I of a microbatch, over all processes; 0 for text-only data."""
  microbatches: int = 1
  """Microbatches A of a full update."""
  shards: int = 1
  """Shards of a microbatch. The number of processes must divide it."""
  open_rows: int = 64
  """Look-ahead: rows that stay open for sequences that still fit. More fill
  better and reorder more."""
  drop_oversize: bool = False
  """Whether a sequence or bundle that fits no batch is dropped and counted; an
  error otherwise."""

  def __post_init__(self) -> None:
    for name in ("rows", "length", "microbatches", "shards", "open_rows"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
    if self.tile_budget < 0:
      raise ValueError(f"tile_budget is negative: {self.tile_budget}")
    for name in ("rows", "tile_budget"):
      if getattr(self, name) % self.shards:
        raise ValueError(
          f"{name} {getattr(self, name)} does not divide among {self.shards} "
          f"shards; make it a multiple of {self.shards}"
        )

  @property
  def shard_rows(self) -> int:
    return self.rows // self.shards

  @property
  def shard_tiles(self) -> int:
    return self.tile_budget // self.shards

  def whole(self) -> PackConfig:
    """Returns the shape of the same batches as single microbatches.

    It decides which sequences a batch holds.
    """
    return dataclasses.replace(
      self,
      rows=self.rows * self.microbatches,
      tile_budget=self.tile_budget * self.microbatches,
      shards=self.shards * self.microbatches,
      microbatches=1,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
  """Facts about a sequence, or a bundle, that planning needs."""

  id: str
  length: int
  images: tuple[Image, ...] = ()
  bundle: str = ""

  @property
  def tiles(self) -> int:
    return sum(count for _, count in set(self.images))


def size_of(sequence: TokenSequence) -> Size:
  """Returns the size of a sequence."""
  images = tuple(zip(sequence.images, sequence.tiles))
  return Size(sequence.id, len(sequence), images, sequence.bundle)


def bundled(
  sizes: Sequence[Size],
) -> tuple[Sequence[Size], Starts]:
  """Joins the sizes of the sequences of each bundle, which stand side by side.

  Returns:
    Sizes of U units, and where each unit starts in `sizes`, the end last.

  Raises:
    SophiaError: the sequences of a bundle do not stand side by side.
  """
  if not any(size.bundle for size in sizes):
    return sizes, np.arange(len(sizes) + 1)
  units: list[list[Size]] = []
  seen: set[str] = set()
  for size in sizes:
    name = size.bundle
    if name and units and units[-1][0].bundle == name:
      units[-1].append(size)
      continue
    if name in seen:
      raise SophiaError(
        f"{size.id}: other sequences stand between it and its bundle {name!r}; "
        "give the sequences of a bundle one after another"
      )
    seen |= {name} - {""}
    units.append([size])
  starts = np.cumsum([0, *map(len, units)])
  return [
    unit[0] if len(unit) == 1 else _joined(unit) for unit in units
  ], starts


def _joined(unit: Sequence[Size]) -> Size:
  """Returns the size of a bundle; its id names it and its sequences."""
  ids = ", ".join(size.id for size in unit)
  images = tuple(image for size in unit for image in size.images)
  length = sum(size.length for size in unit)
  return Size(f"{unit[0].bundle} ({ids})", length, images, unit[0].bundle)


Row = list[int]
"""Indices of the sequences of a row, in their order."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """Place of every sequence."""

  batches: list[list[Row]]
  """Rows of each batch: of one or more whole microbatches, empty rows included."""
  dropped: list[int]
  """Indices of sequences that fit no batch."""
  fill_rate: float
  """Tokens over places, 0 to 1."""
  tile_fill_rate: float
  """Tiles over places, 0 to 1; 0 where there are no places."""


# -------------------------------------------------------------------- planning
class _Shard(Generic[T]):
  """An open shard: rows that share a tile budget."""

  def __init__(self, config: PackConfig):
    self.rows: list[list[T]] = [[] for _ in range(config.shard_rows)]
    self.free = [config.length] * config.shard_rows
    self.most_free = config.length
    self.tiles = config.shard_tiles
    self.images: set[Image] = set()

  def add(self, item: T, size: Size) -> bool:
    """Puts the sequence into the first row with room, if there is one."""
    if size.length > self.most_free:
      return False
    new = set(size.images) - self.images if size.images else set()
    cost = sum(count for _, count in new)
    if cost > self.tiles:
      return False
    row = next(r for r, free in enumerate(self.free) if free >= size.length)
    self.rows[row].append(item)
    self.free[row] -= size.length
    self.most_free = max(self.free)
    self.tiles -= cost
    self.images |= new
    return True


class Packer(Generic[T]):
  """First-fit over a bounded number of open rows, one sequence at a time.

  The caller chooses what represents a sequence: an index, a path. Memory does
  not grow with the number of sequences, except for the dropped ones.
  """

  def __init__(self, config: PackConfig):
    self.config = config
    self.dropped: list[T] = []
    """Sequences that fit no batch (drop_oversize)."""
    self.tokens = 0
    self.tiles = 0
    """Tiles of all batches given out, as are the tokens."""
    self.microbatches = 0
    """Microbatches given out."""
    self._look_ahead = max(1, -(-config.open_rows // config.shard_rows))
    self._open: list[_Shard[T]] = []
    self._closed: list[_Shard[T]] = []

  def add(self, item: T, size: Size) -> list[list[T]] | None:
    """Places one sequence; returns the rows of a batch that became complete.

    Raises:
      SophiaError: the sequence fits no batch (unless `drop_oversize`).
    """
    problem = oversize(size, self.config)
    if problem and not self.config.drop_oversize:
      raise SophiaError(problem)
    if problem:
      self.dropped.append(item)
      return None
    self.tokens += size.length
    if any(shard.add(item, size) for shard in self._open):
      return None
    batch = None
    if len(self._open) == self._look_ahead:
      batch = self._close()
    self._open.append(_Shard(self.config))
    self._open[-1].add(item, size)
    return batch

  def finish(self) -> Iterator[list[list[T]]]:
    """Yields the batches of the rows still open.

    The last has as many microbatches as it needs; empty rows fill it up.
    """
    while self._open:
      if batch := self._close():
        yield batch
    if self._closed:
      yield self._give_out()

  def _close(self) -> list[list[T]] | None:
    self._closed.append(self._open.pop(0))
    if len(self._closed) < self.config.microbatches * self.config.shards:
      return None
    return self._give_out()

  def _give_out(self) -> list[list[T]]:
    microbatches = -(-len(self._closed) // self.config.shards)
    self.microbatches += microbatches
    free = sum(shard.tiles for shard in self._closed)
    self.tiles += self.config.shard_tiles * len(self._closed) - free
    batch = [row for shard in self._closed for row in shard.rows]
    self._closed = []
    empty = microbatches * self.config.rows - len(batch)
    return batch + [[] for _ in range(empty)]


def packed(
  sized: Iterable[tuple[T, Size]], packer: Packer[T]
) -> Iterator[list[list[T]]]:
  """Yields batches of rows, as soon as they are closed.

  Args:
    sized: what stands for a sequence, and its size.
    packer: a fresh one; afterwards it knows what was dropped.

  Raises:
    SophiaError: a sequence fits no batch (unless `drop_oversize`).
  """
  for item, size in sized:
    if (batch := packer.add(item, size)) is not None:
      yield batch
  yield from packer.finish()


def plan(
  sizes: Sequence[Size],
  config: PackConfig,
  order: Sequence[int] | None = None,
  updates: int = 0,
) -> Plan:
  """Packs all sequences; depends on nothing but its arguments.

  Args:
    sizes: one for each sequence, or bundle.
    config: the shape of a batch.
    order: indices into `sizes` in the order of training, where an index may
      come again; all of them once if None.
    updates: number of batches, each with an equal part of the order in as many
      microbatches as it needs; 0: full batches of `config.microbatches`. A
      part is packed as the data stand, so that the answers to an image lie
      together and share its tiles: an update is a sum, whatever the order.

  Raises:
    SophiaError: a sequence fits no batch (unless `drop_oversize`).
  """
  order = range(len(sizes)) if order is None else order
  if not updates:
    packer: Packer[int] = Packer(config)
    batches = list(packed(((i, sizes[i]) for i in order), packer))
    return _plan(batches, [packer])
  single = dataclasses.replace(config, microbatches=1)
  parts = map(np.sort, np.array_split(np.asarray(order, np.int64), updates))
  packers: list[Packer[int]] = [Packer(single) for _ in range(updates)]
  batches = [
    [
      row
      for rows in packed(((i, sizes[i]) for i in part.tolist()), packer)
      for row in rows
    ]
    for part, packer in zip(parts, packers)
  ]
  return _plan([batch for batch in batches if batch], packers)


def _plan(batches: list[list[Row]], packers: Sequence[Packer[int]]) -> Plan:
  config = packers[0].config
  microbatches = sum(packer.microbatches for packer in packers)
  tokens = sum(packer.tokens for packer in packers)
  tiles = sum(packer.tiles for packer in packers)
  return Plan(
    batches,
    [i for packer in packers for i in packer.dropped],
    tokens / max(microbatches * config.rows * config.length, 1),
    tiles / max(microbatches * config.tile_budget, 1),
  )


def suggest_tile_budget(
  sizes: Sequence[Size], config: PackConfig, multiple: int = 1
) -> int:
  """Returns the tile budget with which rows run out of tokens and tiles at once.

  It is the average number of tiles of rows full of tokens, rounded up: packing
  evens the rows out. Less would leave places of tokens empty, more those of tiles.

  Args:
    sizes: sizes of all sequences, or of a fair sample of some ten thousand.
    config: the shape; its tile budget is not looked at.
    multiple: divisor of the tiles of a shard: the devices that share it.

  Returns:
    `tile_budget` of a microbatch; every sequence's tiles fit.
  """
  most = max((size.tiles for size in sizes), default=0)
  endless = sum(size.tiles for size in sizes) * config.shards
  packer: Packer[None] = Packer(
    dataclasses.replace(config, tile_budget=endless, drop_oversize=True)
  )
  for _ in packed(((None, size) for size in sizes), packer):
    pass
  places = config.shard_rows * config.length
  mean = packer.tiles * places / max(packer.tokens, 1)
  tiles = max(math.ceil(mean), most)
  return -(-tiles // multiple) * multiple * config.shards


def oversize(size: Size, config: PackConfig) -> str | None:
  """Returns why a sequence fits no batch, with the remedy; None if it fits."""
  if size.length > config.length:
    return (
      f"{size.id}: {size.length} tokens do not fit a row of {config.length}; "
      "raise the packing length or drop the sequence (drop_oversize)"
    )
  if size.tiles > config.shard_tiles:
    return (
      f"{size.id}: {size.tiles} tiles do not fit the budget of "
      f"{config.shard_tiles}; raise tile_budget, lower max_tiles or drop the "
      "sequence (drop_oversize)"
    )
  if size.length < 1:
    return f"{size.id}: an empty sequence; remove it"
  return None


def check_processes(config: PackConfig, count: int) -> None:
  """Checks that `count` processes can share a microbatch.

  Raises:
    SophiaError: they cannot.
  """
  if config.shards % count:
    raise SophiaError(
      f"shards {config.shards} does not divide among {count} processes; make "
      f"it a multiple of {count}"
    )


def rows_of_process(
  batch: Sequence[list[T]], config: PackConfig, index: int, count: int
) -> list[list[list[T]]]:
  """Returns the rows of one process's slice, for each microbatch of a batch."""
  rows = config.rows // count
  first = range(index * rows, len(batch), config.rows)
  return [list(batch[start : start + rows]) for start in first]
