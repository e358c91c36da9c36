"""Norms, linear maps and rotary positions shared by encoder and decoder.

Every parameter and every constrained activation carries logical axis names;
`sophia_jax.train` maps them to mesh axes. The names:

  layers                                  stacked per-layer parameters (axis 0)
  vocab, embed, heads, kv_heads, mlp      the decoder's and projector's
  vision_embed, vision_heads, vision_mlp  the vision encoder's
  None                                    norms, their biases, positions
  act_tiles                               activations: tiles
  act_batch, act_length, act_heads        rows, tokens, heads
  act_residual, act_embed                 tokens and width between blocks
  act_replica, act_shard, act_sliced      rows and width at the lookup of
                                          embeddings, sliced like their table
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from sophia_jax.models.config import DecoderConfig

PARAM_AXES = (
  "layers",
  "vocab",
  "embed",
  "heads",
  "kv_heads",
  "mlp",
  "vision_embed",
  "vision_heads",
  "vision_mlp",
)

constrain = nn.with_logical_constraint


def named(
  init: Callable[..., Array], *axes: str | None
) -> Callable[..., Array]:
  """Returns `init` with the logical names `axes` on its parameter."""
  return cast(Callable[..., Array], nn.with_logical_partitioning(init, axes))


def stacked(block: Any, depth: int, unroll: int, *in_axes: Any) -> Any:
  """Returns the module of `depth` blocks in a row, their parameters stacked.

  Args:
    unroll: blocks per scan step.
    in_axes: of each argument behind the first: 0, a part of it for each block;
      `nn.broadcast`, the whole for all.
  """
  return nn.scan(
    block,
    variable_axes={"params": 0, "lora": 0},
    split_rngs={"params": True},
    in_axes=in_axes,
    length=depth,
    unroll=min(unroll, depth),
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


@jax.custom_vjp
def linear(
  x: Float[Array, "... A"], kernel: Float[Array, "A Z"]
) -> Float[Array, "... Z"]:
  """Multiplies x W.

  The derivative is written out for the operand order of W's gradient: jax's own
  rule swaps the operands and transposes the result, for which a CPU first
  copies the larger one column by column. That takes as long as the product.
  """
  return x @ kernel


def _linear_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, ...]]:
  return x @ kernel, (x, kernel)


def _linear_backward(
  saved: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array]:
  x, kernel = saved
  return (
    jnp.einsum("...z,az->...a", cotangent, kernel),
    jnp.einsum("...a,...z->az", x, cotangent),
  )


linear.defvjp(_linear_forward, _linear_backward)


class Dense(nn.Module):
  """y = x W + b with W [in, out]; + (x A) B where it has an adapter."""

  features: int
  axes: tuple[str | None, str | None]
  """Logical names of W's two axes; the bias has the second."""
  use_bias: bool
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "... A"]) -> Float[Array, "... Z"]:
    kernel = self.param(
      "kernel",
      named(nn.initializers.lecun_normal(), *self.axes),
      (x.shape[-1], self.features),
      self.param_dtype,
    )
    x = x.astype(self.dtype)
    y = linear(x, kernel.astype(self.dtype))
    if self.has_variable("lora", "a"):
      a: Array = self.get_variable("lora", "a")
      b: Array = self.get_variable("lora", "b")
      y = y + linear(linear(x, a.astype(self.dtype)), b.astype(self.dtype))
    if self.use_bias:
      bias = self.param(
        "bias",
        named(nn.initializers.zeros, self.axes[1]),
        (self.features,),
        self.param_dtype,
      )
      y = y + bias.astype(self.dtype)
    return y


class RMSNorm(nn.Module):
  """x / rms(x), statistics in fp32, rounded to `dtype` before the weight."""

  eps: float
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    scale = _vector(
      self, "scale", nn.initializers.ones, x.shape[-1], self.param_dtype
    )
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
    return x.astype(self.dtype) * scale.astype(self.dtype)


class LayerNorm(nn.Module):
  """LayerNorm computed in fp32 throughout and rounded to `dtype` once."""

  eps: float
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    width = x.shape[-1]
    scale = _vector(
      self, "scale", nn.initializers.ones, width, self.param_dtype
    )
    bias = _vector(self, "bias", nn.initializers.zeros, width, self.param_dtype)
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
    # The weights round to the compute dtype first, as they do in a checkpoint
    # kept in that dtype.
    scale, bias = scale.astype(self.dtype), bias.astype(self.dtype)
    return (x * scale + bias).astype(self.dtype)


def _vector(
  module: nn.Module,
  name: str,
  init: Callable[..., Array],
  width: int,
  dtype: str,
) -> Float[Array, "D"]:
  """Creates an unsharded parameter of `module`."""
  return module.param(name, named(init, None), (width,), dtype)


def rotary_tables(
  positions: Int[Array, "..."],
  lengths: Int[Array, "*B"],
  cfg: DecoderConfig,
  dtype: str,
) -> tuple[Float[Array, "*B H/2"], Float[Array, "*B H/2"]]:
  """Returns cos and sin of each token's rotary angles, rounded to `dtype`.

  Dynamic NTK: a sequence of length n > M = max_positions has the base
  theta' = theta (f n / M - (f - 1))^(H / (H - 2)). The angles of a token depend
  on its own sequence only.

  Args:
    positions: one for each token; or, with `cfg.mrope`, one in time, row and
      column.
    lengths: the length of the sequence each token belongs to.
  """
  exponents = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / np.float32(
    cfg.head_dim
  )
  inverse = jnp.asarray(1 / np.float32(cfg.rope_theta) ** exponents)
  if cfg.rope_scaling == "dynamic":
    f, h = cfg.rope_factor, cfg.head_dim
    stretch = f * lengths.astype(jnp.float32) / cfg.max_positions - (f - 1)
    # The unused branch must stay finite: stretch <= 0 for short sequences.
    stretch = jnp.maximum(stretch, 1.0) ** (h / (h - 2))
    scaled = 1 / (cfg.rope_theta * stretch[..., None]) ** exponents
    long = (lengths > cfg.max_positions)[..., None]
    inverse = jnp.where(long, scaled, inverse)
  angles = positions.astype(jnp.float32)[..., None] * inverse
  if positions.ndim > lengths.ndim:
    axes = np.repeat(np.arange(3), cfg.mrope)
    angles = angles[..., axes, np.arange(len(axes))]
  return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotate(
  x: Float[Array, "*B N H"],
  cos: Float[Array, "*B H/2"],
  sin: Float[Array, "*B H/2"],
) -> Float[Array, "*B N H"]:
  """Applies the rotary embedding to half-split pairs (x_i, x_{i + H/2})."""
  low, high = jnp.split(x, 2, axis=-1)
  cos, sin = cos[..., None, :], sin[..., None, :]
  return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def segment_lengths(
  positions: Int[Array, "B T"], segment_ids: Int[Array, "B T"]
) -> Int[Array, "B T"]:
  """Returns for each token the length of the packed segment it belongs to."""
  count = positions.shape[1] + 1

  def row(position: Int[Array, "T"], segment: Int[Array, "T"]) -> Array:
    last = jax.ops.segment_max(position, segment, num_segments=count)
    return last[segment] + 1

  return jax.vmap(row)(positions, segment_ids)
