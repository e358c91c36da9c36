"""Finite episodic worlds as arrays, and what dynamic programming says of them.

A world lists for each state and action at most B successors. An episode has H
steps; a terminal state ends it, and has value 0.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sophia_jax.planning.backup import kl, soft_policy, soft_value

Policy = Float[Array, "H S A"]
"""Probabilities of actions at each step and state."""


class Tabular(NamedTuple):
  """A finite episodic world."""

  successors: Int[Array, "S A B"]
  """States that an action may lead to."""
  probs: Float[Array, "S A B"]
  """Their probabilities; unused places have 0."""
  rewards: Float[Array, "S A B"]
  """Reward of each transition; an episode's sum lies in [0, 1]."""
  legal: Bool[Array, "S A"]
  """Whether an action may be taken; every state has one."""
  terminal: Bool[Array, "S"]
  """Whether a state ends the episode."""
  start: Int[Array, ""]
  """State that episodes begin in."""

  @property
  def states(self) -> int:
    """Number of states."""
    return self.successors.shape[0]

  @property
  def actions(self) -> int:
    """Number of actions."""
    return self.successors.shape[1]

  def uniform(self) -> Float[Array, "S A"]:
    """Returns the uniform policy over legal actions."""
    return self.legal / jnp.sum(self.legal, -1, keepdims=True)


def backed_up(
  world: Tabular, value: Float[Array, "S"], probs: Float[Array, "S A B"]
) -> Float[Array, "S A"]:
  """Returns E[r + V(s')] of every action under the given probabilities."""
  later = jnp.where(world.terminal, 0.0, value)[world.successors]
  return jnp.sum(probs * (world.rewards + later), -1)


@functools.partial(jax.jit, static_argnums=1)
def solve(
  world: Tabular, horizon: int, prior: Policy, lam: Float[Array, ""] | float
) -> tuple[Float[Array, "H S A"], Float[Array, "H S"], Policy]:
  """Returns Q, V and the policy of regularised value iteration.

  Args:
    horizon: H.
    prior: probabilities, 0 where an action is illegal.
    lam: coefficient of the KL, 0 to inf.
  """

  def step(later: Float[Array, "S"], prior_h: Float[Array, "S A"]):
    q = backed_up(world, later, world.probs)
    value = soft_value(q, prior_h, lam)
    return value, (q, value, soft_policy(q, prior_h, lam))

  assert prior.shape[0] == horizon
  _, found = jax.lax.scan(step, jnp.zeros(world.states), prior, reverse=True)
  return found


@jax.jit
def evaluate(world: Tabular, policy: Policy) -> Float[Array, "H S"]:
  """Returns the value of a policy at each step and state."""

  def step(later: Float[Array, "S"], policy_h: Float[Array, "S A"]):
    value = jnp.sum(policy_h * backed_up(world, later, world.probs), -1)
    return value, value

  return jax.lax.scan(step, jnp.zeros(world.states), policy, reverse=True)[1]


@jax.jit
def path_kl(world: Tabular, policy: Policy, prior: Policy) -> Float[Array, ""]:
  """Returns the KL of an episode, KL_H: the sum over its steps, nats.

  KL_H(pi || p) = E_pi sum_h KL(pi_h(. | s_h) || p_h(. | s_h))
  """

  def step(later: Float[Array, "S"], both: tuple[Array, Array]):
    policy_h, prior_h = both
    ahead = _ahead(world, later)
    taken = policy_h > 0
    total = kl(policy_h, prior_h) + jnp.sum(
      jnp.where(taken, policy_h * ahead, 0.0), -1
    )
    return total, None

  zeros = jnp.zeros(world.states)
  total, _ = jax.lax.scan(step, zeros, (policy, prior), reverse=True)
  return total[world.start]


def nearest_optimal(
  world: Tabular, horizon: int, prior: Policy, tolerance: float = 1e-5
) -> tuple[Policy, Float[Array, ""]]:
  """Returns the optimal policy nearest to a prior, and its KL_H.

  Among the actions whose value is within `tolerance` of the best, it minimises
  KL_H: another soft backup, with the KL that is left as negative value.
  """
  everywhere = jnp.broadcast_to(world.uniform(), prior.shape)
  q, value, _ = solve(world, horizon, everywhere, 0.0)
  best = world.legal & (q >= value[..., None] - tolerance)

  def step(later: Float[Array, "S"], both: tuple[Array, Array]):
    prior_h, best_h = both
    # A prior that excludes every optimum still has a nearest one.
    log_prior = jnp.log(jnp.maximum(prior_h, jnp.finfo(prior_h.dtype).tiny))
    logits = jnp.where(best_h, log_prior - _ahead(world, later), -jnp.inf)
    policy_h = jax.nn.softmax(logits, -1)
    return -jax.nn.logsumexp(logits, -1), policy_h

  zeros = jnp.zeros(world.states)
  _, policy = jax.lax.scan(step, zeros, (prior, best), reverse=True)
  return policy, path_kl(world, policy, prior)


def _ahead(world: Tabular, later: Float[Array, "S"]) -> Float[Array, "S A"]:
  """Returns the expected value of the next state; inf may be unreachable."""
  values = jnp.where(world.terminal, 0.0, later)[world.successors]
  return jnp.sum(jnp.where(world.probs > 0, world.probs * values, 0.0), -1)


def suggested_lam(epsilon: float, divergence: float) -> float:
  """Returns the coefficient that costs an optimal policy at most epsilon / 2.

  V_lam >= V^pi - lam KL_H(pi || prior) for every pi, so lam = epsilon / (2 KL_H)
  will do; inf where the prior is optimal itself, 0 where it excludes every
  optimal policy.
  """
  return epsilon / (2 * divergence) if divergence > 0 else float("inf")
