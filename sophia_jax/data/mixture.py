"""The mixture: which sequences of which sources an epoch takes, in what order.

Each pass over a source is shuffled differently; an epoch takes the draws that
follow those of the epoch before. All of it is a pure function of (sources,
config, seed, epoch): the only state is the number of the epoch, and threads and
processes have no influence.

The draws of an epoch are spread evenly, so that any part of it holds the sources
in the proportion of the whole. Table A3 of arXiv 2507.16814 mixes three: visual
trajectories, text trajectories, general questions.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int

from sophia_jax.types import SophiaError, TokenSequence, quoted

UNITS = ("epochs", "weight", "tokens")


class Sequences(Protocol):
  """A list of sequences, or something that renders them on demand.

  The latter has an attribute `sizes`, a `packing.Size` for each, so that nothing
  is rendered in order to be measured.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> TokenSequence: ...


class Joined(Sequences):
  """Sources end to end, as one list of sequences."""

  def __init__(self, sources: Sequence[Sequences]):
    self._sources = sources
    self._ends = list(itertools.accumulate(map(len, sources)))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int, /) -> TokenSequence:
    source = bisect.bisect_right(self._ends, index)
    first = self._ends[source - 1] if source else 0
    return self._sources[source][index - first]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
  """Amount of each source in an epoch; a source without data has none.

  Example: MixtureConfig(by="weight", visual=6, text=3, general=1)
  """

  by: str = "epochs"
  """Unit of the amounts. "epochs": passes over the source. "weight": relative
  numbers of sequences, as many as go without taking one twice. "tokens": tokens,
  image tokens included."""
  visual: float = 1.0
  """Trajectories about images."""
  text: float = 1.0
  """Trajectories about text alone."""
  general: float = 1.0
  """General questions about images."""

  def __post_init__(self) -> None:
    if self.by not in UNITS:
      raise ValueError(
        f"by is {quoted(self.by)}; use one of {', '.join(UNITS)}"
      )
    for name, amount in self.amounts.items():
      if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"{name} is {amount}; use a finite number from 0")

  @property
  def amounts(self) -> dict[str, float]:
    """Amount of each source by its name."""
    return {n: getattr(self, n) for n in ("visual", "text", "general")}


Indices = Int[np.ndarray, "n"]


class Mixture:
  """The order of every epoch over several sources."""

  def __init__(
    self,
    lengths: Mapping[str, Sequence[int]],
    amounts: Mapping[str, float],
    by: str,
    seed: int | tuple[int, int],
    shuffle: bool = True,
  ):
    """Computes the amount of each source.

    Args:
      lengths: source -> tokens of each of its sequences.
      amounts: source -> how much of it an epoch takes; 0 leaves it out.
      by: the unit of the amounts, one of UNITS.
      seed: seed of the order within the sources, or that and a round.
      shuffle: whether each pass is shuffled; otherwise the order is kept.

    Raises:
      SophiaError: a source has no amount, or has one and is empty.
    """
    if by not in UNITS:
      raise ValueError(f"by is {quoted(by)}; use one of {', '.join(UNITS)}")
    for name, own in lengths.items():
      if name not in amounts:
        raise SophiaError(
          f"mixture: source {name!r} has no amount; there are amounts of "
          f"{', '.join(sorted(amounts))}"
        )
      if amounts[name] and not len(own):
        raise SophiaError(
          f"mixture: source {name!r} has no sequence left; set its amount to 0 "
          "or look at what was filtered and dropped"
        )
    self._lengths = [np.asarray(own, np.int64) for own in lengths.values()]
    self._amounts = [float(amounts[name]) for name in lengths]
    self._tokens = by == "tokens"
    self._seed, self._round = seed if isinstance(seed, tuple) else (seed, 0)
    self._shuffle = shuffle
    sizes = [len(own) for own in self._lengths]
    self._firsts = [0, *itertools.accumulate(sizes)]
    if by == "epochs":
      self._amounts = [a * n for a, n in zip(self._amounts, sizes)]
    elif by == "weight":
      pairs = [(n, w) for n, w in zip(sizes, self._amounts) if w]
      scale = min((n / w for n, w in pairs), default=0.0)
      self._amounts = [w * scale for w in self._amounts]

  def order(self, epoch: int) -> Indices:
    """Returns indices into the sources end to end; one may come several times."""
    draws = [self._draws(source, epoch) for source in range(len(self._amounts))]
    # Draw k of m stands at (k + 1/2)/m of the epoch.
    times = [(np.arange(len(d)) + 0.5) / max(len(d), 1) for d in draws]
    joined = [d + first for d, first in zip(draws, self._firsts)]
    if not joined:
      return np.zeros(0, np.int64)
    return np.concatenate(joined)[
      np.argsort(np.concatenate(times), kind="stable")
    ]

  def _draws(self, source: int, epoch: int) -> Indices:
    """Returns the epoch's sequences of one source, in order."""
    lengths, amount = self._lengths[source], self._amounts[source]
    if not amount:
      return np.zeros(0, np.int64)
    # A place is a number of sequences, or of the tokens before a sequence.
    size = lengths.sum() if self._tokens else len(lengths)
    start, stop = (_round(amount * e) for e in (epoch, epoch + 1))
    parts = []
    for number in range(int(start // size), int(-(-stop // size))):
      order = self._pass(source, number)
      steps = lengths[order] if self._tokens else np.ones_like(order)
      places = number * size + np.cumsum(steps) - steps
      parts.append(order[(places >= start) & (places < stop)])
    return np.concatenate([np.zeros(0, np.int64), *parts])

  def _pass(self, source: int, number: int) -> Indices:
    """Returns the order of one pass over a source.

    numpy takes [seed, number, 0, 0] for [seed, number], each of 32 bits: a source
    alone, in the first round, is shuffled as if there were neither mixture nor
    rounds.
    """
    n = len(self._lengths[source])
    if not self._shuffle:
      return np.arange(n)
    rng = np.random.default_rng([self._seed, number, source, self._round])
    return rng.permutation(n)


def _round(value: float) -> int:
  return math.floor(value + 0.5)
