"""Our vision encoders beside SGLang-JAX's decoder, on the same devices.

It runs once for each distinct image, outside the decoder's program, on a
mesh for it alone: tiles are spread over all devices, and so are its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from sophia_jax.data.native import NOWHERE, Tiles, placed
from sophia_jax.models import InternVL, InternVLConfig, Params

AXIS = "tiles"
MOST = 8
"""Tiles that one device encodes at once; bounds the attention's memory."""
LEAST = 64
"""Tiles that are encoded at once, at least, where images are one sequence."""
_SMALL = 1 << 16
"""Arrays of fewer elements are kept whole on every device."""


class Encoder:
  """uint8 tiles -> image embeddings, in a handful of compiled shapes."""

  def __init__(self, cfg: InternVLConfig, devices: np.ndarray):
    """Takes the model's shapes; `place` brings the weights.

    Args:
      devices: all of them, in any shape.
    """
    assert cfg.vision is not None
    self._mesh = Mesh(devices.reshape(-1), (AXIS,), axis_types=(AxisType.Auto,))
    side = cfg.vision.image_size
    self._tile = (side, side, 3)
    self._params: Params | None = None

    def encode(params: Params, tiles: Array) -> Any:
      return InternVL(cfg).apply({"params": params}, tiles, method="encode")

    self._encode = jax.jit(encode, out_shardings=self._sharding())
    n = self._mesh.size
    self.buckets = tuple(n << i for i in range(MOST.bit_length()))
    """Numbers of tiles that are encoded in one go, the largest last."""

  def place(self, params: Params) -> None:
    """Puts "vision" and "projector" of a model's parameters on the devices."""
    parts = {name: params[name] for name in ("vision", "projector")}
    self._params = jax.tree.map(
      lambda x: jax.device_put(x, self._spread(x.shape)), parts
    )

  def __call__(self, images: Sequence[Tiles]) -> Float[Array, "capacity D"]:
    """Returns embeddings in the order of the images' tiles, then padding."""
    tiles = np.concatenate(images)
    with jax.set_mesh(self._mesh):
      rows = [
        self._encode(self._params, self._padded(tiles[i : i + step]))
        for step in (self.buckets[-1],)
        for i in range(0, len(tiles), step)
      ]
      return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

  def precompile(self) -> None:
    for count in self.buckets:
      jax.block_until_ready(self([self._blank(count)]))

  def _blank(self, count: int) -> Tiles:
    """Returns an image of `count` tiles."""
    return np.zeros((count, *self._tile), np.uint8)

  def _padded(self, tiles: UInt8[np.ndarray, "n S S 3"]) -> Array:
    room = next(b for b in self.buckets if b >= len(tiles))
    padded = np.zeros((room, *self._tile), np.uint8)
    padded[: len(tiles)] = tiles
    return jax.device_put(padded, self._sharding(AXIS))

  def _spread(self, shape: tuple[int, ...]) -> NamedSharding:
    """Cuts the longest axis that the devices divide; layers stay together."""
    axes = [
      axis
      for axis in range(min(1, len(shape) - 1), len(shape))
      if shape[axis] % self._mesh.size == 0
    ]
    if not axes or np.prod(shape) < _SMALL:
      return self._sharding()
    longest = max(axes, key=lambda axis: shape[axis])
    return self._sharding(*[None] * longest, AXIS)

  def _sharding(self, *axes: str | None) -> NamedSharding:
    return NamedSharding(self._mesh, PartitionSpec(*axes))


class NativeEncoder(Encoder):
  """Encodes images whose tiles see each other: all images are one sequence.

  Every device computes the whole sequence, with its share of the weights.
  """

  def __init__(self, cfg: InternVLConfig, devices: np.ndarray):
    super().__init__(cfg, devices)

    def encode(params: Params, tiles: Array, places: Array) -> Any:
      model, variables = InternVL(cfg), {"params": params}
      return model.apply(variables, tiles, places, method="encode")

    self._encode = jax.jit(encode, out_shardings=self._sharding())
    self.buckets = tuple(LEAST << i for i in range(9))

  def __call__(self, images: Sequence[Tiles]) -> Float[Array, "capacity D"]:
    count = sum(np.prod(image.shape[:2]) for image in images)
    room = max(LEAST, 1 << int(count - 1).bit_length())
    tiles = np.zeros((room, *self._tile), np.uint8)
    places = np.full((room, 4), NOWHERE, np.int32)
    at = 0
    for image in images:
      here = slice(at, at + image.shape[0] * image.shape[1])
      tiles[here], places[here] = placed(image, at)
      at = here.stop
    with jax.set_mesh(self._mesh):
      arrays = jax.device_put((tiles, places), self._sharding())
      return self._encode(self._params, *arrays)

  def _blank(self, count: int) -> Tiles:
    return super()._blank(count)[None]
