"""Token log-probabilities without an array of [B, T, V]."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sophia_jax.models.layers import constrain

HEAD = ("embed", "vocab")
"""Logical axes of the head's kernel."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def token_logps(
  hidden: Float[Array, "B T D"],
  head_kernel: Float[Array, "D V"],
  targets: Int[Array, "B T"],
  block: int,
) -> Float[Array, "B T"]:
  """Returns log softmax(hidden @ head_kernel)[targets] in fp32.

  0 where a target is -1. Logits exist for `block` tokens of every row at a time,
  forward and backward: the peak is a few arrays of [B, block, V]. The backward
  pass recomputes logits from the saved log-normaliser. Tokens with the target
  -1 cost nothing: the others are moved to the front of their row, and blocks
  without a target are skipped.

  Args:
    block: tokens of a row whose logits exist at the same time.
  """
  return _forward(hidden, head_kernel, targets, block)[0]


def _forward(
  hidden: Float[Array, "B T D"],
  head_kernel: Float[Array, "D V"],
  targets: Int[Array, "B T"],
  block: int,
) -> tuple[Float[Array, "B T"], tuple[Array, ...]]:
  kernel = _gathered(head_kernel)

  def chunk(h: Array, target: Array) -> tuple[Array, Array]:
    logits = jnp.matmul(h, kernel, preferred_element_type=jnp.float32)
    norm = jax.nn.logsumexp(logits, axis=-1)
    index = jnp.maximum(target, 0)[..., None]
    picked = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    return jnp.where(target < 0, 0.0, picked - norm), norm

  def nothing(h: Array, target: Array) -> tuple[Array, Array]:
    zeros = jnp.zeros(target.shape, jnp.float32)
    return zeros, zeros

  def step(_: None, xs: tuple[Array, Array]) -> tuple[None, tuple]:
    return None, jax.lax.cond(jnp.any(xs[1] >= 0), chunk, nothing, *xs)

  t = hidden.shape[1]
  order = jnp.argsort(targets < 0, axis=1, stable=True)
  hidden, targets = _along(hidden, order), _along(targets, order)
  blocks = _split(hidden, block, 0), _split(targets, block, -1)
  _, (logps, norm) = jax.lax.scan(step, None, blocks)
  back = jnp.argsort(order, axis=1)
  saved = hidden, head_kernel, targets, _join(norm, t), order, back
  return _along(_join(logps, t), back), saved


def _backward(
  block: int, saved: tuple[Array, ...], cotangent: Float[Array, "B T"]
) -> tuple[Float[Array, "B T D"], Float[Array, "D V"], None]:
  hidden, head_kernel, targets, norm, order, back = saved
  kernel = _gathered(head_kernel)

  def chunk(
    d_kernel: Array, h: Array, target: Array, z: Array, g: Array
  ) -> tuple[Array, Array]:
    logits = jnp.matmul(h, kernel, preferred_element_type=jnp.float32)
    onehot = jnp.arange(kernel.shape[1]) == target[..., None]
    d_logits = g[..., None] * (onehot - jnp.exp(logits - z[..., None]))
    d_logits = d_logits.astype(h.dtype)
    d_kernel += jnp.einsum(
      "btd,btv->dv", h, d_logits, preferred_element_type=jnp.float32
    )
    # Every block needs the sum over rows. Scattered it costs half of what it
    # costs replicated, and no device holds it whole.
    return constrain(d_kernel, HEAD), jnp.einsum(
      "btv,dv->btd", d_logits, kernel
    )

  def nothing(d_kernel: Array, h: Array, *_: Array) -> tuple[Array, Array]:
    return d_kernel, jnp.zeros_like(h)

  def step(d_kernel: Array, xs: tuple[Array, ...]) -> tuple[Array, Array]:
    targeted = jnp.any(xs[1] >= 0)
    d_kernel, d_h = jax.lax.cond(targeted, chunk, nothing, d_kernel, *xs)
    return constrain(d_kernel, HEAD), d_h

  cotangent = jnp.where(targets < 0, 0.0, _along(cotangent, order))
  xs = (
    _split(hidden, block, 0),
    _split(targets, block, -1),
    _split(norm, block, 0),
    _split(cotangent, block, 0),
  )
  zero = constrain(jnp.zeros(kernel.shape, jnp.float32), HEAD)
  d_kernel, d_hidden = jax.lax.scan(step, zero, xs)
  d_hidden = _along(_join(d_hidden, hidden.shape[1]), back)
  return d_hidden.astype(hidden.dtype), d_kernel.astype(kernel.dtype), None


token_logps.defvjp(_forward, _backward)


def _gathered(kernel: Float[Array, "D V"]) -> Float[Array, "D V"]:
  """Gathers all but the vocabulary's axis once, not in every block."""
  return constrain(kernel, (None, "vocab"))


def _along(x: Array, order: Int[Array, "B T"]) -> Array:
  """Reorders the tokens of [B, T, ...] in every row.

  The devices of a row gather it once: a token may move anywhere in it.
  """
  order = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
  whole = "act_batch", None, None
  x = constrain(x, whole[: x.ndim])
  return constrain(jnp.take_along_axis(x, order, axis=1), whole[: x.ndim])


def _split(x: Array, block: int, fill: int) -> Array:
  """Splits [B, T, ...] into [T/block, B, block, ...], padded with `fill`.

  The tokens of a block are spread over the devices of its rows.
  """
  b, t = x.shape[:2]
  block = min(block, t)
  padding = [(0, 0), (0, -t % block)] + [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, padding, constant_values=fill)
  x = x.reshape(b, -1, block, *x.shape[2:]).swapaxes(0, 1)
  axes = (None, "act_batch", "act_length")
  return constrain(x, axes + (None,) * (x.ndim - 3))


def _join(x: Array, t: int) -> Array:
  """Undoes `_split` and drops the padding."""
  x = constrain(x, (None, "act_batch", None, None)[: x.ndim]).swapaxes(0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :t]
