"""InternVL and Qwen2.5-VL: vision encoder -> projector -> decoder.

Pure functions of (params, arrays):

  InternVL(cfg).apply({"params": params}, tiles, method="encode")

`params` is a plain dict with "vision", "projector" and "language"; a text-only
model has "language" alone.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from sophia_jax.models import logprobs
from sophia_jax.models.config import InternVLConfig, QwenVisionConfig
from sophia_jax.models.decoder import Decoder, KVCache, Rows, Step
from sophia_jax.models.layers import (
  constrain,
  rotary_tables,
  segment_lengths,
)
from sophia_jax.models.positions import spatial_positions
from sophia_jax.models.qwen_vision import QwenMerger, QwenVisionEncoder
from sophia_jax.models.vision import Projector, VisionEncoder

Params = dict[str, Any]


class InternVL(nn.Module):
  """The policy, or with `cfg.vision = None` a plain language model."""

  cfg: InternVLConfig

  def setup(self) -> None:
    self.qwen = isinstance(self.cfg.vision, QwenVisionConfig)
    parts: Any = (VisionEncoder, Projector)
    if self.qwen:
      parts = (QwenVisionEncoder, QwenMerger)
    if self.cfg.vision is not None:
      self.vision, self.projector = (part(self.cfg) for part in parts)
    self.language = Decoder(self.cfg)

  def encode(
    self,
    tiles: UInt8[Array, "I S S C"],
    tile_places: Int[Array, "I 4"] | None = None,
    sequences: int = 1,
  ) -> Float[Array, "I*P D"]:
    """Returns image embeddings, tile by tile, P tokens each.

    InternVL's tiles are encoded one by one; Qwen2.5-VL's see their image.

    Args:
      tile_places: picture, row, column and milliseconds of each tile.
      sequences: equal parts of the tiles that no image crosses.
    """
    where = (tile_places, sequences) if self.qwen else ()
    x = self.projector(self.vision(tiles, *where))
    return x.reshape(-1, x.shape[-1])

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    tile_slots: Int[Array, "B T"] | None = None,
    image_embeds: Float[Array, "I*P D"] | None = None,
    tile_places: Int[Array, "I 4"] | None = None,
  ) -> Float[Array, "B T D"]:
    """Returns the hidden states of packed rows after the final norm.

    Where `tile_slots` is not -1 that image embedding replaces the token's own.
    """
    lengths = segment_lengths(positions, segment_ids)
    positions, _ = self._spatial(positions, tile_slots, tile_places)
    cos, sin = self._rotary(positions, lengths)
    rows = Rows(cos=cos, sin=sin, segment_ids=segment_ids)
    return self.language(self._embed(tokens, tile_slots, image_embeds), rows)[0]

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Returns fp32 logits."""
    return self.language.logits(hidden)

  def token_logps(
    self,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    block: int,
  ) -> Float[Array, "B T"]:
    """Returns log p(targets) in fp32, `block` tokens of every row at a time."""
    return self.token_statistics(hidden, targets, block, ("logps",))[0]

  def token_statistics(
    self,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    block: int,
    names: tuple[str, ...],
  ) -> tuple[Float[Array, "B T"], ...]:
    """Returns the named `logprobs.STATISTICS` of the next-token distributions."""
    head = self.language.head_kernel()
    return logprobs.token_statistics(hidden, head, targets, block, names)

  def prefill(
    self,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    tile_slots: Int[Array, "B T"] | None = None,
    image_embeds: Float[Array, "I*P D"] | None = None,
    tile_places: Int[Array, "I 4"] | None = None,
  ) -> tuple[Float[Array, "B T D"], tuple[KVCache, ...]]:
    """Reads right-padded prompts; the cache of each layer has T columns.

    Columns beyond a row's length hold values that `decode` never sees before
    it overwrites them.
    """
    columns = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    limits = jnp.broadcast_to(lengths[:, None], tokens.shape)
    positions, _ = self._spatial(columns, tile_slots, tile_places)
    cos, sin = self._rotary(positions, limits)
    segment_ids = (columns < limits).astype(jnp.int32)
    rows = Rows(cos=cos, sin=sin, segment_ids=segment_ids, keep_kv=True)
    x = self._embed(tokens, tile_slots, image_embeds)
    hidden, caches = self.language(x, rows)
    assert caches is not None
    return hidden, caches

  def offsets(
    self,
    lengths: Int[Array, "B"],
    tile_slots: Int[Array, "B T"] | None = None,
    tile_places: Int[Array, "I 4"] | None = None,
  ) -> Int[Array, "B"]:
    """Returns how far the rotary positions after a prompt are from its columns.

    An image takes fewer positions than tokens where positions have three axes.
    """
    if not self.cfg.decoder.mrope or tile_slots is None:
      return jnp.zeros_like(lengths)
    columns = jnp.broadcast_to(
      jnp.arange(tile_slots.shape[1]), tile_slots.shape
    )
    _, following = self._spatial(columns, tile_slots, tile_places)
    last = jnp.take_along_axis(following, lengths[:, None] - 1, axis=1)
    return last[:, 0] - lengths

  def layers(self) -> tuple[Any, ...]:
    """Returns the weights of each of the decoder's layers."""
    return self.language.unstacked()

  def decode(
    self,
    tokens: Int[Array, "B"],
    positions: Int[Array, "B"],
    caches: tuple[KVCache, ...],
    offsets: Int[Array, "B"] | None = None,
    layers: tuple[Any, ...] | None = None,
  ) -> tuple[Float[Array, "B D"], tuple[KVCache, ...]]:
    """Decodes one token a row: fills column positions[b], attends to columns <= it.

    A token beyond the capacity is not stored, and is not seen by itself.

    Args:
      offsets: what `offsets` returned for the prompts; None: all 0.
      layers: what `layers` returned; None: taken here.
    """
    layers = self.layers() if layers is None else layers
    turned = positions if offsets is None else positions + offsets
    cos, sin = self._rotary(turned[:, None], positions[:, None] + 1)
    step = Step(cos=cos, sin=sin, positions=positions)
    embeds = self.language.embed(tokens[:, None])
    hidden, caches = self.language.step(embeds, step, caches, layers)
    return hidden[:, 0], caches

  def everything(
    self, tokens: Int[Array, "B T"], tiles: UInt8[Array, "I S S 3"] | None
  ) -> Float[Array, "B T V"]:
    """Touches every parameter: what initialisation traces."""
    if tiles is not None:
      self.encode(tiles, jnp.zeros((len(tiles), 4), jnp.int32))
    zeros = jnp.zeros_like(tokens)
    return self.logits(self(tokens, zeros, zeros))

  def _embed(
    self,
    tokens: Int[Array, "B T"],
    tile_slots: Int[Array, "B T"] | None,
    image_embeds: Float[Array, "I*P D"] | None,
  ) -> Float[Array, "B T D"]:
    # Rows take any word, and embeddings of tiles that any device may have
    # encoded: each device looks up its slice of the width for many rows, and none
    # holds a table whole. Slices are exchanged for tokens of a row here, for rows
    # by the decoder: both at once, and XLA gathers everything first.
    ids, slices = ("act_replica", None), ("act_replica", None, "act_sliced")
    x = constrain(self.language.embed(constrain(tokens, ids)), slices)
    if tile_slots is not None and image_embeds is not None:
      tile_slots = constrain(tile_slots, ids)
      image_embeds = constrain(image_embeds, ("act_replica", "act_sliced"))
      image_embeds = constrain(image_embeds, (None, "act_sliced"))
      images = image_embeds[jnp.maximum(tile_slots, 0)].astype(x.dtype)
      images = constrain(images, slices)
      x = jnp.where((tile_slots >= 0)[..., None], images, x)
    return constrain(x, ("act_replica", "act_residual", "act_shard"))

  def _spatial(
    self,
    positions: Int[Array, "B T"],
    tile_slots: Int[Array, "B T"] | None,
    tile_places: Int[Array, "I 4"] | None,
  ) -> tuple[Int[Array, "B T ..."], Int[Array, "B T"]]:
    """Returns the rotary positions of tokens, and of those that follow them."""
    if tile_slots is None or tile_places is None or not self.cfg.decoder.mrope:
      return positions, positions + 1
    assert isinstance(self.cfg.vision, QwenVisionConfig)
    rate = self.cfg.vision.frame_rate
    return spatial_positions(positions, tile_slots, tile_places, rate)

  def _rotary(
    self, positions: Int[Array, "B T ..."], lengths: Int[Array, "B T"]
  ) -> tuple[Float[Array, "B T H/2"], Float[Array, "B T H/2"]]:
    cfg = self.cfg
    return rotary_tables(positions, lengths, cfg.decoder, cfg.dtype)


def init_caches(
  cfg: InternVLConfig, batch: int, capacity: int
) -> tuple[KVCache, ...]:
  """Makes each layer's empty cache for `batch` rows of `capacity` columns."""
  d = cfg.decoder
  k = batch, d.kv_heads, d.head_dim, capacity
  v = batch, d.kv_heads, capacity, d.head_dim
  return tuple(
    KVCache(k=jnp.zeros(k, cfg.dtype), v=jnp.zeros(v, cfg.dtype))
    for _ in range(d.depth)
  )


def init_params(cfg: InternVLConfig, key: Array) -> Params:
  """Draws fresh parameters: a plain, unboxed tree."""
  # Under jit the forward pass that creates them is dead code.
  return nn.unbox(jax.jit(_init, static_argnums=0)(cfg, key))


def abstract_params(cfg: InternVLConfig) -> Params:
  """Shapes and dtypes of the parameters; nothing is allocated."""
  return nn.unbox(_abstract(cfg))


def logical_axes(cfg: InternVLConfig) -> Params:
  """Returns a PartitionSpec of logical axis names for every parameter."""
  return nn.get_partition_spec(_abstract(cfg))


def _abstract(cfg: InternVLConfig) -> Params:
  return _traced(cfg, jax.sharding.get_abstract_mesh())


@functools.cache  # a second to trace, and asked for many times
def _traced(cfg: InternVLConfig, mesh: jax.sharding.AbstractMesh) -> Params:
  del mesh  # shapes that are traced on a mesh name it
  return jax.eval_shape(lambda key: _init(cfg, key), jax.random.key(0))


def _init(cfg: InternVLConfig, key: Array) -> Params:
  tokens, tiles = jnp.zeros((1, 1), jnp.int32), None
  if cfg.vision is not None:
    side = cfg.vision.image_size
    tiles = jnp.zeros((1, side, side, 3), jnp.uint8)
  model = InternVL(cfg)
  return model.init(key, tokens, tiles, method="everything")["params"]
