"""Batches of a source that is too large to plan at once.

  source = lambda epoch: ((place, size_at(place)) for place in places(epoch))
  loader = StreamLoader(source, read_sequence, shape, config, ...)

It does what `Loader` does with memory for the open rows alone: of a million
sequences it knows their number. The price is one more pass over the sizes, to
count the steps, and one to the place where a run goes on.
"""

from __future__ import annotations

import collections
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, Unpack

from sophia_jax.data.loader import Batches, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig, Packer, Size, stream
from sophia_jax.types import SophiaError, TokenSequence

T = TypeVar("T")


class StreamLoader(Batches):
  """Batches in the order of the source; nothing is shuffled here."""

  def __init__(
    self,
    source: Callable[[int], Iterable[tuple[T, Size]]],
    load: Callable[[T], TokenSequence],
    packing_config: PackConfig,
    config: LoaderConfig,
    **reading: Unpack[Reading],
  ):
    """Goes through the sizes of all epochs once.

    Args:
      source: epoch -> what stands for each sequence, and its size, in the order
        of training; the same whenever it is asked again.
      load: what stands for a sequence -> the sequence; thread-safe.
      packing_config: the shape of a batch.
      config: epochs and reading; `seed` and `shuffle` are the source's affair.
      reading: as in `loader.Reading`.

    Raises:
      SophiaError: nothing to train on, or a sequence fits no batch.
    """
    super().__init__(load, packing_config, config, **reading)
    self._source = source
    self._lock = threading.Lock()
    # The threads of an iterator ask out of order, within what is read ahead.
    self._held = max(config.prefetch, config.threads) + config.threads + 1
    facts = repr(packing_config.whole())
    digest = hashlib.blake2b(facts.encode(), digest_size=8)
    self.dropped_count = 0
    """Sequences that fit no batch (drop_oversize), over all epochs."""
    self.steps = sum(1 for _ in self._all_rows(digest))
    if not self.steps:
      raise SophiaError(
        f"nothing to train on: {self.dropped_count} sequences, all of them too "
        "long; check data and length"
      )
    self.identity = digest.hexdigest()
    self._restart()

  def _all_rows(self, digest: Any = None) -> Iterator[list[list[Any]]]:
    """The rows of every step; `digest` takes in the sizes of the first epoch."""
    for epoch in range(self.config.epochs):
      packer: Packer[Any] = Packer(self.packing)
      sized = iter(self._source(epoch))
      if digest is not None and epoch == 0:
        sized = _digested(sized, digest)
      yield from stream(sized, packer)
      if digest is not None:
        self.dropped_count += len(packer.dropped)

  def _restart(self) -> None:
    self._going = self._all_rows()
    self._first = 0
    self._window: collections.deque[list[list[Any]]] = collections.deque()

  def _rows(self, step: int) -> list[list[Any]]:
    with self._lock:
      if step < self._first:
        self._restart()
      while step >= self._first + len(self._window):
        rows = next(self._going, None)
        if rows is None:
          raise SophiaError(
            f"the source ended before step {step} of {self.steps}; it must give "
            "the same sequences whenever it is asked"
          )
        self._window.append(rows)
        if len(self._window) > self._held:
          self._window.popleft()
          self._first += 1
      return self._window[step - self._first]


def _digested(
  sized: Iterable[tuple[T, Size]], digest: Any
) -> Iterator[tuple[T, Size]]:
  for item, size in sized:
    tiles = [count for _, count in size.images]
    digest.update(f"{size.id!r} {size.length} {tiles}\n".encode())
    yield item, size
