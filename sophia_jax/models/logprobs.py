"""Statistics of next-token distributions without an array of [B, T, V]."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sophia_jax.models.layers import constrain

HEAD = ("embed", "vocab")
"""Logical axes of the head's kernel."""


class Statistic(NamedTuple):
  """A function of each token's distribution softmax(z), and its derivative.

  Both are functions of the logits z [..., V], their log-normaliser [...] and the
  target [...].
  """

  value: Callable[[Array, Array, Array], Float[Array, "*B"]]
  gradient: Callable[[Array, Array, Array], Float[Array, "*B V"]]
  """Derivative by the logits."""


def _logp(logits: Array, norm: Array, target: Array) -> Array:
  index = jnp.maximum(target, 0)[..., None]
  return jnp.take_along_axis(logits, index, axis=-1)[..., 0] - norm


def _logp_gradient(logits: Array, norm: Array, target: Array) -> Array:
  onehot = jnp.arange(logits.shape[-1]) == target[..., None]
  return onehot - jnp.exp(logits - norm[..., None])


def _entropy(logits: Array, norm: Array, target: Array) -> Array:
  logp = logits - norm[..., None]
  return -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def _entropy_gradient(logits: Array, norm: Array, target: Array) -> Array:
  """Computes d H / d z = -p (log p + H)."""
  logp = logits - norm[..., None]
  entropy = _entropy(logits, norm, target)
  return -jnp.exp(logp) * (logp + entropy[..., None])


STATISTICS = {
  "logps": Statistic(_logp, _logp_gradient),
  "entropy": Statistic(_entropy, _entropy_gradient),
}


def token_logps(
  hidden: Float[Array, "B T D"],
  head_kernel: Float[Array, "D V"],
  targets: Int[Array, "B T"],
  block: int,
) -> Float[Array, "B T"]:
  """Returns log softmax(hidden @ head_kernel)[targets] in fp32."""
  return token_statistics(hidden, head_kernel, targets, block, ("logps",))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_statistics(
  hidden: Float[Array, "B T D"],
  head_kernel: Float[Array, "D V"],
  targets: Int[Array, "B T"],
  block: int,
  names: tuple[str, ...],
) -> tuple[Float[Array, "B T"], ...]:
  """Returns the named statistics of softmax(hidden @ head_kernel), in fp32.

  0 where a target is -1. Logits exist for `block` tokens of every row at a time,
  forward and backward: the peak is a few arrays of [B, block, V]. The backward
  pass recomputes logits from the saved log-normaliser. Tokens with the target
  -1 cost nothing: the others are moved to the front of their row, and blocks
  without a target are skipped.

  Args:
    block: tokens of a row whose logits exist at the same time.
    names: keys of STATISTICS.
  """
  return _forward(hidden, head_kernel, targets, block, names)[0]


def _forward(
  hidden: Float[Array, "B T D"],
  head_kernel: Float[Array, "D V"],
  targets: Int[Array, "B T"],
  block: int,
  names: tuple[str, ...],
) -> tuple[tuple[Float[Array, "B T"], ...], tuple[Array, ...]]:
  kernel = _gathered(head_kernel)

  def chunk(h: Array, target: Array) -> tuple[tuple[Array, ...], Array]:
    logits = jnp.matmul(h, kernel, preferred_element_type=jnp.float32)
    norm = jax.nn.logsumexp(logits, axis=-1)
    values = [STATISTICS[n].value(logits, norm, target) for n in names]
    return tuple(jnp.where(target < 0, 0.0, x) for x in values), norm

  def nothing(h: Array, target: Array) -> tuple[tuple[Array, ...], Array]:
    zeros = jnp.zeros(target.shape, jnp.float32)
    return tuple(zeros for _ in names), zeros

  def step(_: None, xs: tuple[Array, Array]) -> tuple[None, tuple]:
    return None, jax.lax.cond(jnp.any(xs[1] >= 0), chunk, nothing, *xs)

  t = hidden.shape[1]
  order = jnp.argsort(targets < 0, axis=1, stable=True)
  hidden, targets = _along(hidden, order), _along(targets, order)
  blocks = _split(hidden, block, 0), _split(targets, block, -1)
  _, (values, norm) = jax.lax.scan(step, None, blocks)
  back = jnp.argsort(order, axis=1)
  saved = hidden, head_kernel, targets, _join(norm, t), order, back
  return tuple(_along(_join(x, t), back) for x in values), saved


def _backward(
  block: int,
  names: tuple[str, ...],
  saved: tuple[Array, ...],
  cotangents: tuple[Float[Array, "B T"], ...],
) -> tuple[Float[Array, "B T D"], Float[Array, "D V"], None]:
  hidden, head_kernel, targets, norm, order, back = saved
  kernel = _gathered(head_kernel)

  def chunk(
    d_kernel: Array, h: Array, target: Array, z: Array, gs: tuple[Array, ...]
  ) -> tuple[Array, Array]:
    logits = jnp.matmul(h, kernel, preferred_element_type=jnp.float32)
    parts = [
      g[..., None] * STATISTICS[name].gradient(logits, z, target)
      for name, g in zip(names, gs)
    ]
    d_logits = functools.reduce(operator.add, parts).astype(h.dtype)
    d_kernel += jnp.einsum(
      "btd,btv->dv", h, d_logits, preferred_element_type=jnp.float32
    )
    # Every block needs the sum over rows. Scattered it costs half of what it
    # costs replicated, and no device holds it whole.
    return constrain(d_kernel, HEAD), jnp.einsum(
      "btv,dv->btd", d_logits, kernel
    )

  def nothing(d_kernel: Array, h: Array, *_: Any) -> tuple[Array, Array]:
    return d_kernel, jnp.zeros_like(h)

  def step(d_kernel: Array, xs: tuple) -> tuple[Array, Array]:
    targeted = jnp.any(xs[1] >= 0)
    d_kernel, d_h = jax.lax.cond(targeted, chunk, nothing, d_kernel, *xs)
    return constrain(d_kernel, HEAD), d_h

  cotangents = tuple(
    jnp.where(targets < 0, 0.0, _along(g, order)) for g in cotangents
  )
  xs = (
    _split(hidden, block, 0),
    _split(targets, block, -1),
    _split(norm, block, 0),
    tuple(_split(g, block, 0) for g in cotangents),
  )
  zero = constrain(jnp.zeros(kernel.shape, jnp.float32), HEAD)
  d_kernel, d_hidden = jax.lax.scan(step, zero, xs)
  d_hidden = _along(_join(d_hidden, hidden.shape[1]), back)
  return d_hidden.astype(hidden.dtype), d_kernel.astype(kernel.dtype), None


token_statistics.defvjp(_forward, _backward)


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
  """Reshapes [B, T, ...] to [T/block, B, block, ...], padded with `fill`.

  The tokens of a block are spread over the devices that share its rows.
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
