"""The KL-regularised backup, and the policy that attains it.

With coefficient lam and prior p(a | s),

  V(s) = max_pi <pi, Q(s, .)> - lam KL(pi || p) = lam log sum_a p(a | s) exp(Q(s, a) / lam)
  pi(a | s) = p(a | s) exp((Q(s, a) - V(s)) / lam)

lam = 0 is the hard maximum over the prior's support, lam = inf the prior's mean.
Actions of probability 0 under the prior are never taken: that is how illegal
ones are masked.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def soft_value(
  q: Float[Array, "*S A"],
  prior: Float[Array, "*S A"],
  lam: Float[Array, ""] | float,
) -> Float[Array, "*S"]:
  """Returns V of the module's equation for each state.

  Args:
    q: values of actions.
    prior: probabilities; each row sums to 1.
    lam: the coefficient, 0 to inf.
  """
  lam = jnp.asarray(lam, q.dtype)
  best, scaled, z = _scaled(q, prior, lam)
  near = jnp.log1p(jnp.sum(prior * jnp.expm1(z), -1))
  far = jax.nn.logsumexp(z, -1, b=prior)
  # Near 0 the logarithm of a sum loses what expm1 and log1p keep.
  soft = best + scaled * jnp.where(jnp.all(z > -1, -1), near, far)
  mean = jnp.sum(prior * q, -1)
  return jnp.where(lam == 0, best, jnp.where(jnp.isinf(lam), mean, soft))


def soft_policy(
  q: Float[Array, "*S A"],
  prior: Float[Array, "*S A"],
  lam: Float[Array, ""] | float,
) -> Float[Array, "*S A"]:
  """Returns pi of the module's equation; ties of lam = 0 follow the prior.

  Args as for `soft_value`.
  """
  lam = jnp.asarray(lam, q.dtype)
  best, _, z = _scaled(q, prior, lam)
  tied = prior * (q >= best[..., None])
  tilted = prior * jnp.exp(z)
  chosen = jnp.where(lam == 0, tied, jnp.where(jnp.isinf(lam), prior, tilted))
  return chosen / jnp.sum(chosen, -1, keepdims=True)


def _scaled(
  q: Float[Array, "*S A"], prior: Float[Array, "*S A"], lam: Float[Array, ""]
) -> tuple[Float[Array, "*S"], Float[Array, ""], Float[Array, "*S A"]]:
  """Returns the best value, a finite positive lam, and (Q - best) / lam."""
  best = jnp.max(jnp.where(prior > 0, q, -jnp.inf), -1)
  finite = jnp.where((lam > 0) & jnp.isfinite(lam), lam, 1.0)
  z = jnp.where(prior > 0, (q - best[..., None]) / finite, 0.0)
  return best, finite, z


def kl(
  policy: Float[Array, "*S A"], prior: Float[Array, "*S A"]
) -> Float[Array, "*S"]:
  """Returns KL(policy || prior), nats; inf where the prior excludes an action."""
  taken = policy > 0
  ratio = jnp.log(jnp.where(taken, policy, 1.0)) - jnp.log(
    jnp.where(taken, prior, 1.0)
  )
  return jnp.sum(jnp.where(taken, policy * ratio, 0.0), -1)
