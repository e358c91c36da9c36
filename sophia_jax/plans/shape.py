"""The shape of an update's batch, as plans vary it."""

from __future__ import annotations

import dataclasses
from typing import Self

from sophia_jax.train.session import TrainConfig
from sophia_jax.types import SophiaError


@dataclasses.dataclass(frozen=True)
class Shape:
  """Shape of the batch of one update, over all devices."""

  rows: int
  """Rows of a microbatch."""
  length: int
  """Length of a row, tokens."""
  tiles: int
  """Tiles of a microbatch; 0: text only."""
  microbatches: int
  """Microbatches of an update."""
  block: int = 1024
  """Tokens whose logits exist at the same time."""

  @classmethod
  def of(cls, train: TrainConfig) -> Self:
    """Returns the shape that a training config asks for."""
    return cls(
      rows=train.rows,
      length=train.length,
      tiles=train.tiles,
      microbatches=train.microbatches,
      block=train.block,
    )

  @property
  def tokens(self) -> int:
    """Tokens of an update, padding included."""
    return self.microbatches * self.rows * self.length

  def with_rows(self, rows: int) -> Self:
    """Returns the same update in microbatches of `rows` rows.

    Raises:
      SophiaError: the update does not divide into such microbatches.
    """
    whole = self.rows * self.microbatches
    if rows < 1 or whole % rows or self.tiles * rows % self.rows:
      raise SophiaError(
        f"--rows={rows}: an update of {whole} rows and {self.tiles} tiles for "
        f"every {self.rows} does not divide into such microbatches"
      )
    return dataclasses.replace(
      self,
      rows=rows,
      microbatches=whole // rows,
      tiles=self.tiles * rows // self.rows,
    )
