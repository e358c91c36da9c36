"""Qwen2.5-VL's vision encoder and the merger into the decoder's width.

A tile is a square of patches that becomes one image token, and an image is as
many tiles as it is large. The tiles that share rows of a batch form one sequence:
`places` says which image each belongs to, and where in it. A block attends within
windows of an image or within the image; never across images. A video is an image
for each pair of frames here: only the decoder knows that they follow each other.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8

from sophia_jax.models.config import InternVLConfig, QwenVisionConfig
from sophia_jax.models.kernels import QUERIES, dot_product
from sophia_jax.models.layers import Dense, RMSNorm, constrain, rotate, stacked
from sophia_jax.models.vision import normalise, patches

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NORM_EPS = 1e-6
ROPE_THETA = 10000.0

Heads = Float[Array, "L N H"]
Numbers = tuple[Int[Array, "S L"], Int[Array, "S L"]]
"""Numbers of the window and of the image that each patch is in."""
SEQUENCES = ("act_batch", None, None)
"""Logical axes: sequences lie with the rows that show them."""


def window_order(places: Int[Array, "I 4"], side: int) -> Int[Array, " I"]:
  """Returns the order of tiles in which each window's stand side by side.

  Args:
    places: picture, row, column and milliseconds of each tile.
    side: side of a window, tiles.
  """
  image, row, column, _ = places.T
  keys = (column, row, column // side, row // side, image)
  return jnp.lexsort(keys)


def groups(keys: Int[Array, "I K"]) -> Int[Array, " I"]:
  """Numbers runs of equal rows."""
  new = jnp.any(keys[1:] != keys[:-1], axis=1)
  return jnp.cumsum(jnp.pad(new, (1, 0)))


def rotary_angles(
  places: Int[Array, "I 4"], cfg: QwenVisionConfig
) -> Float[Array, "I*G*G H/2"]:
  """Returns each patch's angles: half turn with its row, half with its column."""
  inside = np.indices((cfg.grid, cfg.grid)).reshape(2, -1).T  # row-major
  at = places[:, None, 1:3] * cfg.grid + inside
  half = cfg.head_dim // 2
  exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
  inverse = jnp.asarray(1 / np.float32(ROPE_THETA) ** exponents)
  angles = at.reshape(-1, 2, 1).astype(jnp.float32) * inverse
  return angles.reshape(len(angles), half)


def attend_windows(
  q: Heads, k: Heads, v: Heads, windows: Int[Array, "L"], most: int
) -> Heads:
  """Attends from every patch to those of its window.

  A window's patches stand side by side and are at most `most`, so that a block
  of `most` queries needs the keys of three blocks alone.
  """
  length = len(q)
  padding = -length % most
  q, k, v = (jnp.pad(x, ((0, padding), (0, 0), (0, 0))) for x in (q, k, v))
  windows = jnp.pad(windows, (0, padding), constant_values=-1)

  def blocks(x: Array) -> Array:
    return x.reshape(-1, most, *x.shape[1:])

  def around(x: Array, empty: int) -> Array:
    edge = ((1, 1),) + ((0, 0),) * x.ndim
    x = jnp.pad(blocks(x), edge, constant_values=empty)
    return jnp.concatenate([x[:-2], x[1:-1], x[2:]], axis=1)

  mask = blocks(windows)[:, :, None] == around(windows, -2)[:, None, :]
  out = dot_product(blocks(q), around(k, 0), around(v, 0), mask)
  return out.reshape(-1, *q.shape[1:])[:length]


def attend_images(
  q: Heads, k: Heads, v: Heads, images: Int[Array, "L"]
) -> Heads:
  """Attends from every patch to those of its image, some queries at a time."""
  length = len(q)
  padding = -length % QUERIES
  whole = jnp.pad(q, ((0, padding), (0, 0), (0, 0)))
  of = jnp.pad(images, (0, padding), mode="edge")

  @jax.checkpoint
  def some(block: tuple[Array, Array]) -> Array:
    queries, own = block
    mask = own[:, None] == images
    return dot_product(queries[None], k[None], v[None], mask[None])[0]

  shape = (-1, min(QUERIES, len(whole)))
  blocks = (whole.reshape(*shape, *q.shape[1:]), of.reshape(shape))
  return jax.lax.map(some, blocks).reshape(whole.shape)[:length]


class Attention(nn.Module):
  """Self-attention within windows or within images."""

  cfg: QwenVisionConfig
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "S L D"],
    angles: Float[Array, "S L H/2"],
    numbers: Numbers,
    full: Bool[Array, ""],
  ) -> Float[Array, "S L D"]:
    cfg, types = self.cfg, (self.dtype, self.param_dtype)
    axes = ("vision_embed", "vision_heads")
    shape = (*x.shape[:2], cfg.heads, cfg.head_dim)
    q, k, v = (
      Dense(cfg.width, axes, True, *types, name=name)(x).reshape(shape)
      for name in "qkv"
    )
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    q, k = (
      rotate(y.astype(jnp.float32), cos, sin).astype(y.dtype) for y in (q, k)
    )
    windows, images = numbers
    most = (cfg.window * cfg.grid) ** 2
    within = functools.partial(attend_windows, most=most)
    y = jax.lax.cond(
      full,
      lambda q, k, v: jax.vmap(attend_images)(q, k, v, images),
      lambda q, k, v: jax.vmap(within)(q, k, v, windows),
      *(q, k, v),
    )
    y = y.reshape(x.shape)
    return Dense(cfg.width, axes[::-1], True, *types, name="out")(y)


class MLP(nn.Module):
  """down(silu(gate x) * up x), with biases."""

  cfg: QwenVisionConfig
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "S L D"]) -> Float[Array, "S L D"]:
    cfg, types = self.cfg, (self.dtype, self.param_dtype)
    axes = ("vision_embed", "vision_mlp")
    gate = Dense(cfg.mlp, axes, True, *types, name="gate")(x)
    up = Dense(cfg.mlp, axes, True, *types, name="up")(x)
    down = Dense(cfg.width, axes[::-1], True, *types, name="down")
    return down(jax.nn.silu(gate) * up)


class Block(nn.Module):
  """x + attention(norm x), then x + mlp(norm x)."""

  cfg: QwenVisionConfig
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "S L D"],
    full: Bool[Array, ""],
    angles: Float[Array, "S L H/2"],
    numbers: Numbers,
  ) -> tuple[Float[Array, "S L D"], None]:
    cfg, types = self.cfg, (self.dtype, self.param_dtype)
    x = constrain(x, SEQUENCES)
    y = RMSNorm(NORM_EPS, *types, name="norm1")(x)
    x = x + Attention(cfg, *types, name="attn")(y, angles, numbers, full)
    y = RMSNorm(NORM_EPS, *types, name="norm2")(x)
    return x + MLP(cfg, *types, name="mlp")(y), None


class QwenVisionEncoder(nn.Module):
  """Patches of every tile, in the order of the tiles."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(
    self,
    tiles: UInt8[Array, "I S S C"],
    places: Int[Array, "I 4"],
    sequences: int,
  ) -> Float[Array, "I G*G D"]:
    cfg, vision = self.cfg, self.cfg.vision
    assert isinstance(vision, QwenVisionConfig)
    types = (cfg.dtype, cfg.param_dtype)
    tiles, places = (_sequences(x, sequences) for x in (tiles, places))
    order = jax.vmap(lambda at: window_order(at, vision.window))(places)
    tiles, places = (
      jax.vmap(lambda x, of: x[of])(x, order) for x in (tiles, places)
    )
    x = _frame_patches(tiles.reshape(-1, *tiles.shape[2:]), vision, cfg.dtype)
    x = x.reshape(len(tiles), -1, x.shape[-1])
    axes = (None, "vision_embed")
    x = Dense(vision.width, axes, False, *types, name="patch")(x)
    layers = stacked(
      Block, vision.depth, cfg.scan_unroll, 0, nn.broadcast, nn.broadcast
    )(vision, *types, name="layers")
    full = jnp.asarray(np.isin(np.arange(vision.depth), vision.full))
    angles = jax.vmap(lambda at: rotary_angles(at, vision))(places)
    x, _ = layers(x, full, angles, _numbers(places, vision))
    x = x.reshape(*order.shape, vision.grid**2, vision.width)
    x = jax.vmap(lambda x, to: jnp.zeros_like(x).at[to].set(x))(x, order)
    return x.reshape(-1, *x.shape[2:])


def _frame_patches(
  tiles: UInt8[Array, "I S S C"], cfg: QwenVisionConfig, dtype: str
) -> Float[Array, "I G*G F*size*size*3"]:
  """Returns patches of all frames of each tile; a single frame fills them all."""
  shown = jnp.split(tiles, tiles.shape[-1] // 3, axis=-1)
  frames = [
    patches(normalise(x, CLIP_MEAN, CLIP_STD).astype(dtype), cfg.patch_size)
    for x in shown
  ]
  return jnp.concatenate(frames * (cfg.frames // len(frames)), axis=-1)


def _sequences(x: Array, count: int) -> Array:
  """Splits tiles, or their places, into `count` sequences."""
  x = x.reshape(count, -1, *x.shape[1:])
  return constrain(x, ("act_batch", *[None] * (x.ndim - 1)))


def _numbers(places: Int[Array, "S I 4"], cfg: QwenVisionConfig) -> Numbers:
  windows = places[..., :3] // jnp.asarray([1, cfg.window, cfg.window])
  of_windows, of_images = (
    jnp.repeat(jax.vmap(groups)(keys), cfg.grid**2, axis=1)
    for keys in (windows, places[..., :1])
  )
  return of_windows, of_images


class QwenMerger(nn.Module):
  """RMSNorm of every patch, then two linear maps of a tile's patches."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(self, x: Float[Array, "I G*G D"]) -> Float[Array, "I D"]:
    cfg, types = self.cfg, (self.cfg.dtype, self.cfg.param_dtype)
    x = RMSNorm(NORM_EPS, *types, name="norm")(x)
    x = x.reshape(len(x), -1)
    width = x.shape[-1]
    axes = ("vision_embed", "vision_mlp")
    x = Dense(width, axes, True, *types, name="fc1")(x)
    x = jax.nn.gelu(x, approximate=False)
    return Dense(
      cfg.decoder.width, ("vision_mlp", "embed"), True, *types, name="fc2"
    )(x)
