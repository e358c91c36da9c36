"""Drawing a token: pure, row by row, independent of the rows beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


def truncate(
  logits: Float[Array, "B V"],
  top_p: Float[Array, "B"],
  top_k: Int[Array, "B"],
) -> Float[Array, "B V"]:
  """Keeps the top_k likeliest tokens, then the smallest set of mass top_p.

  The likeliest token is always kept; top_k 0 keeps all. Ties at the border are
  kept, so that the result does not depend on a sort's order.
  """
  vocab = logits.shape[-1]
  ordered = jnp.sort(logits, axis=-1)[:, ::-1]
  rank = jnp.arange(vocab)
  likely = rank < jnp.where(top_k > 0, top_k, vocab)[:, None]
  mass = jax.nn.softmax(jnp.where(likely, ordered, -jnp.inf), axis=-1)
  mass = jnp.cumsum(mass, axis=-1)
  before = jnp.concatenate([jnp.zeros_like(mass[:, :1]), mass[:, :-1]], axis=-1)
  # The sum of all is 1 except for rounding, which must not decide.
  within = (before < top_p[:, None]) | (top_p[:, None] >= 1) | (rank == 0)
  kept = jnp.where(likely & within, ordered, jnp.inf)
  threshold = jnp.min(kept, axis=-1, keepdims=True)
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def _argmax(x: Float[Array, "B V"]) -> Int[Array, "B"]:
  """Returns the lowest index of each row's largest value; 0 for a row with NaN.

  Two passes that a CPU vectorises; it takes `jnp.argmax` value by value.
  """
  top = jnp.max(x, axis=-1, keepdims=True)
  vocab = x.shape[-1]
  return jnp.min(
    jnp.where(x < top, vocab, jnp.arange(vocab, dtype=jnp.int32)), axis=-1
  )


def draw(
  logits: Float[Array, "B V"],
  keys: UInt32[Array, "B 2"],
  index: Int[Array, "B"],
  temperature: Float[Array, "B"],
  allowed: Bool[Array, "V"],
  top: tuple[Float[Array, "B"], Int[Array, "B"]] | None,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
  """Draws each row's token number `index` of the stream that its key names.

  Args:
    top: (top_p, top_k), or None when no row truncates (saves the sort).

  Returns:
    Tokens, and their log-probabilities under the model itself: temperature 1,
    full vocabulary, as the trainer computes them.
  """
  logps = jax.nn.log_softmax(logits, axis=-1)
  scaled = jnp.where(allowed, logits, -jnp.inf)
  scaled = scaled / jnp.maximum(temperature, 1e-6)[:, None]
  if top is not None:
    scaled = truncate(scaled, *top)

  def drawn() -> Float[Array, "B V"]:
    noise = jax.vmap(
      lambda key, i: jax.random.gumbel(
        jax.random.fold_in(jax.random.wrap_key_data(key), i), logits.shape[-1:]
      )
    )(keys, index)
    # Greedy rows get no noise at all, so ties break towards the lowest id.
    return jnp.where(temperature[:, None] > 0, noise, 0.0)

  # Noise costs as much as a small model: none is made where all are greedy.
  noise = jax.lax.cond(
    jnp.any(temperature > 0), drawn, lambda: jnp.zeros_like(logits)
  )
  tokens = _argmax(scaled + noise)
  return tokens, jnp.take_along_axis(logps, tokens[:, None], axis=-1)[:, 0]
