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


def shifts_seen(moment: Moment) -> float:
  """Returns how many means `running_shift` is the mean of."""
  before = moment.metrics.get("shift_seen", 0.0)
  return before + (REWARD in moment.metrics)


def running_shift(moment: Moment) -> float:
  """Returns BCO's D: the mean over the metrics so far of beta h over responses.

    D_{s+1} = (s D_s + mean of beta h) / (s + 1),   D_0 = 0

  All of it is in the metrics, so a resumed run continues the same mean.
  """
  m = moment.metrics
  past = m.get("shift_seen", 0.0) * m.get("shift", 0.0)
  return (past + m.get(REWARD, 0.0)) / max(shifts_seen(moment), 1.0)


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
      diagnostics.stream("shift", "shift", weights="answer"),
      diagnostics.stream("shift_seen", "shift_seen", weights="answer"),
    ),
    numbers={"shift": running_shift, "shift_seen": shifts_seen},
  )
