"""The loader: epochs of packed batches that resume exactly.

Batch number n is a pure function of (sequences, config, seed, n), so the state
of an iterator is a number, valid for any number of processes. grain reads ahead
with threads: they suffice, since Pillow releases the interpreter lock, and need
no absl flags as grain's worker processes do.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from sophia_jax.data import packing, rows
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.data.mixture import Indices, Joined, Mixture, Sequences
from sophia_jax.data.packing import PackConfig, Plan, Row, Size
from sophia_jax.types import Batch, SophiaError

_SAMPLE = 20_000  # sequences to suggest a tile budget from


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
  """Order of the batches, and how far ahead they are read."""

  epochs: int = 1
  batches: int = 0
  """Batches of the whole run, of as many epochs as they take; 0: `epochs`."""
  updates: int = 0
  """Batches of an epoch, equal parts of its sequences; 0: as many as full batches
  make."""
  seed: int = 0
  round: int = 0
  """Number of the round whose sequences these are: orders differ by it."""
  shuffle: bool = True
  """Whether every epoch is shuffled; otherwise the order of the data is kept."""
  threads: int = 2
  """Reading threads; 0 reads on demand."""
  prefetch: int = 2
  """Batches kept ready."""
  cache_bytes: int = 1 << 30
  """Memory for decoded tiles, where the reading brings no cache."""

  def __post_init__(self) -> None:
    if self.epochs < 1:
      raise ValueError(f"epochs must be positive, not {self.epochs}")
    counts = "batches", "updates", "seed", "round", "threads", "prefetch"
    for name in counts:
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    if self.cache_bytes < 0:
      raise ValueError(f"cache_bytes is negative: {self.cache_bytes}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
  """How the sequences of a row become arrays, and which slice of them."""

  streams: tuple[str, ...]
  """Streams that the trainer reads."""
  tokens_per_tile: int
  """Image tokens P of a tile."""
  image: ImageConfig = dataclasses.field(default_factory=ImageConfig)
  """Tiling of images; the renderer's."""
  slice_index: int = 0
  """This process's slice of every batch."""
  slices: int = 1
  """Number of slices; divides the shards of the packing."""
  tiles: TileCache | None = None
  """Reader of images that several loaders share; None: each has a separate
  one."""


class Loader:
  """All batches of a run, planned in advance epoch by epoch.

  Batches have a leading microbatch axis, as long as their sequences need: [A, B,
  T], tiles [A, I, S, S, 3]. With several processes each gets its slice of B and
  I; together the slices are the batch that one process alone would get.
  """

  def __init__(
    self,
    sequences: Sequences | Mapping[str, Sequences],
    shape: PackConfig,
    config: LoaderConfig,
    reading: Reading,
    *,
    amounts: Mapping[str, float] | None = None,
    by: str = "epochs",
  ):
    """Plans every epoch.

    Args:
      sequences: sequences to train on; several sources by their names are mixed.
      shape: the shape of a batch.
      config: order and reading ahead.
      reading: how rows become arrays.
      amounts: how much of each source an epoch takes (`Mixture`); None: all of
        each, once.
      by: the unit of the amounts.

    Raises:
      SophiaError: nothing to train on, or a sequence fits no batch.
    """
    packing.check_processes(shape, reading.slices)
    self.packing, self.config, self.reading = shape, config, reading
    self._tiles = reading.tiles or TileCache(reading.image, config.cache_bytes)
    named = sequences if isinstance(sequences, Mapping) else {"": sequences}
    self._sequences = Joined(list(named.values()))
    self._counts = {name: len(own) for name, own in named.items()}
    self._sizes = [s for own in named.values() for s in sizes_of(own)]
    # Bundles are planned as one sequence each, a unit.
    self._units, self._starts = packing.bundled(self._sizes)
    self._kept, dropped = self._fitting()
    self.dropped = tuple(sorted(self._units[i].id for i in dropped))
    """Ids of the sequences and bundles that fit no batch (drop_oversize)."""
    amounts = amounts or dict.fromkeys(named, 1.0)
    self._amounts = by, [(name, amounts.get(name)) for name in named]
    self._mixture = self._mix(amounts, by)
    self.identity = self._digest()
    """Digest of everything that decides the batches, except the epochs."""
    self._plan_epochs()

  # --------------------------------------------------------------------- planning
  def _mix(self, amounts: Mapping[str, float], by: str) -> Mixture:
    """Returns the order of the units that are kept."""
    # Dropped ones take no part in the proportions of a mixture.
    lengths = {
      name: [self._units[i].length for i in own]
      for name, own in self._by_source(self._kept).items()
    }
    seed = (self.config.seed, self.config.round)
    return Mixture(lengths, amounts, by, seed, self.config.shuffle)

  def _plan_epochs(self) -> None:
    """Plans every epoch once, which says how many batches there are."""
    # Two, since read-ahead crosses from one epoch into the next.
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)
    plans = list(self._plans())
    self.steps_per_epoch = tuple(len(plan.batches) for plan in plans)
    """Batches by epoch; packing may differ from epoch to epoch."""
    self._ends = list(itertools.accumulate(self.steps_per_epoch))
    self.steps = min(self._ends[-1], self.config.batches or self._ends[-1])
    """Batches of the whole run; they may end within an epoch."""
    if not self.steps:
      raise SophiaError("nothing to train on: the mixture takes of no source")
    self.fill_rate = float(np.mean([plan.fill_rate for plan in plans]))
    """Tokens over places."""
    self.tile_fill_rate = float(np.mean([p.tile_fill_rate for p in plans]))
    """Tiles over places."""

  def _plans(self) -> Iterator[Plan]:
    """Yields the plan of each epoch that the run takes."""
    wanted, made = self.config.batches, 0
    for epoch in itertools.count():
      if (made >= wanted) if wanted else (epoch == self.config.epochs):
        return
      plan = self._plan(epoch)
      made += len(plan.batches)
      yield plan
      if not made and wanted:
        return  # an epoch takes nothing, and so would all others

  def _fitting(self) -> tuple[Indices, list[int]]:
    """Returns the units that fit a batch, and those that do not."""
    kept: list[int] = []
    dropped: list[int] = []
    for i, size in enumerate(self._units):
      problem = packing.oversize(size, self.packing)
      if problem and not self.packing.drop_oversize:
        raise SophiaError(problem)
      (dropped if problem else kept).append(i)
    if not kept:
      count, why = len(self._sizes), "check data and filters"
      if dropped:
        first = packing.oversize(self._units[dropped[0]], self.packing)
        why = f"none fits a batch; {first}"
      raise SophiaError(f"nothing to train on: {count} sequences; {why}")
    return np.array(kept, np.int64), dropped

  def _order(self, epoch: int) -> Indices:
    """Returns the units of an epoch, in order."""
    return self._kept[self._mixture.order(epoch)]

  def _by_source(self, units: Indices) -> dict[str, Indices]:
    """Splits units by their source."""
    ends = np.cumsum(list(self._counts.values()))
    source = np.searchsorted(ends, self._starts[units], side="right")
    return {name: units[source == s] for s, name in enumerate(self._counts)}

  def _make_plan(self, epoch: int) -> Plan:
    order = self._order(epoch).tolist()
    updates = min(self.config.updates, len(order))
    return packing.plan(self._units, self.packing, order, updates)

  def _digest(self) -> str:
    config, digest = self.config, hashlib.blake2b(digest_size=8)
    order = config.seed, config.round, config.shuffle, config.updates
    facts = self.packing.whole(), order, self._counts, self._amounts
    digest.update(repr(facts).encode())
    for size in self._sizes:
      tiles = [count for _, count in size.images]
      digest.update(
        f"{size.id!r} {size.length} {tiles} {size.bundle!r}\n".encode()
      )
    return digest.hexdigest()

  def _drawn(self) -> Indices:
    """Returns the units that all batches draw, in order of the epochs."""
    *whole, last = range(len(self.steps_per_epoch))
    orders = [self._order(epoch) for epoch in whole]
    if self.steps == self._ends[-1]:
      orders.append(self._order(last))
    else:
      used = self.steps - (self._ends[-1] - self.steps_per_epoch[-1])
      rows = itertools.chain(*self._plan(last).batches[:used])
      orders.append(np.array([i for row in rows for i in row], np.int64))
    return np.concatenate(orders)

  # ---------------------------------------------------------------------- batches
  def __len__(self) -> int:
    return self.steps

  def rows(self, step: int) -> list[Row]:
    """Returns the rows of batch `step`, indices of sequences; thread-safe."""
    epoch = bisect.bisect_right(self._ends, step)
    first = self._ends[epoch] - self.steps_per_epoch[epoch]
    starts = self._starts
    return [
      [i for unit in row for i in range(starts[unit], starts[unit + 1])]
      for row in self._plan(epoch).batches[step - first]
    ]

  def __getitem__(self, step: int) -> Batch:
    """Returns the batch of update `step`, counted from 0 over all epochs."""
    if not 0 <= step < self.steps:
      raise IndexError(step)
    reading, shape = self.reading, self.packing
    return rows.stack(
      [
        rows.pack(
          [[self._sequences[i] for i in row] for row in own],
          shape,
          tokens_per_tile=reading.tokens_per_tile,
          tile_size=reading.image.tile_size,
          channels=reading.image.channels,
          streams=reading.streams,
          load_tiles=self._tiles,
          slice_index=reading.slice_index,
          slices=reading.slices,
        )
        for own in packing.rows_of_process(
          self.rows(step), shape, reading.slice_index, reading.slices
        )
      ]
    )

  def __iter__(self) -> Iterator[Batch]:
    return self.after({})

  def after(self, cursor: Mapping[str, Any]) -> Iterator[Batch]:
    """Returns the batches after a cursor, read ahead; all of them after {}.

    Raises:
      SophiaError: the data, their mixture, the packing or the seed differ from
        those that the cursor was taken in.
    """
    if cursor.get("data", self.identity) != self.identity:
      raise SophiaError(
        f"the checkpoint stands at step {cursor['step']} of other data (digest "
        f"{cursor['data']}, now {self.identity}); restore data, mixture, seed "
        "and packing, or start in a new directory"
      )
    options = grain.ReadOptions(
      num_threads=self.config.threads,
      # grain wants at least as many places as threads.
      prefetch_buffer_size=max(self.config.prefetch, self.config.threads),
    )
    first = cursor.get("step", 0)
    dataset = grain.MapDataset.range(first, self.steps).map(self.__getitem__)
    return iter(dataset.to_iter_dataset(options))

  def cursor(self, step: int) -> dict[str, Any]:
    """Returns a small JSON value: the next batch, and which data it counts in."""
    return {"step": step, "data": self.identity}

  def summary(self) -> dict[str, Any]:
    """Returns a report of the data, a JSON value.

    `sources` counts the sequences there are, and those and the tokens that all
    epochs draw; `dropped` those that fit no batch.
    """
    drawn = self._drawn()
    first = drawn[:_SAMPLE]
    if self.config.updates:
      first = np.sort(first)  # as they are packed
    sample = [self._units[i] for i in first]
    lengths = self._starts[1:] - self._starts[:-1]
    return {
      "steps": self.steps,
      "epochs": len(self.steps_per_epoch),
      "sources": {
        name: {
          "sequences": self._counts[name],
          "drawn": int(lengths[own].sum()),
          "drawn_tokens": sum(self._units[i].length for i in own),
        }
        for name, own in self._by_source(drawn).items()
      },
      "dropped": len(self.dropped),
      "dropped_ids": list(self.dropped[:20]),
      "fill_rate": round(self.fill_rate, 4),
      "tile_fill_rate": round(self.tile_fill_rate, 4),
      "tile_budget": self.packing.tile_budget,
      "suggested_tile_budget": packing.suggest_tile_budget(
        sample, self.packing
      ),
    }


def sizes_of(sequences: Sequences) -> Sequence[Size]:
  """Returns the size of every sequence.

  Those that know their sizes (an attribute `sizes`) are not rendered for it.
  """
  known = getattr(sequences, "sizes", None)
  if known is None:
    return [packing.size_of(sequences[i]) for i in range(len(sequences))]
  if len(known) != len(sequences):
    raise ValueError(f"{len(known)} sizes of {len(sequences)} sequences")
  return known
