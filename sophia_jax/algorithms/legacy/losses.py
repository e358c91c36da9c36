"""Per-token losses: pure functions of log-probabilities and streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Array, Float

Streams = Mapping[str, Float[Array, "B T"]]


class Term(NamedTuple):
  """A term of the objective: sum_t w_t loss_t / sum_t n_t over the whole step.

  `weights` (w) and `normaliser` (n) name streams. n is summed over every row of
  every microbatch on every device before the division, so the value depends on
  neither packing, accumulation nor mesh.
  """

  name: str
  loss: Callable[[Float[Array, "B T"], Streams], Float[Array, "B T"]]
  weights: str = "weights"
  normaliser: str = "count"


def policy_gradient(
  logps: Float[Array, "B T"], streams: Streams
) -> Float[Array, "B T"]:
  """Off-policy policy gradient with the importance ratio taken as 1.

    L_t = -A_t log pi(y_t | y_<t, x, v)          (arXiv 2507.16814, Eq. 7)

  where A is the trajectory's reward. The ratio pi/mu is 1 because the reasoner
  has no log-probabilities in the policy's vocabulary; Lemma A.3 bounds the bias
  by delta when |pi/mu - 1| <= delta on the rewarded set.
  """
  return -streams["advantages"] * logps


def cross_entropy(
  logps: Float[Array, "B T"], streams: Streams
) -> Float[Array, "B T"]:
  """Negative log-likelihood: L_t = -log pi(y_t | y_<t, x, v)."""
  del streams
  return -logps
