"""Advantages: of a group's rewards (host, numpy), of tokens (GAE)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Advantage = Callable[..., Float[np.ndarray, "G"]]
"""Rewards of a group -> advantages of its rollouts."""

EPSILON = 1e-6
"""Added to a standard deviation before the division."""


def raw(rewards: Float[np.ndarray, "G"]) -> Float[np.ndarray, "G"]:
  """Returns the rewards themselves."""
  return rewards


def centred(
  rewards: Float[np.ndarray, "G"], own: Bool[np.ndarray, "G"] | None = None
) -> Float[np.ndarray, "G"]:
  """Returns R - mean(R) (Dr.GRPO, arXiv 2503.20783).

  Args:
    own: rollouts that the mean is of; None: all.
  """
  return rewards - np.mean(rewards if own is None else rewards[own])


def normalised(
  rewards: Float[np.ndarray, "G"],
  own: Bool[np.ndarray, "G"] | None = None,
  epsilon: float = EPSILON,
) -> Float[np.ndarray, "G"]:
  """Returns (R - mean(R)) / (std(R) + epsilon) (GRPO, arXiv 2402.03300).

  The deviation is the unbiased one (n - 1), as in verl and TRL; the paper does
  not say. A group of one keeps its reward: mean 0, deviation 1, as in verl.

  Args:
    own: rollouts that mean and deviation are of; None: all.
    epsilon: added to the deviation.
  """
  base = rewards if own is None else rewards[own]
  if len(base) < 2:
    return rewards / (1.0 + epsilon)
  return centred(rewards, own) / (np.std(base, ddof=1) + epsilon)


def leave_one_out(rewards: Float[np.ndarray, "G"]) -> Float[np.ndarray, "G"]:
  """Returns R_i minus the mean of the others (RLOO, arXiv 2402.14740).

  A group of one has no others and keeps its reward.
  """
  n = len(rewards)
  return rewards if n < 2 else centred(rewards) * (n / (n - 1))


@functools.partial(jax.jit, static_argnames=("gamma", "lam"))
def gae(
  rewards: Float[Array, "B T"],
  values: Float[Array, "B T"],
  mask: Float[Array, "B T"],
  segment_ids: Int[Array, "B T"],
  gamma: float,
  lam: float,
) -> Float[Array, "B T"]:
  """Returns generalised advantages (arXiv 1506.02438, Eq. 16) over packed rows.

    delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1}

  t+1 is the next masked token of the segment; the last one has neither value
  nor advantage after it. Tokens outside the mask carry both through and get 0.
  """
  ends = segment_ids != jnp.pad(
    segment_ids[:, 1:], ((0, 0), (0, 1)), constant_values=-1
  )

  def back(after: tuple[Array, Array], now: tuple[Array, ...]):
    r, v, m, end = now
    next_v, next_a = (jnp.where(end, 0.0, x) for x in after)
    a = r + gamma * next_v - v + gamma * lam * next_a
    kept = jnp.where(m > 0, v, next_v), jnp.where(m > 0, a, next_a)
    return kept, jnp.where(m > 0, a, 0.0)

  zero = jnp.zeros(rewards.shape[0], rewards.dtype)
  columns = (rewards.T, values.T, mask.T, ends.T)
  return jax.lax.scan(back, (zero, zero), columns, reverse=True)[1].T


def bilevel(
  rewards: Float[Array, "B T"],
  values: Float[Array, "B T"],
  mask: Float[Array, "B T"],
  ends: Float[Array, "B T"],
  segment_ids: Int[Array, "B T"],
  turns: tuple[float, float],
  tokens: tuple[float, float],
) -> Float[Array, "B T"]:
  """Returns advantages of turns first, then of the tokens in them (the bi-level
  GAE of RAGEN's code, arXiv 2504.20073).

    G_k = V_k + A_k       A_k of `gae` over the last tokens of the turns alone
    A_t of `gae` inside turn k, where the last token is paid G_k

  Turns end where `ends` says so, not where a reward is: a turn that earned 0 is
  a turn. Tokens outside the mask get 0.

  Args:
    ends: 1 on the last learnt token of each turn.
    turns: (gamma, lambda) from turn to turn.
    tokens: (gamma, lambda) from token to token.
  """
  across = gae(rewards, values, ends, segment_ids, *turns)
  paid = jnp.where(ends > 0, values + across, 0.0)
  before = jnp.cumsum(ends, axis=1) - ends
  ids = segment_ids + (segment_ids.shape[1] + 1) * before.astype(jnp.int32)
  return gae(paid, values, mask, ids, *tokens)
