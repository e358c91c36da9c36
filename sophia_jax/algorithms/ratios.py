"""Importance ratios of sampled tokens: (logps, batch) -> [B, T].

Log-ratios are clamped to +-20, beyond which a ratio has left fp32's useful
range and every clip; there the gradient is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sophia_jax.algorithms import segments
from sophia_jax.types import Batch

Ratio = Callable[[Float[Array, "B T"], Batch], Float[Array, "B T"]]

LIMIT = 20.0
"""Largest absolute log-ratio."""

stop = jax.lax.stop_gradient


def bounded(
  log_ratio: Float[Array, "B T"], limit: float = LIMIT
) -> Float[Array, "B T"]:
  """Returns the log-ratio within +-limit."""
  return jnp.clip(log_ratio, -limit, limit)


def one(logps: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
  """Returns 1, with the gradient of log pi.

  For one update on fresh samples, and where the sampler is not known.
  """
  del batch
  return jnp.exp(logps - stop(logps))


def token(logps: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
  """Returns pi / pi_old token by token (PPO, GRPO); reads "old_logps"."""
  return jnp.exp(bounded(logps - batch.streams["old_logps"]))


def sequence(logps: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
  """Returns the geometric mean of pi / pi_old over the sequence.

    s_it = sg[s_i] pi_t / sg[pi_t],  s_i = exp(1/|y_i| sum_t log pi_t/pi_old,t)

  The token form of GSPO (arXiv 2507.18071, section 4.3): the gradient of s_i is
  spread evenly over its tokens. Reads "old_logps" and "mask".
  """
  log_ratio = logps - batch.streams["old_logps"]
  mean = segments.mean(log_ratio, batch.streams["mask"], batch.segment_ids)
  return jnp.exp(bounded(stop(mean)) + logps - stop(logps))


def mixture(uniform: float) -> Ratio:
  """Returns the ratio to a mixture of behaviour policies of RL-PLUS.

    2 pi / (pi_omega + pi_old),  pi_omega = (pi_old + U) / 2

  arXiv 2508.00222. For tokens that another model wrote, whose own
  probabilities are not known. Reads "old_logps".

  Args:
    uniform: probability U of a token under the unknown part.
  """

  def ratio(logps: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
    old = jnp.exp(batch.streams["old_logps"])
    return 2 * jnp.exp(logps) / ((old + uniform) / 2 + old)

  return ratio


def focal(ratio: Ratio, gamma: float) -> Ratio:
  """Returns the ratio times (1 - sg pi)^gamma: RL-PLUS's exploration advantage.

  arXiv 2508.00222. Tokens that the policy hardly knows keep their weight, those
  it is sure of lose it. In fp32; no gradient flows through the factor.
  """

  def weighted(logps: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
    # Rounding may put a log-probability above 0.
    unsure = jnp.maximum(-jnp.expm1(stop(logps).astype(jnp.float32)), 0.0)
    return unsure**gamma * ratio(logps, batch)

  return weighted


def by_source(own: Ratio, external: Ratio) -> Ratio:
  """Returns the ratio `own` on tokens of the policy, `external` on others.

  Reads "source", which is above 0 on tokens that another model wrote.
  """

  def ratio(logps: Float[Array, "B T"], batch: Batch) -> Float[Array, "B T"]:
    return jnp.where(
      batch.streams["source"] > 0, external(logps, batch), own(logps, batch)
    )

  return ratio
