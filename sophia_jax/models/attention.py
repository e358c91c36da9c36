"""Grouped-query dot-product attention behind three entry points.

Scores and softmax are fp32; the weights return to the compute dtype before they
meet the values. Key and value heads are never repeated in memory: the query
heads that share one are an axis of their own.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sophia_jax.models import kernels
from sophia_jax.models.kernels import MASKED


def full_attention(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T M H"],
  v: Float[Array, "B T M H"],
) -> Float[Array, "B T N H"]:
  """Every token attends to every token."""
  return kernels.attend_all(q, k, v)


def causal_attention(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T M H"],
  v: Float[Array, "B T M H"],
  segment_ids: Int[Array, "B T"],
  implementation: str = "auto",
) -> Float[Array, "B T N H"]:
  """A token attends to itself and to earlier tokens of its own segment.

  Args:
    implementation: a name of models/kernels.py.
  """
  return kernels.attend(implementation, q, k, v, segment_ids)


def cached_attention(
  q: Float[Array, "B N H"],
  k: Float[Array, "B M H"],
  v: Float[Array, "B M H"],
  k_cache: Float[Array, "B M C H"],
  v_cache: Float[Array, "B M C H"],
  lengths: Int[Array, "B"],
) -> Float[Array, "B N H"]:
  """One new token a row attends to itself and to `lengths` cached columns.

  The new key and value are separate operands so that the cache is only read
  here: all layers' columns are then written by one in-place scatter. A head's
  columns lie side by side in it: a CPU would first copy what is laid out
  otherwise, on every step.
  """
  b, n, h = q.shape
  m = k.shape[1]
  q = q.reshape(b, m, n // m, h) * jnp.asarray(h**-0.5, q.dtype)
  f32 = jnp.float32
  old = jnp.einsum("bmgh,bmch->bmgc", q, k_cache, preferred_element_type=f32)
  new = jnp.einsum("bmgh,bmh->bmg", q, k, preferred_element_type=f32)[..., None]
  seen = jnp.arange(k_cache.shape[2]) < lengths[:, None]
  old = jnp.where(seen[:, None, None], old, MASKED)
  top = jnp.maximum(jnp.max(old, axis=-1, keepdims=True), new)
  old, new = jnp.exp(old - top), jnp.exp(new - top)
  total = jnp.sum(old, axis=-1, keepdims=True) + new
  old, new = (old / total).astype(q.dtype), (new / total).astype(q.dtype)
  out = jnp.einsum("bmgc,bmch->bmgh", old, v_cache) + new * v[:, :, None]
  return out.reshape(b, n, h)
