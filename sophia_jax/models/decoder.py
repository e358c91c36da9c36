"""The causal language model: one architecture for Qwen2, Qwen3, Llama and
InternLM2."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from sophia_jax.models.config import InternVLConfig
from sophia_jax.models.device_kernels import RESIDUALS
from sophia_jax.models.kernels import attend, attend_cached
from sophia_jax.models.layers import (
  Dense,
  RMSNorm,
  constrain,
  named,
  rotate,
  stacked,
)

BETWEEN = ("act_batch", "act_residual", "act_embed")
"""Logical axes of the residual between blocks, and of norms."""
INSIDE = ("act_batch", "act_length", "act_embed")
"""Logical axes around products with weights of the tensor axis. Without them XLA
gathers the weights, and in the backward pass whole batches."""
RESIDUAL = "residual"
"""Checkpoint name of the residual between blocks."""
UP = "up"
"""Checkpoint name of the MLP's up projection."""
_policies = jax.checkpoint_policies
REMAT_POLICIES = {
  # A kernel's products are no dots to the compiler: they are kept by name.
  "dots": _policies.save_from_both_policies(
    _policies.checkpoint_dots_with_no_batch_dims,
    _policies.save_only_these_names(RESIDUALS),
  ),
  "up": _policies.save_only_these_names(RESIDUALS, UP),
  "attention": _policies.save_only_these_names(RESIDUALS),
  "block": _policies.nothing_saveable,
  "offload": _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[RESIDUAL],
    offload_src="device",
    offload_dst="pinned_host",
  ),
}


@flax.struct.dataclass
class KVCache:
  """Keys and values of a layer, C columns a row; the column is the position.

  The axes are in the order in which a CPU's products read them; in another
  order the cache is copied for every token.
  """

  k: Float[Array, "B M H C"]
  v: Float[Array, "B M C H"]

  def write(
    self,
    k: Float[Array, "B M H"],
    v: Float[Array, "B M H"],
    positions: Int[Array, "B"],
  ) -> KVCache:
    """Returns the cache with column positions[b] of row b replaced.

    A position beyond the capacity is not written.
    """
    rows = jnp.arange(len(positions))
    return KVCache(
      k=self.k.at[rows, :, :, positions].set(k),
      v=self.v.at[rows, :, positions].set(v),
    )


@flax.struct.dataclass
class Rows:
  """Inputs that all blocks share in a pass over packed rows."""

  cos: Float[Array, "B T H/2"]
  sin: Float[Array, "B T H/2"]
  segment_ids: Int[Array, "B T"]
  keep_kv: bool = flax.struct.field(pytree_node=False, default=False)
  """Whether blocks return their keys and values."""


@flax.struct.dataclass
class Step:
  """Inputs that all blocks share in a decoding step: T = 1."""

  cos: Float[Array, "B T H/2"]
  sin: Float[Array, "B T H/2"]
  positions: Int[Array, "B"]
  """Cache column that each row's token fills."""
  keep_kv: bool = flax.struct.field(pytree_node=False, default=True)
  """Whether blocks return their caches."""


class Attention(nn.Module):
  """Grouped-query self-attention with rotary positions."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], ctx: Rows | Step, cache: KVCache | None
  ) -> tuple[Float[Array, "B T D"], KVCache]:
    cfg, types = self.cfg.decoder, (self.cfg.dtype, self.cfg.param_dtype)

    def heads(name: str, count: int, axis: str) -> Float[Array, "B T N H"]:
      dense = Dense(
        count * cfg.head_dim, ("embed", axis), cfg.qkv_bias, *types, name=name
      )
      return dense(x).reshape(*x.shape[:2], count, cfg.head_dim)

    def rotated(name: str, count: int, axis: str) -> Float[Array, "B T N H"]:
      y = heads(name, count, axis)
      if cfg.qk_norm:
        y = RMSNorm(cfg.norm_eps, *types, name=f"{name}_norm")(y)
      return rotate(y, ctx.cos, ctx.sin)

    q = rotated("q", cfg.heads, "heads")
    k = rotated("k", cfg.kv_heads, "kv_heads")
    v = heads("v", cfg.kv_heads, "kv_heads")
    if isinstance(ctx, Rows):
      y = attend(self.cfg.attention, q, k, v, ctx.segment_ids)
      cache = KVCache(k=jnp.moveaxis(k, 1, 3), v=v.swapaxes(1, 2))
    else:
      assert cache is not None
      # The write comes before the read: a cache that is read later still would
      # be copied first.
      cache = cache.write(k[:, 0], v[:, 0], ctx.positions)
      y = attend_cached(q[:, 0], cache.k, cache.v, ctx.positions + 1)
    y = y.reshape(*x.shape[:2], cfg.heads * cfg.head_dim)
    y = Dense(cfg.width, ("heads", "embed"), False, *types, name="o")(y)
    return y, cache


class MLP(nn.Module):
  """down(silu(gate x) * up x)."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    cfg, types = self.cfg.decoder, (self.cfg.dtype, self.cfg.param_dtype)
    gate = Dense(cfg.mlp, ("embed", "mlp"), False, *types, name="gate")(x)
    up = Dense(cfg.mlp, ("embed", "mlp"), False, *types, name="up")(x)
    up = checkpoint_name(up, UP)
    down = Dense(cfg.width, ("mlp", "embed"), False, *types, name="down")
    return down(jax.nn.silu(gate) * up)


class Block(nn.Module):
  """x + attention(norm x), then x + mlp(norm x)."""

  cfg: InternVLConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], ctx: Rows | Step, cache: KVCache | None
  ) -> tuple[Float[Array, "B T D"], KVCache | None]:
    eps = self.cfg.decoder.norm_eps
    types = (self.cfg.dtype, self.cfg.param_dtype)
    x = checkpoint_name(constrain(x, BETWEEN), RESIDUAL)
    y = constrain(RMSNorm(eps, *types, name="attn_norm")(x), INSIDE)
    y, kv = Attention(self.cfg, name="attn")(y, ctx, cache)
    x = x + constrain(y, INSIDE)
    y = constrain(RMSNorm(eps, *types, name="mlp_norm")(x), INSIDE)
    x = x + constrain(MLP(self.cfg, name="mlp")(y), INSIDE)
    return constrain(x, BETWEEN), kv if ctx.keep_kv else None


class Decoder(nn.Module):
  """Embedding, blocks, final norm and head."""

  cfg: InternVLConfig

  def setup(self) -> None:
    cfg, decoder = self.cfg, self.cfg.decoder
    types = (cfg.dtype, cfg.param_dtype)
    init = nn.initializers.normal(decoder.width**-0.5)
    self.embedding = self.param(
      "embedding",
      named(init, "vocab", "embed"),
      (decoder.vocab, decoder.width),
      cfg.param_dtype,
    )
    block = Block
    if cfg.remat != "none":
      policy = REMAT_POLICIES[cfg.remat]
      block = nn.remat(Block, prevent_cse=False, policy=policy)
    self.layers = stacked(
      block, decoder.depth, cfg.scan_unroll, nn.broadcast, nn.broadcast
    )(cfg)
    self.norm = RMSNorm(decoder.norm_eps, *types)
    if not decoder.tied_head:
      self.head = self.param(
        "head",
        named(nn.initializers.lecun_normal(), "embed", "vocab"),
        (decoder.width, decoder.vocab),
        cfg.param_dtype,
      )

  def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Looks tokens up, in the compute dtype."""
    return jnp.asarray(self.embedding)[tokens].astype(self.cfg.dtype)

  def __call__(
    self, x: Float[Array, "B T D"], ctx: Rows
  ) -> tuple[Float[Array, "B T D"], tuple[KVCache, ...] | None]:
    """Returns hidden states after the final norm, and each layer's keys and
    values if `ctx` keeps them."""
    x, kv = self.layers(x, ctx, None)
    caches = None if kv is None else _unstacked(kv, self.cfg.decoder.depth)
    return self.norm(x), caches

  def unstacked(self) -> tuple[Any, ...]:
    """Returns the weights of each layer, which `step` takes."""
    weights = self.layers.variables["params"]
    return _unstacked(weights, self.cfg.decoder.depth)

  def step(
    self,
    x: Float[Array, "B 1 D"],
    ctx: Step,
    caches: tuple[KVCache, ...],
    layers: tuple[Any, ...],
  ) -> tuple[Float[Array, "B 1 D"], tuple[KVCache, ...]]:
    """Decodes one token a row and fills its column of the caches.

    The layers are unrolled: in a scan a CPU would copy each layer's weights and
    its part of a stacked cache for every token.
    """
    apply: Any = Block(self.cfg, parent=None).apply
    written = []
    for params, cache in zip(layers, caches):
      x, cache = apply({"params": params}, x, ctx, cache)
      written.append(cache)
    return self.norm(x), tuple(written)

  def head_kernel(self) -> Float[Array, "D V"]:
    """Returns the output projection in the compute dtype."""
    kernel = self.embedding.T if self.cfg.decoder.tied_head else self.head
    return kernel.astype(self.cfg.dtype)

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Applies the head, in fp32."""
    kernel = self.head_kernel()
    return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)


def _unstacked(tree: Any, layers: int) -> tuple[Any, ...]:
  """Splits leaves with a leading axis of layers into a tree for each layer."""
  return tuple(jax.tree.map(itemgetter(i), tree) for i in range(layers))
