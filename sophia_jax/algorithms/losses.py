"""Losses per token: (Forward, Batch) -> [B, T]; pure, without a branch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sophia_jax.algorithms import segments
from sophia_jax.algorithms.contract import Forward, Loss
from sophia_jax.algorithms.ratios import LIMIT, Ratio, bounded
from sophia_jax.types import Batch, SophiaError

stop = jax.lax.stop_gradient


# ------------------------------------------------------------------- likelihood
def nll(out: Forward, batch: Batch) -> Float[Array, "B T"]:
  """Returns the negative log-likelihood -log pi(y_t | y_<t, x, v)."""
  del batch
  return -out.logps


def nll_of_view(view: str) -> Loss:
  """Returns the negative log-likelihood under a view of `Algorithm.views`."""
  return lambda out, batch: -out.views[view]


# ------------------------------------------------------------- policy gradients
def reinforce(out: Forward, batch: Batch) -> Float[Array, "B T"]:
  """Returns -A log pi; reads "advantages".

  REINFORCE on fresh samples, and SOPHIA's Eq. 7 (arXiv 2507.16814), where A is
  the trajectory's reward: the ratio pi/mu is taken as 1, and Lemma A.3 bounds
  the bias by delta when |pi/mu - 1| <= delta on the rewarded set.
  """
  return -batch.streams["advantages"] * out.logps


def weighted(ratio: Ratio) -> Loss:
  """Returns -rho A, not clipped; reads "advantages".

  With `ratios.one` its gradient is that of `reinforce`.
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    return -ratio(out.logps, batch) * batch.streams["advantages"]

  return loss


def surrogate(
  ratio: Ratio, low: float, high: float, dual: float = math.inf
) -> Loss:
  """Returns PPO's clipped surrogate (arXiv 1707.06347, Eq. 7).

    -min(rho A, clip(rho, 1 - low, 1 + high) A),  for A < 0 at most dual |A|

  The dual clip is arXiv 1912.09729's. Reads "advantages".

  Args:
    low: distance of the lower bound of rho from 1.
    high: distance of the upper bound.
    dual: bound of the loss where A < 0, in |A|; above 1. inf: off.
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    rho, a = ratio(out.logps, batch), batch.streams["advantages"]
    least = jnp.minimum(rho * a, jnp.clip(rho, 1 - low, 1 + high) * a)
    # Where A >= 0 the least is not negative: no bound.
    return -jnp.maximum(least, dual * jnp.where(a < 0, a, -1.0))

  return loss


def by_source(own: Loss, external: Loss) -> Loss:
  """Returns the loss `own` on tokens of the policy, `external` on others.

  Reads "source", which is above 0 on tokens that another model wrote.
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    others = batch.streams["source"] > 0
    return jnp.where(others, external(out, batch), own(out, batch))

  return loss


def capped(ratio: Ratio, high: float) -> Loss:
  """Returns CISPO's loss (arXiv 2506.13585, Eq. 4): the weight is clipped, the
  gradient is not.

    -sg[min(rho, 1 + high)] A log pi

  Reads "advantages".
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    weight = stop(jnp.minimum(ratio(out.logps, batch), 1 + high))
    return -weight * batch.streams["advantages"] * out.logps

  return loss


# ----------------------------------------------------------------- regularisers
def kl_to(
  stream: str,
  estimator: str = "k3",
  most: float = math.inf,
  limit: float = LIMIT,
) -> Loss:
  """Returns an estimate of KL(pi || other) on tokens that pi sampled.

  With d = log other - log pi, k2 = d^2 / 2 and k3 = exp(d) - d - 1 (Schulman
  2020; GRPO, arXiv 2402.03300, Eq. 4). d is clamped to +-limit.

  Args:
    stream: the other's log-probabilities.
    estimator: a key of LOSS_ESTIMATORS.
    most: bound of the estimate of a token, beyond which it has no gradient.
    limit: largest absolute d, beyond which it has no gradient either.

  Raises:
    SophiaError: the estimator is unknown, or k1, which is no loss.
  """
  if estimator not in LOSS_ESTIMATORS:
    raise SophiaError(
      f"kl_estimator: {estimator!r} is not a loss"
      f"{_REASONS.get(estimator, '')}; use one of {', '.join(LOSS_ESTIMATORS)}"
    )
  estimate = LOSS_ESTIMATORS[estimator]

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    d = bounded(batch.streams[stream] - out.logps, limit)
    return jnp.minimum(estimate(d), most)

  return loss


def kl_to_view(view: str, most: float = math.inf) -> Loss:
  """Returns `kl_to` a view of `Algorithm.views`, which has a gradient, too."""

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    del batch
    d = bounded(out.views[view] - out.logps)
    return jnp.minimum(LOSS_ESTIMATORS["k3"](d), most)

  return loss


LOSS_ESTIMATORS = {
  "k2": lambda d: d**2 / 2,
  "k3": lambda d: jnp.exp(d) - d - 1,
}
_REASONS = {"k1": ", its gradient has mean 0 on the policy's own samples"}


def negative_entropy(out: Forward, batch: Batch) -> Float[Array, "B T"]:
  """Returns -H of the next-token distribution, nats; needs output "entropy"."""
  del batch
  assert out.entropy is not None
  return -out.entropy


# ----------------------------------------------------------------------- critic
def value(clip: float) -> Loss:
  """Returns half the squared error of the value, clipped about the old value.

    1/2 max((V - R)^2, (clip(V, V_old +- clip) - R)^2)

  Reads "values" (V_old) and "returns" (R); needs head "value".
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    new = out.heads["value"][..., 0]
    old, want = batch.streams["values"], batch.streams["returns"]
    near = old + jnp.clip(new - old, -clip, clip)
    return jnp.maximum((new - want) ** 2, (near - want) ** 2) / 2

  return loss


# ---------------------------------------------------------------------- classes
def classes(head: str, stream: str) -> Loss:
  """Returns the cross-entropy -log p(class) of a head's classes.

  Args:
    head: name of the head.
    stream: the class of each token, counted from 0.
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    logps = jax.nn.log_softmax(out.heads[head], axis=-1)
    wanted = batch.streams[stream].astype(jnp.int32)
    return -jnp.take_along_axis(logps, wanted[..., None], axis=-1)[..., 0]

  return loss


# ------------------------------------------------------------------ preferences
def preference(beta: float) -> Loss:
  """Returns DPO's loss of a pair at each token (arXiv 2305.18290, Eq. 7).

    -log sigmoid(beta (h_chosen - h_rejected)),  h = sum_t log pi_t / pi_ref,t

  The two sequences of a pair share a bundle; "sign" is 1 on tokens of the
  chosen response, -1 on those of the rejected one and 0 elsewhere. Reads
  "ref_logps".
  """

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    h = batch.streams["sign"] * (out.logps - batch.streams["ref_logps"])
    return jax.nn.softplus(-beta * segments.total(h, batch.bundle_ids))

  return loss


def implicit_reward(beta: float) -> Loss:
  """Returns beta h of the sequence at each of its tokens; see `preference`."""

  def reward(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    h = batch.streams["mask"] * (out.logps - batch.streams["ref_logps"])
    return beta * segments.total(h, batch.segment_ids)

  return reward


def quality(beta: float) -> Loss:
  """Returns BCO's loss of a sequence (arXiv 2404.04656) at each of its tokens.

    -log sigmoid(+-(beta h - D)),  + for chosen, - for rejected

  Reads "ref_logps", "mask", "sign" and the number "shift" (D).
  """
  reward = implicit_reward(beta)

  def loss(out: Forward, batch: Batch) -> Float[Array, "B T"]:
    above = reward(out, batch) - batch.streams["shift"]
    return jax.nn.softplus(-batch.streams["sign"] * above)

  return loss
