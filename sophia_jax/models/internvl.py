"""InternVL: vision encoder -> pixel shuffle -> projector -> decoder.

Pure functions of (params, arrays):

  InternVL(cfg).apply({"params": params}, tiles, method="encode")

`params` is a plain dict with "vision", "projector" and "language"; a text-only
model has "language" alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from sophia_jax.models import logprobs
from sophia_jax.models.config import InternVLConfig
from sophia_jax.models.decoder import Decoder, KVCache, Rows, Step
from sophia_jax.models.layers import (
  constrain,
  rotary_tables,
  segment_lengths,
)
from sophia_jax.models.vision import Projector, VisionEncoder

Params = dict[str, Any]


class InternVL(nn.Module):
  """The policy, or with `cfg.vision = None` a plain language model."""

  cfg: InternVLConfig

  def setup(self) -> None:
    if self.cfg.vision is not None:
      self.vision = VisionEncoder(self.cfg)
      self.projector = Projector(self.cfg)
    self.language = Decoder(self.cfg)

  def encode(self, tiles: UInt8[Array, "I S S 3"]) -> Float[Array, "I*P D"]:
    """Returns image embeddings, tile by tile, P tokens each."""
    x = self.projector(self.vision(tiles))
    return x.reshape(-1, x.shape[-1])

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    tile_slots: Int[Array, "B T"] | None = None,
    image_embeds: Float[Array, "I*P D"] | None = None,
  ) -> Float[Array, "B T D"]:
    """Hidden states of packed rows after the final norm.

    Where `tile_slots` is not -1 that image embedding replaces the token's own.
    """
    lengths = segment_lengths(positions, segment_ids)
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
  ) -> tuple[Float[Array, "B T D"], tuple[KVCache, ...]]:
    """Reads right-padded prompts; the cache of each layer has T columns.

    Columns beyond a row's length hold values that `decode` never sees before
    it overwrites them.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    limits = jnp.broadcast_to(lengths[:, None], tokens.shape)
    cos, sin = self._rotary(positions, limits)
    segment_ids = (positions < limits).astype(jnp.int32)
    rows = Rows(cos=cos, sin=sin, segment_ids=segment_ids, keep_kv=True)
    x = self._embed(tokens, tile_slots, image_embeds)
    hidden, caches = self.language(x, rows)
    assert caches is not None
    return hidden, caches

  def decode(
    self,
    tokens: Int[Array, "B"],
    positions: Int[Array, "B"],
    caches: tuple[KVCache, ...],
  ) -> tuple[Float[Array, "B D"], tuple[KVCache, ...]]:
    """Decodes one token a row: fills column positions[b], attends to columns <= it.

    A token beyond the capacity is not stored, and is not seen by itself.
    """
    cos, sin = self._rotary(positions[:, None], positions[:, None] + 1)
    step = Step(cos=cos, sin=sin, positions=positions)
    embeds = self.language.embed(tokens[:, None])
    hidden, caches = self.language.step(embeds, step, caches)
    return hidden[:, 0], caches

  def everything(
    self, tokens: Int[Array, "B T"], tiles: UInt8[Array, "I S S 3"] | None
  ) -> Float[Array, "B T V"]:
    """Touches every parameter: what initialisation traces."""
    if tiles is not None:
      self.encode(tiles)
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

  def _rotary(
    self, positions: Int[Array, "B T"], lengths: Int[Array, "B T"]
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
  return jax.eval_shape(lambda key: _init(cfg, key), jax.random.key(0))


def _init(cfg: InternVLConfig, key: Array) -> Params:
  tokens, tiles = jnp.zeros((1, 1), jnp.int32), None
  if cfg.vision is not None:
    side = cfg.vision.image_size
    tiles = jnp.zeros((1, side, side, 3), jnp.uint8)
  model = InternVL(cfg)
  return model.init(key, tokens, tiles, method="everything")["params"]
