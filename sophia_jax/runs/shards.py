"""Shards of the problems: the part of a sampling that one process has."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

from sophia_jax.types import Problem, SophiaError


@dataclasses.dataclass(frozen=True)
class Shard:
  """One of `count` shards of the problems, decided by their ids alone.

  Example: Shard.of("0/4")
  """

  index: int = 0
  count: int = 1

  @classmethod
  def of(cls, text: str) -> Shard:
    """Reads "i/n".

    Raises:
      SophiaError: it has another form.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
      raise SophiaError(f"--shard={text}: write i/n, for example 0/4")
    if int(index) >= int(count):
      raise SophiaError(f"--shard={text}: shards are 0/n to n-1/n")
    return cls(int(index), int(count))

  @property
  def name(self) -> str:
    """Name of its segment of the store."""
    return "0" if self.count == 1 else f"{self.index}-of-{self.count}"

  @property
  def terms(self) -> str:
    """Terms that processes must share to sample at the same time."""
    return f"{self.count} shard{'s' if self.count > 1 else ''}"

  def __contains__(self, problem: Problem) -> bool:
    digest = hashlib.blake2b(problem.id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % self.count == self.index


WHOLE = Shard()
"""All of the problems."""


@dataclasses.dataclass(frozen=True)
class ShardProblems:
  """The problems of a shard."""

  problems: Sequence[Problem]
  shard: Shard

  def __iter__(self) -> Iterator[Problem]:
    return (p for p in self.problems if p in self.shard)
