"""InternViT, pixel shuffle and the projector into the decoder's width."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from sophia_jax.models.config import InternVLConfig, VisionConfig
from sophia_jax.models.kernels import attend_all
from sophia_jax.models.layers import (
  Dense,
  LayerNorm,
  RMSNorm,
  constrain,
  named,
  stacked,
)

TILES = ("act_tiles", None, None)
"""Logical axes inside encoder and projector: tiles are sharded, each whole."""
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
PROJECTOR_EPS = 1e-5
QK_NORM_EPS = 1e-6


def normalise(
  tiles: UInt8[Array, "I S S 3"],
  mean: Sequence[float] = IMAGE_MEAN,
  std: Sequence[float] = IMAGE_STD,
) -> Float[Array, "I S S 3"]:
  """Returns (x / 255 - mean) / std in fp32, with ImageNet statistics."""
  m, s = (np.array(x, np.float32) for x in (mean, std))
  return (tiles.astype(jnp.float32) / 255 - m) / s


def patches(
  pixels: Float[Array, "I S S 3"], size: int
) -> Float[Array, "I G*G size*size*3"]:
  """Cuts tiles into row-major patches, each flattened row, column, channel."""
  i, s, _, c = pixels.shape
  g = s // size
  x = pixels.reshape(i, g, size, g, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(i, g * g, size * size * c)


def pixel_shuffle(
  x: Float[Array, "I G*G D"], factor: int, version: str
) -> Float[Array, "I P factor*factor*D"]:
  """Folds each factor x factor square of patches into one image token.

  v2: out[I, J] = concat over (di, dj) of x[f I + di, f J + dj]. v1 transposes
  the grid of tokens.
  """
  i, area, d = x.shape
  g = int(area**0.5) // factor
  x = x.reshape(i, g, factor, g, factor, d).transpose(0, 1, 3, 2, 4, 5)
  if version == "v1":
    x = x.swapaxes(1, 2)
  return x.reshape(i, g * g, factor * factor * d)


class VisionAttention(nn.Module):
  """Bidirectional self-attention of one tile."""

  cfg: VisionConfig
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "I P D"]) -> Float[Array, "I P D"]:
    cfg, types = self.cfg, (self.dtype, self.param_dtype)
    axes = ("vision_embed", "vision_heads")
    q, k, v = (
      Dense(cfg.width, axes, cfg.qkv_bias, *types, name=name)(x)
      for name in "qkv"
    )
    if cfg.qk_norm:
      q = RMSNorm(QK_NORM_EPS, *types, name="q_norm")(q)
      k = RMSNorm(QK_NORM_EPS, *types, name="k_norm")(k)
    heads = (*x.shape[:2], cfg.heads, cfg.head_dim)
    x = attend_all(*(y.reshape(heads) for y in (q, k, v)))
    x = x.reshape(*x.shape[:2], cfg.width)
    return Dense(cfg.width, axes[::-1], True, *types, name="out")(x)


class VisionMLP(nn.Module):
  """Two linear maps with exact GELU between."""

  cfg: VisionConfig
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "I P D"]) -> Float[Array, "I P D"]:
    cfg, types = self.cfg, (self.dtype, self.param_dtype)
    axes = ("vision_embed", "vision_mlp")
    x = Dense(cfg.mlp, axes, True, *types, name="fc1")(x)
    x = jax.nn.gelu(x, approximate=False)
    return Dense(cfg.width, axes[::-1], True, *types, name="fc2")(x)


class VisionBlock(nn.Module):
  """x + ls1 * attention(norm x), then x + ls2 * mlp(norm x)."""

  cfg: VisionConfig
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(
    self, x: Float[Array, "I P D"], _: None
  ) -> tuple[Float[Array, "I P D"], None]:
    cfg, types = self.cfg, (self.dtype, self.param_dtype)
    norm = LayerNorm if cfg.norm == "layer_norm" else RMSNorm
    x = constrain(x, TILES)
    y = norm(cfg.norm_eps, *types, name="norm1")(x)
    y = VisionAttention(cfg, *types, name="attn")(y)
    x = x + self._scale("ls1") * y
    y = norm(cfg.norm_eps, *types, name="norm2")(x)
    y = VisionMLP(cfg, *types, name="mlp")(y)
    return x + self._scale("ls2") * y, None

  def _scale(self, name: str) -> Float[Array, "D"]:
    init = nn.initializers.constant(self.cfg.layer_scale_init)
    shape = (self.cfg.width,)
    scale = self.param(name, named(init, None), shape, self.param_dtype)
    return scale.astype(self.dtype)


class VisionEncoder(nn.Module):
  """InternViT of either style: the last layer's patches, [CLS] dropped."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(self, tiles: UInt8[Array, "I S S 3"]) -> Float[Array, "I G D"]:
    cfg, vision = self.cfg, self.cfg.vision
    assert isinstance(vision, VisionConfig)
    types = (cfg.dtype, cfg.param_dtype)
    x = patches(normalise(tiles).astype(cfg.dtype), vision.patch_size)
    x = Dense(vision.width, (None, "vision_embed"), True, *types, name="patch")(
      x
    )
    init = named(nn.initializers.normal(0.02), None, None)
    cls = self.param("cls", init, (1, vision.width), cfg.param_dtype)
    shape = (vision.grid**2 + 1, vision.width)
    position = self.param("position", init, shape, cfg.param_dtype)
    cls = jnp.broadcast_to(cls.astype(x.dtype), (len(x), *cls.shape))
    x = jnp.concatenate([cls, x], axis=1) + position.astype(x.dtype)
    layers = stacked(VisionBlock, vision.depth, cfg.scan_unroll, 0)
    x, _ = layers(vision, *types, name="layers")(x, None)
    return x[:, 1:]


class Projector(nn.Module):
  """Pixel shuffle, then LayerNorm and two linear maps: image embeddings."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(self, x: Float[Array, "I G D"]) -> Float[Array, "I P D"]:
    cfg, types = self.cfg, (self.cfg.dtype, self.cfg.param_dtype)
    width = cfg.decoder.width
    x = pixel_shuffle(x, cfg.shuffle, cfg.pixel_shuffle)
    x = LayerNorm(PROJECTOR_EPS, *types, name="norm")(x)
    x = Dense(width, ("vision_embed", "embed"), True, *types, name="fc1")(x)
    x = jax.nn.gelu(constrain(x, TILES), approximate=False)
    x = Dense(width, (None, "embed"), True, *types, name="fc2")(x)
    return constrain(x, TILES)
