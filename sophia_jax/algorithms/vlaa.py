"""VLAA-Thinker: GRPO on rewards of five kinds, with an adaptive KL.

arXiv 2504.11468, Section 4. Answers are digits, options, formulas, boxes or open
texts; the coefficient of the KL follows a target.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import diagnostics, grpo, routing
from sophia_jax.algorithms.contract import (
  Algorithm,
  Coefficient,
  Moment,
  Term,
)
from sophia_jax.types import SophiaError

COEFFICIENT = "kl_coefficient"
"""Name of the number, and of the metric that carries it to the next round."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
  """GRPO with mixed rewards and an adaptive KL."""

  n: int = 4
  """Rollouts of a problem."""
  kl: float = 1e-3
  """Coefficient of the KL to the reference in the first round."""
  kl_target: float = 5e-4
  """KL that the coefficient steers to, nats a token; 0: a fixed coefficient."""
  kl_horizon: float = 10000.0
  """Samples over which an error of 100 % would double the coefficient."""
  beta: float = 1.0
  """Slope of an open-ended answer's reward above the reference's score."""

  def __post_init__(self) -> None:
    if self.kl_target and not self.kl:
      raise SophiaError(
        "vlaa.kl: 0 with a kl_target stays 0; set kl above 0, or kl_target=0"
      )
    if self.kl_target < 0 or self.kl_horizon <= 0 or self.beta <= 0:
      raise SophiaError(
        f"vlaa: kl_target={self.kl_target}, kl_horizon={self.kl_horizon}, "
        f"beta={self.beta}: use kl_target from 0, the others above 0"
      )


def adaptive(c: Config) -> Coefficient:
  """Returns the coefficient that follows the KL (arXiv 1909.08593, Section 2.2).

    e = clip(KL / target - 1, -0.2, 0.2),   k <- k (1 + e samples / horizon)

  All of it is in the metrics of the round before, so a resumed run continues the
  same sequence.
  """

  def coefficient(moment: Moment) -> float:
    m = moment.metrics
    now = m.get(COEFFICIENT, c.kl)
    if not c.kl_target or diagnostics.KL not in m:
      return now
    error = min(max(m[diagnostics.KL] / c.kl_target - 1, -0.2), 0.2)
    samples = m.get("training/filter_groups/sampled", 0.0) * c.n
    return now * (1 + error * samples / c.kl_horizon)

  return coefficient


def vlaa(c: Config) -> Algorithm:
  """Builds GRPO on routed rewards, its KL weighted by the controller."""
  plain = grpo.grpo(c, "vlaa")
  assert plain.sample is not None
  follow = adaptive(c)

  def steered(term: Term) -> Term:
    is_kl = term.name == diagnostics.KL
    return term._replace(coefficient=follow) if is_kl else term

  return dataclasses.replace(
    plain,
    sample=routing.routed(plain.sample),
    roles=("policy", routing.SCORER),
    reward=routing.by_type(c.beta),
    terms=tuple(map(steered, plain.terms)),
    metrics=(
      *plain.metrics,
      diagnostics.stream(COEFFICIENT, COEFFICIENT),
    ),
    numbers={COEFFICIENT: follow},
  )
