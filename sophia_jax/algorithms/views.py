"""Views: the same tokens with other pixels, made on the device."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from sophia_jax.algorithms.contract import View
from sophia_jax.types import Batch


def black_patches(share: float) -> View:
  """Returns the view in which patches of every tile are black at random.

  The draw is decided by the tile's pixels and by the largest value of "draw",
  such as the number of the round: all rollouts of a prompt see the same, however
  they are packed, and another round sees another.

  Args:
    share: probability that a patch is black.
  """

  def view(batch: Batch, patch: int) -> Batch:
    tiles, side = batch.tiles, batch.tiles.shape[1]
    grid = -(-side // patch)
    round_key = jax.random.fold_in(jax.random.key(0), _draw(batch))

    def black(checksum: UInt32[Array, ""]) -> Float[Array, "S S"]:
      key = jax.random.fold_in(round_key, checksum)
      patches = jax.random.bernoulli(key, share, (grid, grid))
      wide = jnp.repeat(jnp.repeat(patches, patch, 0), patch, 1)
      return wide[:side, :side]

    # Blank tiles of one picture look alike: their places tell them apart.
    row, column = batch.tile_places[:, 1], batch.tile_places[:, 2]
    place = (row * 65536 + column).astype(jnp.uint32)
    hidden = jax.vmap(black)(_checksums(tiles) + place)
    shown = jnp.where(hidden[..., None], jnp.zeros_like(tiles), tiles)
    return dataclasses.replace(batch, tiles=shown)

  return view


def _draw(batch: Batch) -> UInt32[Array, ""]:
  return jnp.max(batch.streams["draw"]).astype(jnp.uint32)


def _checksums(tiles: Array) -> UInt32[Array, " I"]:
  """Returns a number of each tile, decided by all of its pixels."""
  flat = tiles.reshape(len(tiles), math.prod(tiles.shape[1:]))
  flat = flat.astype(jnp.uint32)
  places = jnp.arange(flat.shape[1], dtype=jnp.uint32)
  # Odd factors, so that no pixel is lost in the sum modulo 2^32.
  factors = places * jnp.uint32(2654435761) * jnp.uint32(2) + jnp.uint32(1)
  return jnp.sum(flat * factors, axis=1, dtype=jnp.uint32)
