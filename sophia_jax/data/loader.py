"""The loader: epochs of packed batches that resume exactly.

Batch number n is a pure function of (sequences, config, seed, n), so the state
of an iterator is a number, which counts for any number of processes. grain
reads ahead with threads: they suffice, since
Pillow releases the interpreter lock, and need no absl flags as grain's worker
processes do.
"""

from __future__ import annotations

import abc
import bisect
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack

import grain
import numpy as np

from sophia_jax.data import packing
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.data.mixture import Indices, Joined, Mixture, Sequences
from sophia_jax.data.packing import PackConfig, Plan, Size
from sophia_jax.types import Batch, SophiaError, TokenSequence

_SAMPLE = 20_000  # sequences to suggest a tile budget from


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
  """What is read, in which order, and how far ahead."""

  epochs: int = 1
  seed: int = 0
  shuffle: bool = True
  """Anew for every epoch; otherwise in the order given."""
  threads: int = 2
  """Of reading; 0 reads when asked."""
  prefetch: int = 2
  """Batches kept ready."""
  cache_bytes: int = 1 << 30
  """Memory for decoded tiles."""

  def __post_init__(self) -> None:
    if self.epochs < 1:
      raise ValueError(f"epochs must be positive, not {self.epochs}")
    for name in ("seed", "threads", "prefetch", "cache_bytes"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")


class _Source:
  """Named streams, without what fits no batch, in the order of every epoch."""

  def __init__(
    self,
    streams: Mapping[str, Sequences],
    sizes: Sequence[Size] | None,
    amounts: Mapping[str, float],
    by: str,
    shape: PackConfig,
    config: LoaderConfig,
  ):
    self.sequences = Joined(list(streams.values()))
    count = len(self.sequences)
    if sizes is None:
      sizes = [packing.size_of(self.sequences[i]) for i in range(count)]
    if len(sizes) != count:
      raise ValueError(f"{len(sizes)} sizes of {count} sequences")
    self.sizes = sizes
    self.counts = {name: len(own) for name, own in streams.items()}
    kept: list[int] = []
    self.dropped: list[int] = []
    for i, size in enumerate(sizes):
      problem = packing.oversize(size, shape)
      if problem and not shape.drop_oversize:
        raise SophiaError(problem)
      (self.dropped if problem else kept).append(i)
    if not kept:
      raise SophiaError(
        f"nothing to train on: {count} sequences, {len(self.dropped)} of them "
        "too long; check data and length"
      )
    # What is dropped takes no part in the proportions of a mixture.
    self._kept = np.array(kept, np.int64)
    lengths = {
      name: [sizes[i].length for i in own]
      for name, own in self.by_stream(self._kept).items()
    }
    self._mixture = Mixture(lengths, amounts, by, config.seed, config.shuffle)
    mixed = by, [(name, amounts.get(name)) for name in streams]
    self._facts = shape.whole(), config.seed, config.shuffle, self.counts, mixed

  def order(self, epoch: int) -> Indices:
    """Indices into `sequences`."""
    return self._kept[self._mixture.order(epoch)]

  def by_stream(self, indices: Indices) -> dict[str, Indices]:
    """Indices of sequences, apart by their streams."""
    ends = np.cumsum(list(self.counts.values()))
    of = np.searchsorted(ends, indices, side="right")
    return {name: indices[of == s] for s, name in enumerate(self.counts)}

  def identity(self) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr(self._facts).encode())
    for size in self.sizes:
      tiles = [count for _, count in size.images]
      digest.update(f"{size.id!r} {size.length} {tiles}\n".encode())
    return digest.hexdigest()


class Reading(TypedDict, total=False):
  """How the sequences of a row become arrays, and whose share of them."""

  streams: Required[Sequence[str]]
  """The streams the trainer reads."""
  tokens_per_tile: Required[int]
  """Image tokens P of a tile."""
  image: ImageConfig | None
  """How images are cut; as in the renderer."""
  process_index: int
  """Of `process_count` processes, the one this is."""
  process_count: int
  """Must divide the shards of the packing."""


class Batches(abc.ABC):
  """All batches of a run: `batches[n]`, or `iter(batches)` with a state.

  Batches have a leading microbatch axis: [A, B, T], tiles [A, I, S, S, 3]. With
  several processes each gets its share of B and I; together the shares are the
  batch that one process alone would get.
  """

  steps: int
  """Of the whole run."""
  identity: str
  """Of everything that decides the batches but the number of epochs."""

  def __init__(
    self,
    load: Callable[[Any], TokenSequence],
    packing_config: PackConfig,
    config: LoaderConfig,
    *,
    streams: Sequence[str],
    tokens_per_tile: int,
    image: ImageConfig | None = None,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Args: as for `Loader` and in `Reading`; `load` gives what a row names."""
    packing.check_processes(packing_config, process_count)
    self.config = config
    self.packing = packing_config
    self._load = load
    self._image = image or ImageConfig()
    self._tokens_per_tile = tokens_per_tile
    self._streams = tuple(streams)
    self._process = (process_index, process_count)
    self._tiles = TileCache(self._image, config.cache_bytes)

  @abc.abstractmethod
  def _rows(self, step: int) -> list[list[Any]]:
    """The rows of update `step`, which is one of the run; thread-safe."""

  def __len__(self) -> int:
    return self.steps

  def __getitem__(self, step: int) -> Batch:
    """The batch of update `step`, counted from 0 over all epochs."""
    if not 0 <= step < self.steps:
      raise IndexError(step)
    batch = self._rows(step)
    index, count = self._process
    return packing.stack(
      [
        packing.pack(
          [[self._load(name) for name in row] for row in rows],
          self.packing,
          tokens_per_tile=self._tokens_per_tile,
          tile_size=self._image.tile_size,
          streams=self._streams,
          load_tiles=self._tiles,
          process_index=index,
          process_count=count,
        )
        for rows in packing.rows_of_process(batch, self.packing, index, count)
      ]
    )

  def __iter__(self) -> LoaderIterator:
    return LoaderIterator(self)


class Loader(Batches):
  """The batches of sequences that are planned in advance, epoch by epoch."""

  def __init__(
    self,
    sequences: Sequences | Mapping[str, Sequences],
    packing_config: PackConfig,
    config: LoaderConfig,
    *,
    sizes: Sequence[Size] | None = None,
    amounts: Mapping[str, float] | None = None,
    by: str = "epochs",
    **reading: Unpack[Reading],
  ):
    """Plans every epoch.

    Args:
      sequences: what to train on; several lists by their names are mixed.
      packing_config: the shape of a batch.
      config: order and reading ahead.
      sizes: of the sequences, list after list, where rendering all of them to
        measure is dear.
      amounts: how much of each list an epoch takes (`Mixture`); None: all of
        every one, once.
      by: the unit of the amounts.
      reading: as in `Reading`.

    Raises:
      SophiaError: nothing to train on, or a sequence fits no batch.
    """
    named = sequences if isinstance(sequences, Mapping) else {"": sequences}
    amounts = amounts or dict.fromkeys(named, 1.0)
    self._source = _Source(named, sizes, amounts, by, packing_config, config)
    load = self._source.sequences.__getitem__
    super().__init__(load, packing_config, config, **reading)
    # Read-ahead crosses from one epoch into the next, hence two.
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)
    plans = [self._plan(epoch) for epoch in range(config.epochs)]
    self.steps_per_epoch = tuple(len(plan.batches) for plan in plans)
    """Packing differs from epoch to epoch, and so may the number of steps."""
    self.steps = sum(self.steps_per_epoch)
    if not self.steps:
      raise SophiaError("nothing to train on: the mixture takes of no stream")
    self._ends = list(itertools.accumulate(self.steps_per_epoch))
    self.fill_rate = float(np.mean([plan.fill_rate for plan in plans]))
    """Tokens over places."""
    self.tile_fill_rate = float(np.mean([p.tile_fill_rate for p in plans]))
    """Tiles over places."""
    sizes, dropped = self._source.sizes, self._source.dropped
    self.dropped = tuple(sorted(sizes[i].id for i in dropped))
    """Ids of the sequences that fit no batch (drop_oversize)."""
    self.identity = self._source.identity()

  def _make_plan(self, epoch: int) -> Plan:
    order = self._source.order(epoch).tolist()
    return packing.plan(self._source.sizes, self.packing, order)

  def summary(self) -> dict[str, Any]:
    """What is trained on, for a report: a JSON value.

    `streams` counts the sequences there are, and those and the tokens that all
    epochs draw; `dropped` what fits no batch.
    """
    source, epochs = self._source, range(self.config.epochs)
    drawn = np.concatenate([source.order(epoch) for epoch in epochs])
    sample = [source.sizes[i] for i in drawn[:_SAMPLE]]
    return {
      "steps": self.steps,
      "epochs": self.config.epochs,
      "streams": {
        name: {
          "sequences": source.counts[name],
          "drawn": len(own),
          "drawn_tokens": sum(source.sizes[i].length for i in own),
        }
        for name, own in source.by_stream(drawn).items()
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

  def _rows(self, step: int) -> list[list[int]]:
    epoch = bisect.bisect_right(self._ends, step)
    first = self._ends[epoch] - self.steps_per_epoch[epoch]
    return self._plan(epoch).batches[step - first]


class LoaderIterator(Iterator[Batch]):
  """Batches in order, read ahead; its state is a number and a digest."""

  def __init__(self, loader: Batches):
    config = loader.config
    options = grain.ReadOptions(
      num_threads=config.threads,
      # grain wants at least as many places as threads.
      prefetch_buffer_size=max(config.prefetch, config.threads),
    )
    dataset = grain.MapDataset.range(loader.steps).map(loader.__getitem__)
    self._identity = loader.identity
    self._batches = iter(dataset.to_iter_dataset(options))

  def __next__(self) -> Batch:
    return next(self._batches)

  def get_state(self) -> dict[str, Any]:
    """A small JSON value: the next step, and which data it counts in."""
    step = int(self._batches.get_state()["next_index"])
    return {"step": step, "data": self._identity}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on where `state` was taken.

    Raises:
      SophiaError: the data, their mixture, the packing or the seed is another
        than then.
    """
    if state["data"] != self._identity:
      raise SophiaError(
        f"the checkpoint stands at step {state['step']} of other data (digest "
        f"{state['data']}, now {self._identity}); restore data, mixture, seed "
        "and packing, or start in a new directory"
      )
    self._batches.set_state({"next_index": state["step"]})
