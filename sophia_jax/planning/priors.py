"""Priors over actions: a language model's, and those of known distance from the
optimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sophia_jax.planning.tabular import Policy, Tabular, solve


def over_time(prior: Float[Array, "S A"], horizon: int) -> Policy:
  """Returns a prior that is the same at each step."""
  return jnp.broadcast_to(prior, (horizon, *prior.shape))


def uniform(world: Tabular, horizon: int) -> Policy:
  """Returns the uniform prior over legal actions."""
  return over_time(world.uniform(), horizon)


def near_optimal(world: Tabular, horizon: int, rho: float) -> Policy:
  """Returns (1 - rho) pi* + rho uniform; of several optima the first action's."""
  q, _, _ = solve(world, horizon, uniform(world, horizon), 0.0)
  return _mixed(world, q, rho)


def adversarial(world: Tabular, horizon: int, rho: float) -> Policy:
  """Returns (1 - rho) on the worst legal action + rho uniform."""
  q, _, _ = solve(world, horizon, uniform(world, horizon), 0.0)
  return _mixed(world, -q, rho)


def _mixed(world: Tabular, q: Float[Array, "H S A"], rho: float) -> Policy:
  best = jnp.argmax(jnp.where(world.legal, q, -jnp.inf), -1)
  chosen = jax.nn.one_hot(best, world.actions)
  return (1 - rho) * chosen + rho * world.uniform()


def from_logps(
  logps: Float[np.ndarray, "S A"],
  world: Tabular,
  temperature: float = 1.0,
  floor: float = 1e-3,
) -> Float[Array, "S A"]:
  """Returns the softmax of a model's log-likelihoods over the legal actions.

  Args:
    logps: log-likelihood of each action's text after the text of each state;
      -inf, or NaN, is no preference for it.
    temperature: above 1 flattens.
    floor: share of the uniform policy, which keeps every legal action possible.
  """
  scores = jnp.where(jnp.isnan(logps), -jnp.inf, jnp.asarray(logps))
  scores = jnp.where(world.legal, scores / temperature, -jnp.inf)
  none = jnp.all(jnp.isneginf(scores), -1, keepdims=True)
  softmax = jax.nn.softmax(jnp.where(none, 0.0, scores), -1)
  model = jnp.where(none, world.uniform(), softmax)
  return (1 - floor) * model + floor * world.uniform()
