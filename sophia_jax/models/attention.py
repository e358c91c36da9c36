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
  k: Float[Array, "B M H C"],
  v: Float[Array, "B M C H"],
  lengths: Int[Array, "B"],
) -> Float[Array, "B N H"]:
  """A token of each row attends to the first `lengths` columns of its cache."""
  b, n, h = q.shape
  m, c = v.shape[1:3]
  q = q.reshape(b, m, n // m, h) * jnp.asarray(h**-0.5, q.dtype)
  f32 = jnp.float32
  scores = jnp.einsum("bmgh,bmhc->bmgc", q, k, preferred_element_type=f32)
  seen = jnp.arange(c) < lengths[:, None]
  scores = jnp.where(seen[:, None, None], scores, MASKED)
  weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
  weights /= jnp.sum(weights, axis=-1, keepdims=True)
  out = jnp.einsum("bmgc,bmch->bmgh", weights.astype(v.dtype), v)
  return out.reshape(b, n, h)
