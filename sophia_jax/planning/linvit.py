"""LINVIT: value iteration that is guided by a language model's prior.

The learner counts transitions, plans with an optimistic and a pessimistic
KL-regularised backup on the empirical model, and acts by the optimistic policy.
At one step of the episode, drawn uniformly, it takes the action with the widest
gap between the two instead. What it returns is the policy of the
pessimistic values.

  Q_up = clip(r + P V_up + b, 0, 1)    Q_lo = clip(r + P V_lo - b, 0, 1)
  V    = lam log sum_a p(a | s) exp(Q / lam)
  b    = bonus sqrt(log(2 S A H E / delta) / (2 n))

r and P are empirical, n the visits of a state and action, E the episodes.
arXiv 2402.16181; see docs/algorithms/linvit.md for what is reconstructed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sophia_jax.planning.backup import soft_policy, soft_value
from sophia_jax.planning.tabular import Policy, Tabular, backed_up, evaluate


@dataclasses.dataclass(frozen=True)
class LinvitConfig:
  """Settings of the tabular learner."""

  horizon: int
  """H, steps of an episode."""
  episodes: int
  """Episodes that it learns from."""
  bonus: float = 0.1
  """Factor of the exploration bonus; 1 is Hoeffding's inequality."""
  delta: float = 0.1
  """Probability with which the bounds may fail."""
  per_step: bool = False
  """Whether steps of the episode are counted apart, as where the world changes
  with time; False: all share one table of counts."""


class History(NamedTuple):
  """Course of learning, before each episode."""

  value: Float[Array, "N"]
  """True value of the policy that would be returned."""
  gap: Float[Array, "N"]
  """Optimistic less pessimistic regularised value of the start."""


class Plan(NamedTuple):
  """Values of both backups at each step."""

  upper: Float[Array, "H S A"]
  lower: Float[Array, "H S A"]
  gap: Float[Array, ""]


@functools.partial(jax.jit, static_argnums=0)
def learn(
  config: LinvitConfig,
  world: Tabular,
  prior: Policy,
  lam: Float[Array, ""] | float,
  key: PRNGKeyArray,
) -> tuple[Policy, History]:
  """Returns the policy that is learned, and how it came about.

  Args:
    prior: probabilities, 0 where an action is illegal.
    lam: coefficient of the KL; 0 is UCBVI, which takes the prior's support alone.
    key: decides the world's and the policy's chances.
  """
  copies = config.horizon if config.per_step else 1
  counts = jnp.zeros((copies, *world.successors.shape))

  def episode(counts: Array, key: PRNGKeyArray):
    plan = plan_on(config, world, prior, lam, counts)
    value = evaluate(world, soft_policy(plan.lower, prior, lam))
    visited = _explore(config, world, prior, lam, plan, key)
    return counts + visited, History(value[0, world.start], plan.gap)

  keys = jax.random.split(key, config.episodes)
  counts, history = jax.lax.scan(episode, counts, keys)
  plan = plan_on(config, world, prior, lam, counts)
  return soft_policy(plan.lower, prior, lam), history


def plan_on(
  config: LinvitConfig,
  world: Tabular,
  prior: Policy,
  lam: Float[Array, ""] | float,
  counts: Float[Array, "C S A B"],
) -> Plan:
  """Returns the values that a table of counted transitions leads to.

  Args:
    counts: of each successor; C is 1, or H with counts of each step's own.
  """
  scale = config.horizon * config.episodes / config.delta
  log = math.log(2 * world.states * world.actions * scale)
  visits = jnp.sum(counts, -1)
  probs = counts / jnp.maximum(visits, 1)[..., None]
  bonus = config.bonus * jnp.sqrt(log / (2 * jnp.maximum(visits, 1)))
  bonus = jnp.where(visits > 0, bonus, 1.0)  # nothing is known: all of [0, 1]

  def step(later: tuple[Array, Array], at: tuple[Array, Array]):
    index, prior_h = at
    upper, lower = (
      jnp.clip(
        backed_up(world, value, probs[index]) + sign * bonus[index], 0.0, 1.0
      )
      for value, sign in zip(later, (1.0, -1.0))
    )
    values = (soft_value(upper, prior_h, lam), soft_value(lower, prior_h, lam))
    return values, (upper, lower)

  zeros = jnp.zeros(world.states)
  rows = (_rows(config), prior)
  (high, low), (upper, lower) = jax.lax.scan(
    step, (zeros, zeros), rows, reverse=True
  )
  return Plan(upper, lower, high[world.start] - low[world.start])


def _explore(
  config: LinvitConfig,
  world: Tabular,
  prior: Policy,
  lam: Float[Array, ""] | float,
  plan: Plan,
  key: PRNGKeyArray,
) -> Float[Array, "C S A B"]:
  """Returns the transitions of an episode, counted."""
  policy = soft_policy(plan.upper, prior, lam)
  first, rest = jax.random.split(key)
  # One of H + 1: the last means that the whole episode follows the policy.
  turn = jax.random.randint(first, (), 0, config.horizon + 1)
  gap = jnp.where(world.legal, plan.upper - plan.lower, -jnp.inf)

  def step(state: Int[Array, ""], at: tuple[Array, Array]):
    h, key = at
    act, move = jax.random.split(key)
    drawn = jax.random.categorical(act, jnp.log(policy[h, state]))
    action = jnp.where(h == turn, jnp.argmax(gap[h, state]), drawn)
    place = jax.random.categorical(move, jnp.log(world.probs[state, action]))
    found = (state, action, place, ~world.terminal[state])
    to = world.successors[state, action, place]
    return jnp.where(world.terminal[state], state, to), found

  steps = (jnp.arange(config.horizon), jax.random.split(rest, config.horizon))
  _, (state, action, place, counted) = jax.lax.scan(step, world.start, steps)
  copies = config.horizon if config.per_step else 1
  empty = jnp.zeros((copies, *world.successors.shape))
  return empty.at[_rows(config), state, action, place].add(
    counted.astype(empty.dtype)
  )


def _rows(config: LinvitConfig) -> Int[Array, "H"]:
  """Returns the row of the counts that each step uses."""
  steps = jnp.arange(config.horizon)
  return steps if config.per_step else jnp.zeros_like(steps)
