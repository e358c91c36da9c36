"""MPO: preference, quality and generation in one loss (arXiv 2411.10442)."""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import diagnostics, dpo, losses
from sophia_jax.algorithms.contract import Algorithm, Moment, Term, constant

REWARD = "implicit_reward"
"""Name of the metric that BCO's shift is the running mean of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(dpo.Config):
  """Mixed preference optimisation."""

  preference: float = 0.8
  """Coefficient of DPO: which of the two is better."""
  quality: float = 0.2
  """Coefficient of BCO: whether each is better than the average."""
  generation: float = 1.0
  """Coefficient of the likelihood of the chosen response."""


def running_shift(moment: Moment) -> float:
  """Returns BCO's D: the mean of beta h over the responses of all updates so far.

  D_s = ((s - 1) D_{s-1} + mean of update s - 1) / s,   D_0 = 0
  """
  before = moment.metrics.get("shift", 0.0) * max(moment.step - 1, 0)
  return (before + moment.metrics.get(REWARD, 0.0)) / max(moment.step, 1)


def mpo(c: Config) -> Algorithm:
  """Builds preference DPO + quality BCO + generation NLL, a mean over pairs."""
  per_pair = {"normaliser": "pair"}
  reward = losses.implicit_reward(c.beta)
  plain = dpo.dpo(c, "mpo")
  terms = (
    Term(
      "preference",
      losses.preference(c.beta),
      constant(c.preference),
      weights="pair",
      **per_pair,
    ),
    Term(
      "quality",
      losses.quality(c.beta),
      constant(c.quality),
      weights="answer",
      **per_pair,
    ),
    Term(
      "generation",
      losses.nll,
      constant(c.generation),
      weights="chosen",
      **per_pair,
    ),
  )
  return dataclasses.replace(
    plain,
    terms=terms,
    metrics=(
      *plain.metrics,
      diagnostics.mean(REWARD, reward, weights="answer"),
    ),
    numbers={"shift": running_shift},
  )
