"""Sums and means over the segments or bundles of packed rows.

Results are spread: every token holds the value of its segment, so a loss
that concerns a whole sequence stays a loss per token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def total(
  x: Float[Array, "B T"], ids: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """Returns at every token the sum of `x` over the tokens with its id.

  Args:
    x: values, 0 where they are not to count.
    ids: segment or bundle ids, 0 to T.
  """

  def row(x: Array, ids: Array) -> Array:
    return jax.ops.segment_sum(x, ids, x.shape[0] + 1)[ids]

  return jax.vmap(row)(x, ids)


def mean(
  x: Float[Array, "B T"], mask: Float[Array, "B T"], ids: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """Returns at every token the mean of `x` over the masked tokens with its id.

  It is 0 where an id has no masked token.
  """
  return total(x * mask, ids) / jnp.maximum(total(mask, ids), 1.0)
